"""A command plans, then acts, then writes: budgets, what is refused early, what is written when."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from toys import labels, runs_in_this_process, samples

from fastadv import commands, report
from fastadv.__main__ import main
from fastadv.attacks import DeepFool
from fastadv.commands import _plan
from fastadv.commands._plan import EvaluationPlan
from fastadv.data import Dataset, usual_eps
from fastadv.evaluation import Evaluation, evaluate
from fastadv.runs import load_checkpoint, names_apart
from fastadv.trainers import METHODS, Madry


def write(path: Path, *shape: int, test_shape: tuple[int, ...] = ()) -> str:
    """An archive of 40 training and 20 test images in 3 classes."""
    arrays = {"x_train": samples(40, *shape), "x_test": samples(20, *(test_shape or shape), seed=1)}
    arrays |= {"y_train": labels(40, 3), "y_test": labels(20, 3, seed=1)}
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})
    return str(path)


@pytest.fixture
def grey(tmp_path: Path) -> str:
    return write(tmp_path / "grey.npz", 1, 28, 28)


def train(method: str, data: str, out: Path, *flags: str) -> int:
    quick = ["--epochs", "1", "--test.attacks", "fgsm,pgd", "--out", str(out)]
    return main(["train", method, "--data", data, *quick, *flags])


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def budgets_in(folder: Path) -> set[float]:
    return {float(row["eps"]) for row in rows(folder / "attacks.csv") if row["eps"]}


# ------------------------------------------------------------------------------------------------------------- budgets


def test_one_budget_for_training_and_test(grey: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    assert train("madry", grey, run, "--eps", "0.05", "--attack.steps", "2") == 0
    attack = yaml.safe_load((run / "config.yaml").read_text())["attack"]["init_args"]
    assert (attack["eps"], attack["alpha"]) == (0.05, pytest.approx(0.007 * 0.05 / (8 / 255)))
    assert budgets_in(run) == {0.05}
    assert "eps 0.05 in training and in the test" in capsys.readouterr().out
    assert load_checkpoint(run)["eps"] == 0.05
    assert rows(run / "findings.csv") == [] or "budget" not in {row["check"] for row in rows(run / "findings.csv")}
    assert main(["evaluate", str(run), "--attacks", "fgsm", "--out", str(tmp_path / "again")]) == 0
    assert budgets_in(tmp_path / "again") == {0.05}


def test_the_budget_of_the_method_is_that_of_the_test(tmp_path: Path) -> None:
    colour = write(tmp_path / "colour.npz", 3, 28, 28)
    assert train("madry", colour, tmp_path / "run", "--attack.steps", "1") == 0
    assert budgets_in(tmp_path / "run") == {8 / 255}


def test_budgets_are_told_as_they_are() -> None:
    def told(trained: float | None) -> str:
        return EvaluationPlan(None, {"deepfool": DeepFool()}, 0.1, trained, commands.Testing()).budgets

    assert told(0.1) == "eps 0.1 in training and in the test"
    assert told(0.2) == "trained at eps 0.2, but tested at eps 0.1"  # though DeepFool asks for none
    assert told(None) == "eps 0.1 in the test"  # of a model from elsewhere nothing is known


def test_budgets_that_differ_are_told(grey: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    assert train("fgsm", grey, run, "--eps", "0.05", "--test.eps", "0.2") == 0
    assert budgets_in(run) == {0.2}
    differ = "trained at eps 0.05, but tested at eps 0.2"
    assert capsys.readouterr().out.count(differ) == 2  # before training, and below the table
    assert [row["text"] for row in rows(run / "findings.csv") if row["check"] == "budget"] == [differ]
    assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 0
    assert differ in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.parametrize(("shape", "eps"), [((1, 28, 28), 0.1), ((3, 28, 28), 8 / 255)])
def test_without_a_budget_in_training_the_test_takes_the_usual_one(shape, eps, tmp_path: Path, capsys) -> None:
    data = write(tmp_path / "data.npz", *shape)
    assert train("standard", data, tmp_path / "run") == 0
    assert budgets_in(tmp_path / "run") == {eps}
    assert f"standard: eps {eps:.4g} in the test" in capsys.readouterr().out
    assert train("standard", data, tmp_path / "other", "--eps", "0.02") == 0
    assert budgets_in(tmp_path / "other") == {0.02}


def test_a_comparison_has_one_budget(grey: str, tmp_path: Path) -> None:
    command = ["compare", "standard", "fgsm", "--data", grey, "--epochs", "1", "--attacks", "fgsm"]
    with runs_in_this_process():
        assert main([*command, "--eps", "0.07", "--out", str(tmp_path / "runs")]) == 0
    for name in ("standard", "fgsm"):
        assert budgets_in(tmp_path / "runs" / name) == {0.07}
    config = yaml.safe_load((tmp_path / "runs" / "fgsm" / "config.yaml").read_text())
    assert config["attack"]["init_args"]["eps"] == config["test"]["eps"] == 0.07


def test_budgets_of_methods() -> None:
    assert Madry().budget == 8 / 255
    assert Madry().at(0.1).budget == 0.1
    assert Madry().budget == 8 / 255
    for name in ("standard", "blind", "smd", "mma", "dra"):  # none; DeepFool; one a sample, twice; in L1
        method = METHODS[name]()
        assert method.budget is None
        assert type(method.at(0.1)) is type(method)


def test_usual_budgets() -> None:
    def data(*shape: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Dataset:
        return Dataset(samples(3, *shape), labels(3, 3), ("a", "b", "c"), bounds=bounds)

    assert usual_eps("mnist", data(1, 28, 28)) == usual_eps("mnist-10k", data(1, 28, 28)) == 0.3
    assert usual_eps("cifar10", data(3, 32, 32)) == 8 / 255
    assert usual_eps("photos", data(3, 32, 32, bounds=(-1.0, 1.0))) == 8 / 255  # of the range
    assert usual_eps("table", data(5)) == 0.1


def test_budgets_of_commands_are_shares_of_the_range(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The two circles lie in [-1, 1], where the share 0.05 is 0.1."""
    run, found = tmp_path / "run", tmp_path / "found"
    flags = ["--model", "two-circles-net", "--test.limit", "50", "--attack.steps", "3"]
    assert train("madry", "two-circles", run, "--eps", "0.05", *flags) == 0
    assert budgets_in(run) == {0.05}
    assert load_checkpoint(run)["eps"] == 0.05
    command = ["evaluate", str(run), "--limit", "50", "--attacks", "fgsm,deepfool", "--sweep", "0.02,0.05"]
    assert main([*command, "--out", str(found)]) == 0
    assert "eps 0.05 in training and in the test" in capsys.readouterr().out
    fgsm = next(row for row in rows(found / "attacks.csv") if row["attack"] == "fgsm")
    assert (float(fgsm["eps"]), float(fgsm["mean_rms"])) == (0.05, pytest.approx(0.05, rel=0.05))
    swept = {float(row["eps"]): row for row in rows(found / "sweep.csv")}
    assert swept[0.05]["accuracy"] == fgsm["accuracy"]


@pytest.mark.parametrize("label", ["true", "pred"])
def test_held_out_samples_are_attacked_as_in_the_test(label: str, grey: str, tmp_path: Path, monkeypatch) -> None:
    seen = []

    def measure(*given: object, **how: object) -> Evaluation:
        seen.append(how["label"])
        return evaluate(*given, **how)

    monkeypatch.setattr(_plan, "evaluate", measure)
    flags = ["--held-out", "10", "--patience", "3", "--test.label", label, "--test.limit", "5"]
    assert train("standard", grey, tmp_path / "run", *flags) == 0
    assert seen == [label, label]  # held out, and test


def test_the_label_decides_the_figure_that_is_watched() -> None:
    """A linear network of three classes that is always wrong: off its prediction, half of the samples are right."""
    x = torch.full((20, 2), 0.5, dtype=torch.float32)
    data = Dataset(x, 1 + torch.arange(20) % 2, ("a", "b", "c"))
    weights, bias = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), torch.tensor([2.2, 0.0, 0.0])
    model = nn.Linear(2, 3)
    model.weight.data, model.bias.data = weights, bias
    assert _plan.watch(data, "true")(model) == {"avg_aa": 0.0, "held_out_accuracy": 0.0}
    assert _plan.watch(data, "pred")(model)["avg_aa"] > 0


# ------------------------------------------------------------------------------------ refused before a folder is made


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_test_half_of_another_shape_is_refused_early(command: str, tmp_path: Path, capsys) -> None:
    data = write(tmp_path / "data.npz", 1, 28, 28, test_shape=(3, 28, 28))
    out = ["--data", data, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main([command, "standard", *out]) == 2
    assert "the test half has samples of shape [3, 28, 28], the training half [1, 28, 28]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attacks", "deepfool", "--sweep", "0.1"], "sweep 0.1: none of deepfool has a budget"),
        (["--attacks", "pgd", "--sweep", "0.1,8"], "did you mean 8/255"),
        (["--attacks", "fgsm", "--steps", "5"], "steps 5: none of fgsm has a budget and steps"),
        (["--attacks", "pgd", "--eps", "8"], "did you mean 8/255"),
    ],
)
def test_an_evaluation_that_cannot_end_is_refused_early(flags, message, grey: str, tmp_path: Path, capsys) -> None:
    assert train("standard", grey, tmp_path / "run") == 0
    assert main(["evaluate", str(tmp_path / "run"), *flags, "--out", str(tmp_path / "found")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


# ------------------------------------------------------------------------------------- written first, and drawn then


def test_what_cannot_be_drawn_costs_no_figure(grey: str, tmp_path: Path, monkeypatch, capsys) -> None:
    seen = []

    def broken(*of: object) -> Path:
        folder = Path(of[-1]).parent
        seen.append({name for name in ("table.csv", "evaluation.npz", "evaluation.json") if (folder / name).is_file()})
        raise RuntimeError("no ink [/red]\nand no paper")

    for plot in ("plot_history", "plot_examples", "plot_aa_curves", "plot_sweep"):
        monkeypatch.setattr(report, plot, broken)
    run, found = tmp_path / "run", tmp_path / "found"
    assert train("standard", grey, run, "--test.attacks", "fgsm,deepfool") == 0
    assert main(["evaluate", str(run), "--attacks", "fgsm", "--sweep", "0.1", "--out", str(found)]) == 0
    printed = capsys.readouterr().out
    assert "examples.png was not drawn: RuntimeError: no ink [/red]\n" in printed
    measured = {"table.csv", "evaluation.npz"}
    assert seen == [measured] * 4 + [{*measured, "evaluation.json"}]  # the last is the sweep's
    for folder in (run, found):
        assert (folder / "evaluation.json").is_file()
    assert len(rows(found / "sweep.csv")) == 2


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([], []),
        (["runs/pgd"], ["pgd"]),
        (["runs/pgd", "runs/trades/"], ["pgd", "trades"]),
        (["2024/pgd", "2025/pgd"], ["2024", "2025"]),
        (["here/pgd/model.safetensors", "there/fat/model.safetensors"], ["pgd", "fat"]),
        (["a/pgd", "b/pgd", "b/fat"], ["a/pgd", "b/pgd", "b/fat"]),
        (["best.pt", "runs/best.pt"], ["best.pt", "runs/best.pt"]),
        (["networks:weak", "runs/pgd"], ["networks:weak", "pgd"]),
    ],
)
def test_networks_are_called_what_tells_them_apart(given: list[str], names: list[str]) -> None:
    assert names_apart(given) == names


def test_a_network_cannot_be_given_twice() -> None:
    with pytest.raises(ValueError, match=r"models must differ: runs/pgd, runs/pgd/ has one twice"):
        names_apart(["runs/pgd", "runs/pgd/"])
