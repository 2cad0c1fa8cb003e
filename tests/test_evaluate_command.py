"""``fastadv evaluate`` and ``transfer``: models from anywhere, and what is written of them."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import labels, linear, samples

from fastadv.__main__ import main
from fastadv.models import LeNet5
from fastadv.runs import Run

MODELS = """
import torch
from torch import nn

def linear(features=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 3))

def wide(): return linear(5)
def needs(argument): return linear()
def breaks(): raise KeyError("weights")
def dictionary(): return {}
def two(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
number = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data.npz, of 3 classes and samples [1, 2, 2], and modules of models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "networks.py").write_text(MODELS)
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    write_data(tmp_path / "data.npz")
    return tmp_path


def write_data(path: Path, n: int = 24) -> None:
    halves = {f"x_{half}": samples(n, 1, 2, 2, seed=i) for i, half in enumerate(("train", "test"))}
    halves |= {f"y_{half}": labels(n, 3, seed=i) for i, half in enumerate(("train", "test"))}
    np.savez(path, **{name: tensor.numpy() for name, tensor in halves.items()})


def evaluate(model: str, *flags: str) -> int:
    return main(["evaluate", model, "--data", "data.npz", "--attacks", "pgd", *flags])


def scripted(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(linear(4, 3)).save(path)


def exported(path: str, **shapes: object) -> None:
    torch.export.save(torch.export.export(linear(4, 3), (samples(4, 1, 2, 2),), **shapes), path)


def any_batch(path: str) -> None:
    exported(path, dynamic_shapes=({0: torch.export.Dim("batch")},))


def run(path: str) -> None:
    """A run folder of an untrained network."""
    model = LeNet5()
    about = {"model": "lenet5", "shape": [1, 28, 28], "classes": list("0123456789")}
    Run(path, "", {}).save({"method": "standard", "data": "fashion-mnist-mini", "state": model.state_dict()} | about)


@pytest.mark.parametrize(
    ("file", "write"), [("m.pt", scripted), ("scripted.pt2", scripted), ("m.pt2", any_batch), ("other.zip", any_batch)]
)
def test_models_in_files(file: str, write: Callable[[str], None], place: Path, capsys) -> None:
    write(file)
    if file == "scripted.pt2":  # the name says torch.export, the content does not
        assert evaluate(file) == 2
        assert "scripted.pt2 is damaged, or not of torch.export" in capsys.readouterr().err
        return
    assert evaluate(file, "--out", "out") == 0
    line = Path("out/table.csv").read_text().splitlines()[1].split(",")
    x, y = samples(24, 1, 2, 2, seed=1), labels(24, 3, seed=1)
    assert (line[0], float(line[1])) == (Path(file).stem, (linear(4, 3)(x).argmax(1) == y).double().mean())


def test_a_model_from_a_function(place: Path, capsys) -> None:
    assert evaluate("networks:linear") == 0
    assert "networks:linear" in capsys.readouterr().out
    assert evaluate("networks:linear", "--transfer-from", "networks:linear") == 0


def test_a_run_of_an_untrained_network(place: Path) -> None:
    run("run")
    assert main(["evaluate", "run", "--attacks", "fgsm", "--limit", "20"]) == 0
    assert main(["evaluate", "run/checkpoint.pt", "--attacks", "fgsm", "--limit", "20"]) == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere", "no checkpoint at nowhere: give a run folder"),
        (
            "nowhere:linear",
            "cannot import 'nowhere' for nowhere:linear: ModuleNotFoundError: No module",
        ),
        (
            "broken:linear",
            "for broken:linear: ModuleNotFoundError: No module named 'no_such_thing'",
        ),
        ("networks:linaer", "networks has no 'linaer', which networks:linaer asks for"),
        ("networks:number", "networks:number() failed: TypeError: 'int' object is not callable"),
        ("networks:needs", "networks:needs() failed: TypeError: needs() missing 1 required positional argument"),
        ("networks:breaks", "networks:breaks() failed: KeyError: 'weights'"),
        ("networks:dictionary", "networks:dictionary() must return a torch.nn.Module, got dict"),
        ("networks:wide", "networks:wide gives no logits for 1 samples of data, [1, 2, 2] in 3 classes: RuntimeError"),
        ("networks:two", "the model has 2 classes"),
        ("fixed.pt2", "fixed.pt2 gives no logits for 1 samples of data"),
        ("half.pt2", "half.pt2 is damaged, or not of torch.export"),
        ("half.pt", "half.pt is damaged, or no checkpoint of fastadv"),
        ("state.pt", "state.pt is no checkpoint of fastadv: it was written by something else"),
    ],
)
def test_models_that_are_wrong(model: str, message: str, place: Path, capsys) -> None:
    exported("fixed.pt2")
    scripted("whole.pt")
    for name, whole in (("half.pt2", "fixed.pt2"), ("half.pt", "whole.pt")):
        Path(name).write_bytes(Path(whole).read_bytes()[:700])
    torch.save(nn.Linear(4, 3).state_dict(), "state.pt")
    assert evaluate(model) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert "Traceback" not in error


def test_data_of_a_function_must_be_named(place: Path, capsys) -> None:
    assert main(["evaluate", "networks:linear"]) == 2
    assert "what data networks:linear is for is not known: name it with --data" in capsys.readouterr().err
