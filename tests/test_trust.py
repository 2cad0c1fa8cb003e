"""What runs code from elsewhere, and ``--trusted``, which forbids or allows it."""

import os
from pathlib import Path

import jsonargparse._common
import pytest
import torch
from torch import nn

from fastadv.__main__ import main, parser
from fastadv.commands import trusting

MODULE = """
from pathlib import Path
from fastadv.attacks import PGD
from fastadv.models import LeNet5

Path(__file__).with_suffix(".ran").touch()

class Mine(PGD):
    pass

def network():
    return LeNet5()
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is there once the code of the module ``elsewhere`` has run."""
    (tmp_path / "elsewhere.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "elsewhere", raising=False)
    monkeypatch.delenv("FASTADV_TRUSTED", raising=False)
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


@pytest.mark.parametrize("path", ["os.system", "fastadv.ops._kernels.os.system", "builtins.eval"])
def test_no_way_leads_around(path: str, ran: Path, capsys: pytest.CaptureFixture) -> None:
    Path("settings.yaml").write_text(f"attack:\n  class_path: {path}\n  init_args: {{command: 'touch {ran}'}}\n")
    refused(["train", "madry", "--config", "settings.yaml"], capsys)
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
