"""The command line of settings: ``fastadv train | evaluate | transfer | compare | corruptions | features | ...``."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jsonargparse
import torch

from ._version import __version__
from .commands import (
    ATTACK,
    DATA,
    FILES,
    NETWORK,
    RUN,
    SETTINGS,
    SPEED,
    TEST,
    TRAINING,
    BenchTest,
    Comparison,
    Conduct,
    CorruptionTest,
    CrossTest,
    Data,
    Diagnosis,
    Group,
    LandingTest,
    Parser,
    PatchTest,
    Reproduction,
    Testing,
    Training,
    UniversalTest,
    broken,
    compare,
    completion,
    diagnose,
    evaluate_model,
    find_universal,
    joined,
    land,
    launched,
    list_recipes,
    make_patch,
    measure_corruptions,
    report_runs,
    reproduce,
    run_bench,
    run_crosscheck,
    said_aloud,
    stopped_by,
    train,
    transfer_between,
    trusting,
    verify_samples,
)
from .info import doctor
from .memory import keep_freed_memory
from .trainers import METHODS, Stopped

MODEL = "a run folder or its checkpoint, package.module:function, or a TorchScript or torch.export (.pt2) file"
RUN_FOLDER = "a run folder, or the checkpoint in it"
NEW = "new folder for tables and figures."

Fill = Callable[[Parser], None]


def parser() -> Parser:
    """The command line: every method's options from its own fields, made when its command is chosen."""
    about = "Adversarial training and robustness evaluation on fused kernels."
    main = Parser(prog="fastadv", description=about, version=__version__)
    commands = main.add_subcommands(dest="command", metavar="COMMAND")
    main.examples = ["fastadv train pgd", "fastadv evaluate runs/pgd", "fastadv compare standard pgd trades"]

    def add(to: Any, name: str, help: str, *settings: type, config: bool = True) -> Callable[[Fill], None]:
        """Decorates what adds the arguments of a command to its parser, after those of its `settings`."""

        def adds(more: Fill) -> None:
            def fill(sub: Parser) -> None:
                if config:
                    sub.add_argument("--config", action="config", help="a YAML file with any of these settings")
                for setting in settings:
                    sub.add_class_arguments(setting)
                more(sub)

            to.add_subcommand(name, Parser(description=help, fill=fill), help=help)

        return adds

    @add(commands, "train", "Train a network by one method and evaluate it.", config=False)
    def _(train: Parser) -> None:
        train.examples = ["fastadv train pgd --epochs 20", "fastadv train trades --data cifar10 --model resnet18"]
        methods = train.add_subcommands(dest="method", metavar="METHOD")
        for name, method in METHODS.items():
            about = (method.__doc__ or name).splitlines()[0]
            add(methods, name, about, method, Training)(functools.partial(_train_arguments, name))

    @add(commands, "evaluate", "Measure the robustness of a trained network.", Data, Testing, Conduct)
    def _(sub: Parser) -> None:
        sub.set_defaults(data=None)
        sub.add_argument("checkpoint", type=str, help=MODEL)
        conduct = Group(
            "Evaluation",
            "out sweep steps certify transfer_from checks anytime save_samples",
            "sigma draws samples_as resume memory_format",
        )
        sub.arrange(
            [ATTACK, DATA, conduct, SETTINGS],
            [
                "fastadv evaluate runs/pgd --out results/pgd",
                "fastadv evaluate runs/pgd --attacks autoattack --eps 8/255 --limit 0",
                "fastadv evaluate my_package.models:build --data cifar10",
            ],
        )

    @add(commands, "verify", "Check what was claimed of saved adversarial samples.", config=False)
    def _(sub: Parser) -> None:
        sub.add_argument("folder", type=str, help="the --save-samples of an evaluation")
        sub.add_argument("--model", type=str, required=True, help=MODEL)
        sub.add_argument("--device", type=str, default="auto", help="where to compute: cpu, cuda, cuda:1 ... or auto.")
        sub.add_argument(
            "--at_once", type=int, default=500, help="samples at a time. It changes memory and speed only."
        )
        sub.arrange([Group("Model", "model device", "at_once")], ["fastadv verify samples --model runs/pgd"])

    @add(commands, "transfer", "Test every network on the samples made on each of the others.", Data, Testing)
    def _(sub: Parser) -> None:
        sub.set_defaults(data=None)
        sub.add_argument("models", type=str, nargs="+", help=MODEL)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [ATTACK, DATA, RUN, SETTINGS],
            ["fastadv transfer runs/pgd runs/trades --attacks pgd,square --out transfer"],
        )

    @add(commands, "attackbench", "Rank attacks, of other libraries too, by AttackBench's protocol.", BenchTest)
    def _(sub: Parser) -> None:
        sub.add_argument("models", type=str, nargs="+", help=MODEL)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [Group("Benchmark", "norms attacks libraries queries limit", "at_once seed"), DATA, RUN, SETTINGS],
            [
                "fastadv attackbench runs/pgd --out bench",
                "fastadv attackbench runs/pgd runs/trades --norms l2 --attacks ddn,cw --libraries adv-lib --out bench",
            ],
        )

    @add(commands, "crosscheck", "Run the same attacks in other libraries, and say where they differ.", CrossTest)
    def _(sub: Parser) -> None:
        sub.add_argument("checkpoint", type=str, help=MODEL)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [Group("Attacks", "attacks libraries eps eps_l2 limit", "at_once seed"), DATA, RUN, SETTINGS],
            [
                "fastadv crosscheck runs/pgd --out crosscheck",
                "fastadv crosscheck runs/pgd --attacks pgd,deepfool --libraries foolbox --out crosscheck",
            ],
        )

    @add(commands, "features", "Draw the outputs of layers for natural and adversarial samples.", Data, Diagnosis)
    def _(sub: Parser) -> None:
        sub.set_defaults(data=None)
        sub.add_argument("checkpoint", type=str, help=RUN_FOLDER)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [
                Group("Layers and samples", "layers classes reduction limit", "at_once"),
                Group("Attack", "eps steps tau", "alpha"),
                DATA,
                RUN,
                SETTINGS,
            ],
            ["fastadv features runs/pgd --classes 0,1,2 --reduction pca --out features"],
        )

    @add(commands, "corruptions", "Measure accuracy under common corruptions of images.", CorruptionTest)
    def _(sub: Parser) -> None:
        sub.add_argument("checkpoint", type=str, help=RUN_FOLDER)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [Group("Corruptions", "corruptions severities limit seed", "at_once"), DATA, RUN, SETTINGS],
            [
                "fastadv corruptions runs/pgd --out results/corruptions",
                "fastadv corruptions runs/pgd --corruptions fog,snow --severities 1,3 --out new",
            ],
        )

    @add(commands, "landing", "Show into which classes an untargeted attack moves the samples.", LandingTest)
    def _(sub: Parser) -> None:
        sub.add_argument("checkpoint", type=str, help=RUN_FOLDER)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [Group("Attack", "eps steps limit", "alpha at_once"), DATA, RUN, SETTINGS],
            ["fastadv landing runs/pgd --eps 8/255 --out results/landing"],
        )

    @add(commands, "patch", "Train an adversarial patch and write it to be printed.", PatchTest)
    def _(sub: Parser) -> None:
        sub.add_argument("checkpoint", type=str, help=MODEL)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [
                Group("Patch", "target epochs mm dpi", "least most angle shape batch_size lr"),
                Group("Test", "limit", "at_once"),
                DATA,
                RUN,
                SETTINGS,
            ],
            ["fastadv patch runs/pgd --target 8 --mm 100 --out results/patch"],
        )

    @add(commands, "universal", "Find one perturbation for all samples, and write it to files.", UniversalTest)
    def _(sub: Parser) -> None:
        sub.add_argument("checkpoint", type=str, help=MODEL)
        sub.add_argument("--out", type=str, required=True, help=NEW)
        sub.arrange(
            [
                Group("Perturbation", "eps norm target epochs", "alpha cap batch_size delta_as"),
                Group("Test", "limit", "at_once"),
                DATA,
                RUN,
                SETTINGS,
            ],
            ["fastadv universal runs/pgd --eps 8/255 --out results/universal"],
        )

    @add(commands, "compare", "Train by several methods on the same data, and compare them.", Training, Comparison)
    def _(sub: Parser) -> None:
        sub.add_class_arguments(Testing, skip={"eps"})  # which is that of training
        sub.add_argument("methods", type=str, nargs="+", help="names of methods, which fastadv train --help lists")
        sub.arrange(
            [NETWORK, Group("Comparison", "seeds at_a_time executor"), TRAINING, ATTACK, RUN, SPEED, FILES, SETTINGS],
            [
                "fastadv compare standard pgd trades --epochs 20 --out runs/three",
                "fastadv compare pgd blind --seeds 3 --data cifar10 --model resnet18",
            ],
        )

    @add(commands, "reproduce", "Run published experiments and print their figures beside yours.", Reproduction)
    def _(sub: Parser) -> None:
        sub.add_argument("names", type=str, nargs="*", help="recipes, or patterns such as 'blind-fashion-mnist-*'")
        sub.add_argument("--list", action="store_true", help="list all recipes and where they were published.")
        sub.arrange(
            [
                Group("Which and where", "list out resume seeds executor device", "seed folder download"),
                Group(
                    "Changes to the recipes",
                    "epochs per_class limit attacks data model",
                    "batch_size lr optimizer eps_warmup",
                ),
                SPEED,
                SETTINGS,
            ],
            [
                "fastadv reproduce --list",
                "fastadv reproduce blind-fashion-mnist-bat --out runs/bat",
                "fastadv reproduce 'blind-fashion-mnist-*' --epochs 1 --limit 100",
            ],
        )

    @add(commands, "report", "Write one HTML page with the tables and figures of many runs.", config=False)
    def _(sub: Parser) -> None:
        sub.add_argument("runs", type=str, nargs="*", help="run folders, the --out of any command above")
        sub.add_argument("--out", type=str, required=True, help="new folder for the page and its figures.")
        sub.arrange([RUN], ["fastadv report runs/three results/pgd --out page"])

    @add(commands, "completion", "Print a script that completes commands and flags in your shell.", config=False)
    def _(sub: Parser) -> None:
        sub.add_argument("shell", type=Literal["bash", "zsh", "tcsh"], help="your shell: bash, zsh or tcsh")
        sub.arrange([RUN], ["fastadv completion bash > ~/.local/share/bash-completion/completions/fastadv"])

    @add(commands, "info", "Show what is installed, and how to repair what is missing.", config=False)
    def _(sub: Parser) -> None:
        sub.arrange([RUN], ["fastadv info"])

    return main


def _train_arguments(name: str, sub: Parser) -> None:
    """Adds what the methods of ``fastadv train`` share."""
    sub.add_class_arguments(Testing, "test")
    examples = [" --epochs 20 --out runs/new", " --data cifar10 --model resnet18 --augment crop-flip"]
    groups = [NETWORK, TRAINING, TEST, RUN, SPEED, FILES, SETTINGS]
    sub.arrange(groups, [f"fastadv train {name}{flags}" for flags in examples])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, 2 after a message on standard error for bad input."""
    with trusting(sys.argv[1:] if argv is None else argv):
        return _obey(argv)


def _obey(argv: Sequence[str] | None) -> int:
    cli = parser()
    chosen = cli.parse_args(argv)
    keep_freed_memory()
    try:
        with joined(), said_aloud():
            return run_command(cli, chosen)
    except Stopped as stopped:
        print(f"fastadv: {stopped}", file=sys.stderr)
        return 128 + stopped_by()
    except KeyboardInterrupt:
        kept = "the last checkpoint of a run, or the finished batches of an evaluation with --out, are kept"
        print(f"fastadv: stopped; {kept}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"fastadv: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            hint = "a smaller --batch-size, or --at-once where samples are attacked"
            reason = str(error).partition("\n")[0]
            print(f"fastadv: out of memory; try {hint}: {reason}", file=sys.stderr)
            return 2
        if not launched() or not broken(error):
            raise
        print(
            f"fastadv: a process of the run was lost; continue with --resume auto: {error}",
            file=sys.stderr,
        )
        return 1


def out_of_memory(error: Exception) -> bool:
    """Whether it says so; PyTorch's allocator on the CPU raises no type of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def run_command(cli: Parser, chosen: jsonargparse.Namespace) -> int:
    """Builds what the flags say and calls the command's function; the exit status, 1 where claims do not hold."""
    command = chosen.command
    if command == "info":
        print(doctor())
        return 0
    if command == "completion":
        print(completion(cli, chosen.completion.shell))
        return 0
    options = cli.instantiate(chosen)[command]
    if command == "train":
        name, options = options.method, options[options.method]
        train(name, _build(METHODS[name], options), _build(Training, options), options.test)
    elif command == "reproduce":
        list_recipes() if options.list else reproduce(options.names, _build(Reproduction, options))
    elif command == "report":
        report_runs(options.runs, options.out)
    elif command == "verify":
        return 0 if verify_samples(options.folder, options.model, options.device, options.at_once) else 1
    elif command == "transfer":
        transfer_between(options.models, _build(Data, options), _build(Testing, options), options.out)
    elif command == "attackbench":
        run_bench(options.models, _build(BenchTest, options), options.out)
    elif command == "crosscheck":
        run_crosscheck(options.checkpoint, _build(CrossTest, options), options.out)
    elif command == "features":
        diagnose(options.checkpoint, _build(Data, options), _build(Diagnosis, options), options.out)
    elif command == "corruptions":
        measure_corruptions(options.checkpoint, _build(CorruptionTest, options), options.out)
    elif command == "landing":
        land(options.checkpoint, _build(LandingTest, options), options.out)
    elif command == "patch":
        make_patch(options.checkpoint, _build(PatchTest, options), options.out)
    elif command == "universal":
        find_universal(options.checkpoint, _build(UniversalTest, options), options.out)
    elif command == "compare":
        compare(options.methods, *(_build(kind, options) for kind in (Training, Testing, Comparison)))
    else:
        settings = (_build(kind, options) for kind in (Data, Testing, Conduct))
        evaluate_model(options.checkpoint, *settings)
    return 0


def _build(kind: type, options: jsonargparse.Namespace) -> Any:
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})


if __name__ == "__main__":
    sys.exit(main())
