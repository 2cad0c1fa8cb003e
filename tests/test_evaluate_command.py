"""``fastadv evaluate`` and ``transfer``: models from anywhere, and what is written of them."""

import csv
import importlib
import itertools
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import labels, linear, quick, samples

from fastadv import commands
from fastadv.__main__ import main
from fastadv.commands._plan import EvaluationPlan
from fastadv.data import load
from fastadv.evaluation import anytime
from fastadv.models import LeNet5
from fastadv.runs import Run

MODELS = """
import os
import time

import torch
from torch import nn
from toys import Wavy

def wavy(): return Wavy(4, 3)

def linear(features=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 3))

class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().forward(x)

def slow(): return Slow(*linear())
def other(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
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
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "networks", raising=False)
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


def test_a_model_behind_a_normalisation(place: Path, capsys) -> None:
    def accuracy(out: str, *flags: str) -> str:
        assert evaluate("networks:linear", "--checks", "0", *flags, "--out", out) == 0
        return rows(out)[0]["accuracy"]

    plain = accuracy("plain")
    assert accuracy("same", "--mean", "0.0", "--std", "1") == plain
    assert accuracy("one", "--mean", "0.9", "--std", "0.5") != plain
    assert accuracy("a channel", "--mean", "[0.9]", "--std", "1/2") == accuracy("again", "--config", "one/config.yaml")
    assert rows("a channel") == rows("one") == rows("again")
    assert evaluate("networks:linear", "--mean", "0.4,0.5", "--std", "0.5") == 2
    assert "mean and std are of 2 channels, the samples [1, 2, 2]" in capsys.readouterr().err
    run("run")
    assert main(["evaluate", "run", "--mean", "0.5"]) == 2
    assert "mean and std are for models from elsewhere: the run run has its own" in capsys.readouterr().err


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
        ("half.pt2", "half.pt2 is damaged, or no file of torch.export"),
        ("half.pt", "half.pt is damaged, or no checkpoint of fastadv"),
        ("state.pt", "the weights in state.pt fit no network of fastadv.models for samples of [1, 2, 2] in 3 classes"),
    ],
)
def test_models_that_are_wrong(model: str, message: str, place: Path, capsys) -> None:
    if model.endswith(".pt2"):
        exported("fixed.pt2")
        Path("half.pt2").write_bytes(Path("fixed.pt2").read_bytes()[:700])
    scripted("whole.pt")
    Path("half.pt").write_bytes(Path("whole.pt").read_bytes()[:700])
    torch.save(nn.Linear(4, 3).state_dict(), "state.pt")
    assert evaluate(model) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert "Traceback" not in error


def test_data_of_a_function_must_be_named(place: Path, capsys) -> None:
    assert main(["evaluate", "networks:linear"]) == 2
    assert "networks:linear does not say what data it is for: name them with --data" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- stopped, shared, written


def rows(folder: str, name: str = "attacks.csv") -> list[dict[str, str]]:
    found = list(csv.DictReader(Path(folder, name).read_text().splitlines()))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def fastadv(*command: str, **environment: str) -> subprocess.Popen:
    """A process of its own."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.Popen([sys.executable, "-m", *command], env=env)


FLAGS = ["--data", "data.npz", "--attacks", "pgd,noise,deepfool", "--at-once", "3"]


def test_a_batch_size_that_is_found(place: Path) -> None:
    """All on a GPU, where those that do not fit are halved (`tests/test_evaluation.py`)."""
    for name in ("auto", "7"):
        assert main(["evaluate", "networks:wavy", *FLAGS[:-1], name, "--out", name]) == 0
    assert rows("auto") == rows("7")
    test = load("fashion-mnist-mini", "test").take(7)
    testing = commands.Testing(at_once="auto")
    assert EvaluationPlan(test, {}, 0.1, None, testing).batch_size == 500
    on_a_gpu = type("OnGPU", (), {"device": torch.device("cuda"), "count": 7})()
    assert EvaluationPlan(on_a_gpu, {}, 0.1, None, testing).batch_size == 7


def kill(command: list[str], place: Path) -> None:
    """Runs the command in a process, and kills it when it has kept 10 batches."""
    running = fastadv("fastadv", *command, SLOW="0.05")
    while len(list(place.glob("killed/batches/*/*.npz"))) < 10:
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()


def interrupt(command: list[str], place: Path) -> None:
    """Presses Ctrl-C when 10 batches are kept."""

    class Interrupted(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(list(place.glob("killed/batches/*/*.npz"))) == 10:
                raise KeyboardInterrupt
            return super().forward(x)

    networks = importlib.import_module("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "slow", lambda: Interrupted(*networks.linear()))
        assert main(command) == 130


@pytest.mark.parametrize("end", quick([interrupt, kill], interrupt))
def test_an_evaluation_that_is_killed_goes_on(end: Callable, place: Path, capsys) -> None:
    assert main(["evaluate", "networks:linear", *FLAGS, "--out", "whole"]) == 0
    end(["evaluate", "networks:slow", *FLAGS, "--out", "killed"], place)
    finished = {path: path.stat().st_mtime_ns for path in place.glob("killed/batches/*/*.npz")}
    assert 10 <= len(finished) < 32
    again = ["evaluate", "networks:slow", *FLAGS, "--out", "killed"]
    assert main(again) == 2
    assert "runs are never overwritten" in capsys.readouterr().err
    assert main([*again, "--resume", "true"]) == 0
    assert len(list(place.glob("killed/batches/*/*.npz"))) == 32
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    named = [row | {"method": "networks:linear"} for row in rows("killed")]
    assert named == rows("whole")
    assert main([*again, "--resume", "true", "--eps", "0.2"]) == 2
    assert "eps was 0.1 and is now 0.2" in capsys.readouterr().err
    (place / "networks.py").write_text(MODELS.replace("manual_seed(0)", "manual_seed(1)"))
    sys.modules.pop("networks")
    importlib.invalidate_caches()
    assert main([*again, "--resume", "true"]) == 0  # other weights: nothing of the old ones is taken
    assert len(list(place.glob("killed/batches/*/*.npz"))) == 64


@pytest.mark.thorough
def test_two_processes_are_one(place: Path) -> None:
    command = ["fastadv", "evaluate", "networks:wavy", *FLAGS, "--out"]
    assert main([*command[1:], "one"]) == 0
    flags = ["--standalone", "--nproc-per-node", "2", "-m"]
    assert fastadv("torch.distributed.run", *flags, *command, "two").wait(600) == 0
    assert rows("two") == rows("one")
    assert len(list(place.glob("two/batches/*/*.npz"))) == 32


@pytest.mark.numerics
def test_a_config_repeats_an_evaluation(place: Path) -> None:
    assert evaluate("networks:linear", "--eps", "0.03", "--checks", "0", "--out", "first") == 0
    assert main(["evaluate", "networks:linear", "--config", "first/config.yaml", "--out", "second"]) == 0
    assert rows("first") == rows("second")


@pytest.mark.usefixtures("rendered")
@pytest.mark.numerics
def test_a_sweep_of_budgets(place: Path, capsys) -> None:
    assert evaluate("networks:linear", "--sweep", "0.05, 0.02,0.1", "--out", "out") == 0
    found = rows("out", "sweep.csv")
    assert [(row["attack"], float(row["eps"])) for row in found] == [("pgd", eps) for eps in (0, 0.02, 0.05, 0.1)]
    clean, *_, last = [float(row["accuracy"]) for row in found]
    assert (clean, last) == (float(rows("out")[0]["accuracy"]), float(rows("out")[1]["accuracy"]))
    assert Path("out/sweep.png").read_bytes().startswith(b"\x89PNG")
    for flags, message in (
        (
            ["--sweep", "0.1,much"],
            "sweep must be budgets with commas between, such as 0.02,0.05 or 4/255,8/255, got '0.1,much'",
        ),
        (["--checks", "-1"], "checks must be a number of samples, or 0 for none, got -1"),
        (["--resume", "true"], "resume needs --out"),
    ):
        assert evaluate("networks:linear", *flags) == 2
        assert message in capsys.readouterr().err


def test_a_bound_that_is_told_and_stopped(place: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--attacks", "autoattack-fast", "--eps", "0.1", "--anytime", "true"]
    assert evaluate("networks:linear", *flags, "--out", "whole") == 0
    told = capsys.readouterr().out
    assert "after clean: 0 gradients a sample" in told
    assert "after step-pm: 0.2917 gradients a sample" in told  # one for each that was right
    assert evaluate("networks:linear", *flags[:-2], "--checks", "0", "--out", "usual") == 0
    assert rows("whole")[1]["accuracy"] == rows("usual")[1]["accuracy"]

    def interrupted(*given: object, **how: object):
        yield from itertools.islice(anytime(*given, **how), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastadv.commands._evaluate.anytime", interrupted)
    assert evaluate("networks:linear", *flags, "--out", "stopped") == 0
    assert "stopped: the figures are bounds by what was found so far" in capsys.readouterr().out
    accuracies = [float(rows(folder)[1]["accuracy"]) for folder in ("whole", "stopped")]
    assert accuracies[0] <= accuracies[1] < float(rows("stopped")[0]["accuracy"])
    for folder, stopped in (("whole", False), ("stopped", True)):
        (about,) = json.loads(Path(folder, "evaluation.json").read_text()).values()
        told = {each["check"]: each["text"] for each in about["findings"]}
        assert ("during step-pm" in told["stopped"]) if stopped else ("stopped" not in told)
        assert bool(about["test_sha256"]) == (not stopped)  # which the checks find
    for more, message in (
        (["--attacks", "pgd"], "anytime is for autoattack or autoattack-fast alone, got --attacks pgd"),
        (["--memory-format", "contiguous"], "anytime takes images as they are: leave memory_format out"),
        (["--save-samples", "new"], "anytime goes without transfer_from, save_samples, certify and resume"),
    ):
        assert evaluate("networks:linear", *flags, *more) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("rendered")
@pytest.mark.numerics
@pytest.mark.thorough
def test_both_sides_of_the_truth(place: Path, capsys) -> None:
    """Certified below attacked, in the table, per sample in evaluation.npz, and as a band in the report."""
    np.savez("data.npz", **dict(np.load("data.npz")) | {"y_test": linear_labels(np.load("data.npz")["x_test"])})
    flags = ["--attacks", "pgd,deepfool", "--eps", "0.15", "--certify", "interval,smoothing", "--draws", "20"]
    assert main(["evaluate", "networks:linear", "--data", "data.npz", *flags, "--sigma", "0.05", "--out", "out"]) == 0
    told = capsys.readouterr().out
    assert "smoothing: certified of the smoothed classifier, not of the network, which the attacks are on" in told
    found = rows("out", "certified.csv")
    assert [list(row.values())[:4] for row in found] == [
        ["interval-linf", "the network", "linf", "0.0"],
        ["interval-linf", "the network", "linf", "0.15"],
        ["interval-l2", "the network", "l2", "0.0"],
        ["smoothing", "smoothed", "l2", "0.0"],
    ]
    assert 0 < float(found[1]["certified"]) <= float(found[1]["attacked"]) < float(found[0]["attacked"]) == 1
    assert found[3]["attacked"] == ""  # no attack was on the smoothed classifier
    with np.load("out/evaluation.npz") as arrays:
        for norm in ("linf", "l2"):
            radii, fooled = (
                arrays[f"networks:linear/certificates/interval-{norm}/{key}"] for key in ("radii", "attacked")
            )
            assert (radii < fooled).all()
            assert (radii > 0).all()
        assert "networks:linear/certificates/smoothing/attacked" not in arrays
    for name in ("certified_linf", "certified_l2", "certified_smoothed"):
        assert Path(f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", "out", "--out", "page"]) == 0
    page = Path("page/report.html").read_text()
    for norm in ("linf", "l2"):
        assert f"Both sides of the robust accuracy in {norm}: certified and attacked" in page
        assert "certified to attacked" in Path(f"page/certified_{norm}.svg").read_text()
    assert "It is another classifier than the network, whose robust accuracy this does not bound" in page
    assert page.count("certified_") == 0  # what the evaluation drew is not shown a second time


def linear_labels(x: np.ndarray) -> np.ndarray:
    """The classes that `linear` in networks.py predicts."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))(torch.from_numpy(x)).argmax(1).numpy()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--certify", "crown"], "certify must be interval or smoothing, or both with a comma between, got 'crown'"),
        (["--certify", "interval", "--anytime", "true"], "anytime goes without transfer_from, save_samples, certify"),
    ],
)
def test_certificates_that_make_no_sense(flags: list[str], message: str, place: Path, capsys) -> None:
    assert evaluate("networks:linear", *flags, "--out", "out") == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.usefixtures("rendered")
def test_a_sweep_of_steps(place: Path, capsys) -> None:
    flags = ["--attacks", "pgd,fgsm,deepfool,mifgsm", "--steps", "20, 1,5"]
    assert evaluate("networks:linear", *flags, "--out", "out") == 0
    found = rows("out", "steps.csv")
    numbers = [(attack, str(n)) for attack in ("pgd", "mifgsm") for n in (0, 1, 5, 20)]
    assert [(row["attack"], row["steps"]) for row in found] == numbers  # fgsm has no steps, deepfool no budget
    whole = {row["attack"]: row for row in rows("out")}
    for row, name in ((found[0], "clean"), (found[3], "pgd")):  # the protocol's PGD has 20 steps
        assert {key: row[key] for key in ("accuracy", "low", "high")} == {
            key: whole[name][key] for key in ("accuracy", "low", "high")
        }
    assert float(found[3]["accuracy"]) < float(found[1]["accuracy"]) < float(found[0]["accuracy"])
    assert Path("out/steps.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", "out", "--out", "page"]) == 0
    page = Path("page/report.html").read_text()
    assert "Accuracy under pgd over its steps" in page
    assert "steps of out" not in page  # drawn anew, not shown twice
    assert Path("page/steps_pgd.svg").is_file()
    for flags, message in (
        (["--steps", "1,0"], "steps must be whole numbers with commas between, such as 1,5,10,20, got '1,0'"),
        (["--steps", "5", "--attacks", "fgsm"], "steps 5: none of fgsm has a budget and steps; add one, such as pgd"),
    ):
        assert evaluate("networks:linear", *flags) == 2
        assert message in capsys.readouterr().err


def test_findings_are_printed(place: Path, capsys) -> None:
    with np.load("data.npz") as arrays:
        np.savez("data.npz", **{**arrays, "x_train": arrays["x_test"]})
    assert evaluate("networks:linear") == 0
    assert "overlap: 24 of 24 test samples are training samples" in capsys.readouterr().out
    assert evaluate("networks:linear", "--checks", "0") == 0
    assert "overlap" not in capsys.readouterr().out


@pytest.mark.usefixtures("rendered")
@pytest.mark.numerics
def test_transfer_between_models(place: Path, capsys) -> None:
    models = ["networks:linear", "networks:slow", "networks:other"]
    flags = ["--data", "data.npz", "--attacks", "fgsm,pgd", "--eps", "0.2", "--out", "out"]
    assert main(["transfer", *models, *flags]) == 0
    found = {(row["attack"], row["source"], row["target"]): row for row in rows("out", "transfer.csv")}
    assert len(found) == 3 + 2 * 9
    alike = {key: row | {"target": ""} for key, row in found.items()}
    assert alike["pgd", models[2], models[0]] == alike["pgd", models[2], models[1]]  # the same network twice
    assert alike["pgd", models[2], models[0]] != alike["pgd", models[2], models[2]]
    assert Path("out/transfer.png").read_bytes().startswith(b"\x89PNG")
    for given, message in (
        (models[:1], "transfer is between models: give at least two, got 1"),
        ([models[0], models[0]], "has one twice"),
        ([models[0], "nowhere"], "no checkpoint at nowhere"),
    ):
        assert main(["transfer", *given, *flags[:-1], "none"]) == 2
        assert message in capsys.readouterr().err
        assert not Path("none").exists()
    assert main(["transfer", *models, "--out", "none"]) == 2
    assert "name them with --data" in capsys.readouterr().err
