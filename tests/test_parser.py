"""The parser of the command line: exact names, fractions, one line for what is wrong, help, completion."""

import argparse
import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastadv
from fastadv import __main__ as command_line
from fastadv.__main__ import Parser, main, parser
from fastadv.commands import number
from fastadv.trainers import METHODS

EPS = 8 / 255
built = functools.cache(parser)


@pytest.fixture(autouse=True)
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "parser", built)


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line on standard error with which `arguments` end, with exit status 2."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("fastadv: ")
    return said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train pgd --epoch 1", "unknown option --epoch; did you mean --epochs? (fastadv train pgd --help-all"),
        ("train pgd --eps-warm 8", "unknown option --eps-warm; did you mean --eps-warmup?"),
        ("train pgd --eps_warm=8", "unknown option --eps-warm; did you mean --eps-warmup?"),
        ("train pgd --attack.ste 3", "unknown option --attack.ste; did you mean --attack.steps?"),
        ("train pgd --test.att pgd", "unknown option --test.att; did you mean --test.attacks?"),
        ("train pgd --steps 3", "unknown option --steps; did you mean --attack.steps?"),
        ("evaluate run --batch_size 3", "unknown option --batch-size (fastadv evaluate --help-all"),
        ("evaluate run --at 3", "unknown option --at"),
        ("compare pgd --seed-s 3", "unknown option --seed-s; did you mean --seeds?"),
        ("report run --ou page", "unknown option --ou; did you mean --out?"),
        ("trian pgd", "unknown command 'trian'; did you mean 'train'?"),
        ("--epochs 3 train pgd", "--epochs must follow the command"),
        ("train freindly-trades", "unknown method 'freindly-trades'; did you mean 'friendly_trades'?"),
        ("train zzz", f"unknown method 'zzz': choose among {', '.join(METHODS)}"),
        ("train pgd --attack pgdd", "--attack: unknown attack 'pgdd'; did you mean 'PGD'?"),
        ("train pgd --attack.eps much", "--attack.eps must be a number such as 0.1 or 8/255, got 'much'"),
        ("train blind --rho much", "--rho must be a number such as 0.1 or 8/255, got 'much'"),
        ("train pgd --batch-size many", "--batch-size must be a whole number, got many"),
        ("evaluate run --at-once many", "--at-once must be a whole number or auto, got many"),
        ("evaluate run --label tru", "--label must be true or pred, got tru"),
        ("evaluate run other", "'other' is one argument too many"),
        ("evaluate", "CHECKPOINT is missing (fastadv evaluate --help-all"),
        ("transfer a b", "--out is missing (fastadv transfer --help-all"),
    ],
)
def test_what_is_mistyped_is_refused_with_what_was_meant(
    arguments: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert message in refused(arguments.split(), capsys)


def test_a_budget_is_not_taken_for_its_warmup(capsys: pytest.CaptureFixture) -> None:
    try:
        assert built().parse_args(["train", "pgd", "--eps", "8"]).train.pgd.eps_warmup == 0
    except SystemExit:
        assert "--eps; did you mean --attack.eps or" in capsys.readouterr().err


def all_parsers(whole: Parser) -> Iterator[Parser]:
    yield whole.filled()
    for each in whole._subcommands_action.choices.values() if whole._subcommands_action else ():
        yield from all_parsers(each)


def test_no_command_takes_abbreviated_flags() -> None:
    found = list(all_parsers(built()))
    assert len(found) > 30
    assert [each.prog for each in found if each.allow_abbrev] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 1", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("batch-size: 3", "unknown setting 'batch-size'; did you mean 'batch_size'?"),
        ("test: {att: pgd}", "unknown setting 'test.att'; did you mean 'test.attacks'?"),
        (
            "attack: {class_path: PGD, init_args: {ste: 3}}",
            "unknown setting 'attack.ste'; did you mean 'attack.steps'?",
        ),
        ("attack: {class_path: PGDD}", "--attack: unknown attack 'PGDD'; did you mean 'PGD'?"),
        ("epochs: many", "--epochs must be a whole number, got many"),
        ("lr: 1/0", "--lr must be a number such as 0.1 or 8/255, got '1/0'"),
        ("- 1", "config"),
        ("epochs: [", "config"),
    ],
)
def test_names_and_values_in_yaml_are_exact(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    assert message in refused(["train", "pgd", "--config", str(tmp_path / "settings.yaml")], capsys)


def test_flags_take_fractions() -> None:
    flags = "--lr 8/255 --attack.eps=8/255 --attack.alpha 2/255 --test.eps 8/255 --lr-decay [1/10,0.5] --mean -1/2"
    more = "--attack.bounds [-1/2,1/2] --attack.random_start 1/4 --out 1/2 --weights 3/4"
    found = built().parse_args(["train", "pgd", *flags.split(), *more.split()]).train.pgd
    attack = found.attack.init_args
    assert (found.lr, attack.eps, attack.alpha, found.test.eps) == (EPS, EPS, 2 / 255, EPS)
    assert (found.lr_decay, found.mean) == ([0.1, 0.5], -0.5)
    assert (attack.bounds, attack.random_start) == ((-0.5, 0.5), 0.25)
    assert (found.out, found.weights) == ("1/2", "3/4")  # text
    swept = built().parse_args(["evaluate", "run", "--eps", "8/255", "--sweep", "2/255,4/255,0.1"])
    assert swept.evaluate.eps == EPS
    options = {name: swept.evaluate[name] for name in ("sweep", "steps", "checks")}
    assert command_line.Conduct(**options).budgets() == [2 / 255, 4 / 255, 0.1]


def test_yaml_takes_fractions(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "lr: 8/255\nlr_decay: 1/2\nout: 1/2\ntest: {eps: 8/255}\n"
        "attack: {class_path: PGD, init_args: {eps: 8/255, random_start: gaussian}}\n"
    )
    found = built().parse_args(["train", "pgd", "--config", str(settings)]).train.pgd
    assert (found.lr, found.lr_decay, found.test.eps, found.attack.init_args.eps) == (EPS, 0.5, EPS, EPS)
    assert (found.out, found.attack.init_args.random_start) == ("1/2", "gaussian")
    settings.write_text("eps: 8/255\nsweep: 2/255,4/255\n")
    swept = built().parse_args(["evaluate", "run", "--config", str(settings)]).evaluate
    assert (swept.eps, swept.sweep) == (EPS, "2/255,4/255")


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", EPS), ("0.1", 0.1), (" 1e-3 ", 1e-3), (".5", 0.5), ("-1/2", -0.5), ("1.5 / 255", 1.5 / 255), (3, 3.0)],
)
def test_a_number_is_written_so(text: object, value: float) -> None:
    assert number(text) == value
    assert type(number(text)) is float


@pytest.mark.parametrize("text", ["1/0", "1//2", "8/255/2", "2**3", "1+1", "abs(1)", "", "/2", "1/", "1_0", True, None])
def test_nothing_else_is_a_number(text: object) -> None:
    with pytest.raises(ValueError, match=r"is no number: write 0\.1, 1e-3 or a fraction such as 8/255"):
        number(text)


def test_a_budget_of_whole_grey_levels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "pgd", "--attack.eps", "8", "--out", str(tmp_path / "run")]) == 2
    assert "did you mean 8/255 = 0.0314?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate run --attacks pgd,pgdd", "unknown attack 'pgdd'; did you mean 'pgd'?"),
        ("compare standrd", "unknown method 'standrd'; did you mean 'standard'?"),
        ("corruptions run --out new --corruptions fogg", "unknown corruption 'fogg'; did you mean 'fog'?"),
        ("train standard --model lenet-5", "did you mean 'lenet5'?"),
        ("train standard --data fashion-mnits", "Did you mean 'fashion-mnist'"),
        ("reproduce blind-fasion-mnist-bat", "did you mean 'blind-fashion-mnist-bat'?"),
        ("evaluate run --sweep 2/255,1/0", "such as 0.02,0.05 or 4/255,8/255, got '2/255,1/0'"),
    ],
)
def test_names_of_things_get_a_hint(arguments: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"fastadv {fastadv.__version__}\n"


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert "Measure the robustness of a trained network." in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["train"])
    said = capsys.readouterr()
    assert said.out == ""
    assert [name for name in METHODS if f"\n  {name} " not in said.err] == []


def flags_of(each: Parser) -> list[str]:
    """The flags of a parser, as they are typed, but for hidden ones that jsonargparse adds where shtab is installed."""
    shown = [action for action in each._actions if action.help != argparse.SUPPRESS]
    flags = [flag for action in shown for flag in action.option_strings if not flag.endswith("+")]
    return [flag.replace("_", "-") for flag in flags]


def test_help_is_a_screen_and_help_all_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for each in all_parsers(built()):
        short, whole = each.format_help(), each.format_help(whole=True)
        assert short.count("\n") <= 44, each.prog
        assert argparse.SUPPRESS not in short + whole
        assert [line for line in short.splitlines() if len(line) > 80 and "  fastadv " not in line] == []
        assert [
            flag for flag in flags_of(each) if not re.search(rf"(^|\s){re.escape(flag)}(\s|,|$)", whole, re.M)
        ] == []
        assert "``" not in whole
        hidden = len(re.findall(r"^  (?:-h, )?--", whole, re.M)) - len(re.findall(r"^  (?:-h, )?--", short, re.M))
        assert f"--help-all lists {hidden} more options" in short or not hidden


def test_help_has_the_most_used_first(capsys: pytest.CaptureFixture) -> None:
    for flag, titles in (
        ("--help", ["Data and network", "Options of trades", "Training", "Test", "Run", "Examples"]),
        (
            "--help-all",
            ["Data and network", "Options of trades", "Training", "Test", "Run", "Speed, memory and precision"],
        ),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["train", "trades", flag])
        shown = capsys.readouterr().out
        assert re.findall(r"^(\w.*):$", shown, re.M)[: len(titles)] == titles
        assert re.search(r"Training:\n  --epochs N +Passes over the training data", shown)
    assert "(default: PGD, eps 0.0314, steps 10, alpha 0.007, random_start" in " ".join(shown.split())
    with pytest.raises(SystemExit, match="0"):
        main(["train", "trades", "--attack.help", "PGD"])
    assert "--attack.steps N" in capsys.readouterr().out


def test_summaries_are_words() -> None:
    for method in METHODS.values():
        summary = method.__doc__.splitlines()[0]
        assert len(summary) <= 61
        assert not set(summary) & set("`|{}=*")


def test_examples_of_the_help_are_commands() -> None:
    examples = [example for each in all_parsers(built()) for example in each.examples]
    assert len(examples) > 50
    for example in examples:
        program, *arguments = shlex.split(example.partition(" > ")[0])
        assert program == "fastadv"
        built().parse_args(arguments)


def test_only_the_chosen_command_gets_its_arguments() -> None:
    whole = parser()
    whole.parse_args(["train", "pgd"])
    commands = whole._subcommands_action.choices
    methods = commands["train"]._subcommands_action.choices
    empty = [each.prog for each in (*commands.values(), *methods.values()) if len(each._actions) == 1]
    assert len(empty) == len(commands) - 1 + len(methods) - 1


def test_help_shows_flags_as_they_are_typed() -> None:
    for each in all_parsers(built()):
        text = each.format_help(whole=True)
        assert re.findall(r"--[\w.-]*_[\w.-]*", text) == []
        assert text.partition("\n\n")[0].count("\n") == 0  # of the usage
    assert "--batch-size N" in built()._subcommands_action.choices["compare"].format_help()


def test_both_spellings_are_taken() -> None:
    for flags in (["--batch-size", "7", "--test.at-once=5"], ["--batch_size=7", "--test.at_once", "5"]):
        found = built().parse_args(["train", "friendly-trades", *flags, "--attack.random-start", "0"])
        assert found.train.method == "friendly_trades"
        options = found.train.friendly_trades
        assert (options.batch_size, options.test.at_once, options.attack.init_args.random_start) == (7, 5, 0)


@pytest.mark.thorough
def test_commands_and_flags_are_completed_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("shtab")
    monkeypatch.setattr(command_line, "parser", parser)  # it is of no use afterwards
    assert main(["completion", "bash"]) == 0
    (tmp_path / "fastadv.bash").write_text(capsys.readouterr().out)
    ask = (
        "source fastadv.bash\n"
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _shtab_fastadv; echo "${COMPREPLY[@]}"; }\n'
        "try fastadv tr; try fastadv train friendly_m; try fastadv train pgd --batch; try fastadv train pgd --test.at"
    )
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["train", "transfer"],
        ["friendly_mart"],
        ["--batch-size"],
        ["--test.attacks", "--test.at-once"],
    ]


def test_completion_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "fastadv: completion needs shtab. To fix: pip install shtab\n"


def test_memory_that_runs_out_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command_line, "run_command", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    assert main(["info"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fastadv: out of memory; try a smaller --batch-size, or --at-once")
    assert said.count("\n") == 1


def test_a_bug_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(command_line, "run_command", wrong)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(["info"])


@pytest.mark.thorough
def test_the_module_and_the_script_are_alike() -> None:
    script = "import sys; from fastadv.__main__ import main; sys.exit(main())"  # as the entry point has it
    for arguments in (["evaluate", "no-such-run"], ["train", "blnd"]):
        results = [
            subprocess.run([sys.executable, *how, *arguments], capture_output=True, text=True, check=False)
            for how in (["-m", "fastadv"], ["-c", script])
        ]
        for each in results:
            assert (each.returncode, each.stdout, each.stderr.count("\n")) == (2, "", 1)
        assert results[0].stderr == results[1].stderr


@pytest.mark.parametrize(
    ("written", "found"), [("0.5", 0.5), ("1/2", 0.5), ("0.49,0.48, 45/100", [0.49, 0.48, 0.45]), ("[0.5]", [0.5])]
)
def test_one_number_or_several(written, found):
    assert built().parse_args(["train", "pgd", "--mean", written]).train.pgd.mean == found


def test_several_numbers_that_are_none(capsys):
    assert "--mean must be a number such as 0.1 or 8/255, got 'x'" in refused(["train", "pgd", "--mean", "1,x"], capsys)
