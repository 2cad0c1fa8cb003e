"""What runs code from elsewhere, and ``--trusted``, which forbids or allows it."""

import os
import sys
from pathlib import Path

import jsonargparse._common
import pytest
import torch
from torch import nn

from fastadv.__main__ import main, parser
from fastadv.commands import trusting
from fastadv.commands._jobs import Job, execute

MODULE = """
from pathlib import Path
import fastadv
from fastadv.attacks import PGD
from fastadv.models import LeNet5

Path(__file__).with_suffix(".ran").touch()

class Mine(PGD):
    pass

def network():
    return LeNet5()

def data(split):
    return fastadv.load("fashion-mnist-mini", split).take(20)
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is there once the code of the module ``elsewhere`` has run."""
    (tmp_path / "elsewhere.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
    for name in ("FASTADV_TRUSTED", "FASTADV_TYPED"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "elsewhere.ran"


def refused(command: list[str], capsys: pytest.CaptureFixture) -> str:
    try:
        status = main(command)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--trusted", "false"], ["--trusted=false"]])
@pytest.mark.parametrize("in_yaml", [True, False])
def test_classes_from_elsewhere_are_not_even_imported(
    more: list[str], in_yaml: bool, ran: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("settings.yaml").write_text("attack:\n  class_path: elsewhere.Mine\n")
    given = ["--config", "settings.yaml"] if in_yaml else ["--attack", "elsewhere.Mine"]
    said = refused(["train", "madry", *given, *more], capsys)
    assert "elsewhere.Mine is not fastadv's, and its code would run: to allow that, give --trusted true" in said
    assert not ran.exists()


@pytest.mark.parametrize("more", [[], ["--trusted", "false"], ["--trusted", "true"]])
@pytest.mark.parametrize("path", ["os.system", "fastadv.ops._kernels.os.system", "subprocess.run", "builtins.eval"])
def test_no_way_leads_around(path: str, more: list[str], ran: Path, capsys: pytest.CaptureFixture) -> None:
    Path("settings.yaml").write_text(f"attack:\n  class_path: {path}\n  init_args: {{command: 'touch {ran}'}}\n")
    why = "is always refused" if "true" in more else "its code would run"
    assert why in refused(["train", "madry", "--config", "settings.yaml", *more], capsys)
    assert why in refused(["train", "friendly", "--tau-schedule", path, *more], capsys)
    assert not ran.exists()


def test_trust_cannot_come_from_a_file(ran: Path, capsys: pytest.CaptureFixture) -> None:
    Path("settings.yaml").write_text("trusted: true\nattack:\n  class_path: elsewhere.Mine\n")
    refused(["train", "madry", "--config", "settings.yaml"], capsys)
    assert not ran.exists()


def test_trusted_classes_are_taken(ran: Path) -> None:
    Path("settings.yaml").write_text("attack:\n  class_path: elsewhere.Mine\n")
    command = ["train", "madry", "--config", "settings.yaml", "--trusted", "true"]
    with trusting(command):
        assert parser().parse_args(command).train.madry.attack.class_path == "elsewhere.Mine"
    assert ran.exists()


def test_named_functions_run_unless_forbidden(ran: Path, capsys: pytest.CaptureFixture) -> None:
    evaluate = ["evaluate", "elsewhere:network", "--data", "fashion-mnist-mini", "--attacks", "fgsm", "--limit", "2"]
    said = refused([*evaluate, "--trusted", "false"], capsys)
    assert "elsewhere:network is a function and runs code, which --trusted false forbids" in said
    assert not ran.exists()
    assert main(evaluate) == 0
    assert ran.exists()


TINY = ["--epochs", "1", "--test.limit", "2", "--test.attacks", "fgsm"]


def test_functions_that_files_name_do_not_run(ran: Path, capsys: pytest.CaptureFixture) -> None:
    """A checkpoint or a settings file may come from anybody; what was typed is the user's own."""
    assert main(["train", "standard", "--data", "elsewhere:data", *TINY, "--out", "run"]) == 0
    ran.unlink()
    evaluate = ["evaluate", "run", "--attacks", "fgsm", "--limit", "2"]
    Path("settings.yaml").write_text("data: elsewhere:data\n")
    for command in (
        evaluate,
        ["landing", "run", "--out", "landing"],
        ["train", "standard", "--config", "settings.yaml", *TINY],
    ):
        sys.modules.pop("elsewhere", None)
        said = refused(command, capsys)
        assert "elsewhere:data is a function and would run code, and a file names it" in said
        assert not ran.exists()
    assert main([*evaluate, "--data", "fashion-mnist-mini"]) == 0  # the checks do without its training data
    assert not ran.exists()
    assert main([*evaluate, "--data", "elsewhere:data"]) == 0
    assert ran.exists()
    assert main([*evaluate, "--trusted", "true"]) == 0


def test_processes_of_a_sweep_trust_what_was_typed(ran: Path) -> None:
    command = ["compare", "standard", "--data", "elsewhere:data", "--epochs", "1", "--limit", "2", "--attacks", "fgsm"]
    assert main([*command, "--out", "sweep"]) == 0
    assert Job("one", [], Path(), "", {}).trust == {}
    says = "import os, pathlib; pathlib.Path('said').write_text(os.environ['FASTADV_TRUSTED'])"
    with trusting(["compare", "--trusted", "false"]):
        job = Job("two", [sys.executable, "-c", says], Path("jobs"), "said", {})
    Path("jobs").mkdir()
    execute(job, {}, lambda: False, Path.cwd())  # as on a worker, which knows nothing of the flag
    assert Path("said").read_text() == "false"


def test_a_scheduler_that_a_file_names_is_not_asked(ran: Path, capsys: pytest.CaptureFixture) -> None:
    Path("settings.yaml").write_text("executor: dask:tcp://elsewhere:1\n")
    for more in ([], ["--trusted", "false"]):
        said = refused(["compare", "standard", "--config", "settings.yaml", "--out", "sweep", *more], capsys)
        assert "dask:tcp://elsewhere:1 is a scheduler" in said


def test_a_run_of_a_trusted_class_can_be_repeated(ran: Path) -> None:
    command = ["train", "madry", "--attack", "elsewhere.Mine", "--attack.steps", "1", "--trusted", "true"]
    assert main([*command, "--per-class", "2", *TINY, "--out", "run"]) == 0
    assert "class_path: elsewhere.Mine" in Path("run/config.yaml").read_text()
    assert main(["train", "madry", "--config", "run/config.yaml", "--trusted", "true", "--out", "again"]) == 0


def test_trust_that_is_neither_true_nor_false(
    ran: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTADV_TRUSTED", "False")
    said = refused(["evaluate", "elsewhere:network", "--data", "fashion-mnist-mini", "--limit", "2"], capsys)
    assert "FASTADV_TRUSTED must be true or false, got 'False'" in said
    assert not ran.exists()


def test_every_command_takes_the_flag(capsys: pytest.CaptureFixture) -> None:
    assert main(["info", "--trusted", "false"]) == 0
    for name in parser()._subcommands_action.choices:
        with pytest.raises(SystemExit):
            main([name, *(["madry"] if name == "train" else []), "--help-all"])
        assert "--trusted" in capsys.readouterr().out, name


@pytest.mark.parametrize(
    ("given", "what"),
    [("script.pt", "TorchScript"), ("export.pt2", "of torch.export"), ("timm:resnet18", "a network of a hub")],
)
def test_what_else_runs_code_can_be_forbidden(given: str, what: str, ran: Path, capsys: pytest.CaptureFixture) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    if given == "script.pt":
        with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):  # the latter from 2.14 on
            torch.jit.script(model).save(given)
    elif given == "export.pt2":
        torch.export.save(torch.export.export(model, (torch.zeros(2, 1, 28, 28),)), given)
    said = refused(["evaluate", given, "--data", "fashion-mnist-mini", "--limit", "2", "--trusted", "false"], capsys)
    assert f"{what} and runs code, which --trusted false forbids" in said


def test_a_command_leaves_no_trust_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADV_TRUSTED", "false")
    policy = dict(jsonargparse._common.parsing_settings)
    with trusting(["train", "pgd", "--trusted", "true"]):
        assert os.environ["FASTADV_TRUSTED"] == "true"  # for the processes that a command starts
    assert os.environ["FASTADV_TRUSTED"] == "false"
    assert jsonargparse._common.parsing_settings == policy
