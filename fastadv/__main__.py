"""The command line of settings: ``fastadv train | evaluate | transfer | compare | corruptions | features | ...``."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import jsonargparse
import torch

from .commands import (
    Comparison,
    Conduct,
    CorruptionTest,
    Data,
    Diagnosis,
    LandingTest,
    Reproduction,
    Testing,
    Training,
    broken,
    compare,
    diagnose,
    evaluate_model,
    joined,
    land,
    launched,
    list_recipes,
    measure_corruptions,
    report_runs,
    reproduce,
    train,
    transfer_between,
)
from .info import doctor
from .memory import keep_freed_memory
from .trainers import METHODS, Stopped

MODEL = "a run folder or its checkpoint, package.module:function, or a file of TorchScript or torch.export (.pt2)"


class Parser(jsonargparse.ArgumentParser):
    """Flags may be written --batch-size as well as --batch_size, and methods friendly-trades as friendly_trades."""

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> jsonargparse.Namespace:
        args = [_underscored(arg) for arg in (sys.argv[1:] if args is None else args)]
        if args[:1] == ["train"] and (method := "".join(args[1:2]).replace("-", "_")) in METHODS:
            args[1] = method  # no other word: it may be a path
        return super().parse_args(args, **kwargs)


def _underscored(arg: str) -> str:
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg[2:].partition("=")
    return "--" + flag.replace("-", "_") + equals + value


def parser() -> Parser:
    """The command line: every method's options from its own fields."""
    main = Parser(prog="fastadv", description="Adversarial training and robustness evaluation on fused kernels.")
    commands = main.add_subcommands(dest="command")

    def add(to: Any, name: str, help: str, *settings: type, config: bool = True) -> Parser:
        sub = Parser(description=help)
        if config:
            sub.add_argument("--config", action="config", help="a YAML file with any of these settings")
        for setting in settings:
            sub.add_class_arguments(setting)
        to.add_subcommand(name, sub, help=help)
        return sub

    train = add(commands, "train", "Train a network by one method and evaluate it.", config=False)
    methods = train.add_subcommands(dest="method")
    for name, method in METHODS.items():
        sub = add(methods, name, (method.__doc__ or name).splitlines()[0], method, Training)
        sub.add_class_arguments(Testing, "test")
    sub = add(commands, "evaluate", "Measure the robustness of a trained network.", Data, Testing, Conduct)
    sub.set_defaults(data=None)
    sub.add_argument("checkpoint", type=str, help=MODEL)
    sub = add(commands, "transfer", "Try samples made on each of several networks on all of them.", Data, Testing)
    sub.set_defaults(data=None)
    sub.add_argument("models", type=str, nargs="+", help=MODEL)
    sub.add_argument("--out", type=str, required=True, help="a new folder for the table and the figure")
    sub = add(commands, "features", "Draw what layers give for natural and adversarial samples.", Data, Diagnosis)
    sub.set_defaults(data=None)
    sub.add_argument("checkpoint", type=str, help="a run folder, or the checkpoint in it")
    sub.add_argument("--out", type=str, required=True, help="a new folder for the table and the figures")
    sub = add(commands, "corruptions", "Measure accuracy under common corruptions of images.", CorruptionTest)
    sub.add_argument("checkpoint", type=str, help="a run folder, or the checkpoint in it")
    sub.add_argument("--out", type=str, required=True, help="a new folder for the table and the figure")
    sub = add(commands, "landing", "Tell in which classes an untargeted attack lands.", LandingTest)
    sub.add_argument("checkpoint", type=str, help="a run folder, or the checkpoint in it")
    sub.add_argument("--out", type=str, required=True, help="a new folder for the tables and the figures")
    sub = add(commands, "compare", "Train by several methods on the same data.", Training, Comparison)
    sub.add_class_arguments(Testing, skip={"eps"})  # which is that of training
    sub.add_argument("methods", type=str, nargs="+", help=f"of {', '.join(METHODS)}")
    sub = add(commands, "reproduce", "Run published experiments: measured figures beside the printed.", Reproduction)
    sub.add_argument("names", type=str, nargs="*", help="recipes, or patterns such as 'blind-fashion-mnist-*'")
    sub.add_argument("--list", action="store_true", help="all recipes, and where they were published")
    sub = add(commands, "report", "One HTML page of the tables and figures of many runs.", config=False)
    sub.add_argument("runs", type=str, nargs="*", help="the --out of train, compare, evaluate, corruptions, reproduce")
    sub.add_argument("--out", type=str, required=True, help="a new folder for the page and its figures")
    add(commands, "info", "What is installed, which kernels run, and how to repair what is missing.", config=False)
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, 2 after a message on standard error for bad input."""
    cli = parser()
    chosen = cli.parse_args(argv)
    keep_freed_memory()
    try:
        with joined():
            run_command(cli, chosen)
    except Stopped as stopped:
        print(f"fastadv: {stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        kept = "a run keeps its last checkpoint, an evaluation in --out its finished batches"
        print(f"fastadv: stopped; {kept}", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError as error:
        print(f"fastadv: out of memory; try a smaller --batch-size: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"fastadv: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not launched() or not broken(error):
            raise
        print(
            f"fastadv: a process, or the way to it, is gone; its run can go on with --resume auto: {error}",
            file=sys.stderr,
        )
        return 1
    return 0


def run_command(cli: Parser, chosen: jsonargparse.Namespace) -> None:
    """Builds what the flags say and calls the command's function."""
    command = chosen.command
    if command == "info":
        print(doctor())
        return
    options = cli.instantiate(chosen)[command]
    if command == "train":
        name, options = options.method, options[options.method]
        train(name, _build(METHODS[name], options), _build(Training, options), options.test)
    elif command == "reproduce":
        list_recipes() if options.list else reproduce(options.names, _build(Reproduction, options))
    elif command == "report":
        report_runs(options.runs, options.out)
    elif command == "transfer":
        transfer_between(options.models, _build(Data, options), _build(Testing, options), options.out)
    elif command == "features":
        diagnose(options.checkpoint, _build(Data, options), _build(Diagnosis, options), options.out)
    elif command == "corruptions":
        measure_corruptions(options.checkpoint, _build(CorruptionTest, options), options.out)
    elif command == "landing":
        land(options.checkpoint, _build(LandingTest, options), options.out)
    elif command == "compare":
        compare(options.methods, *(_build(kind, options) for kind in (Training, Testing, Comparison)))
    else:
        settings = (_build(kind, options) for kind in (Data, Testing, Conduct))
        evaluate_model(options.checkpoint, *settings)


def _build(kind: type, options: jsonargparse.Namespace) -> Any:
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})


if __name__ == "__main__":
    sys.exit(main())
