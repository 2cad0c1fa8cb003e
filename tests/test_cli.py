"""The command line end to end: run folders, tables, figures, and what it says about bad input."""

import csv
import dataclasses
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from toys import stop_at_a_checkpoint

import fastadv
from fastadv import info, ops
from fastadv.__main__ import main
from fastadv.attacks import DDN, PGD, DeepFool, FriendlyPGD
from fastadv.commands import Training, _estimate
from fastadv.commands._estimate import estimate
from fastadv.commands._plan import TrainingPlan, plan_training
from fastadv.data import load
from fastadv.evaluation import AACurve
from fastadv.ops import _kernels
from fastadv.runs import CHECKPOINT, Run, load_checkpoint
from fastadv.trainers import METHODS, Blind, FreeAT, Friendly, Madry, Standard, fit

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small data set of real images: 96 to train on, 20 to test on."""
    train, test = (load("fashion-mnist-mini", split) for split in ("train", "test"))
    path = tmp_path_factory.mktemp("data") / "small.npz"
    arrays = {"x_train": train.x[:96], "y_train": train.y[:96], "x_test": test.x[:20], "y_test": test.y[:20]}
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return str(path)


@pytest.mark.usefixtures("rendered")
def test_train_fills_a_run_folder(images: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "run"
    flags = ["--data", images, "--epochs", "2", "--batch-size", "32", "--rho", "0.5", "--out", str(folder)]
    assert main(["train", "blind", *flags]) == 0
    printed = capsys.readouterr().out
    assert "one of normal training takes" in printed
    assert "avg-AA(0.08)" in printed
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert (settings["rho"], settings["epochs"], settings["batch_size"]) == (0.5, 2, 32)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in lines] == [1, 2]
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in lines]
    assert json.loads((folder / "environment.json").read_text())["torch"] == torch.__version__
    saved = load_checkpoint(folder)
    assert (saved["method"], saved["model"], saved["shape"]) == ("blind", "lenet5", [1, 28, 28])
    assert saved["epoch"] == 2
    for figure in ("aa_deepfool.png", "examples.png", "history.png"):
        assert (folder / figure).read_bytes().startswith(PNG)
    with (folder / "table.csv").open() as file:
        assert 0 <= float(next(csv.DictReader(file))["deepfool_avg_aa"]) <= 1

    assert main(["train", "blind", *flags]) == 2  # the folder exists
    assert "never overwritten" in capsys.readouterr().err


def test_a_stopped_run_keeps_its_last_epoch(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    log = Run.log

    def log_and_stop(self: Run, row: dict) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt
        log(self, row)

    monkeypatch.setattr(Run, "log", log_and_stop)
    assert main(["train", "standard", "--data", images, "--epochs", "3", "--out", str(tmp_path / "run")]) == 130
    assert "the last checkpoint of a run" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "run")["epoch"] == 1


def test_a_collapsed_run_ends_with_its_best_epoch(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    figures, curve = iter([0.4, 0.5, 0.1]), AACurve.average
    asked = lambda self, theta: next(figures) if theta == 1 else curve(self, theta)  # noqa: E731
    monkeypatch.setattr(AACurve, "average", asked)
    flags = ["--epochs", "9", "--held-out", "10", "--collapse", "0.5", "--test.attacks", "fgsm"]
    assert main(["train", "standard", "--data", images, *flags, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "stopped after 3 of 9 epochs" in printed
    assert "it collapsed; the network is that of its best epoch again" in printed
    assert load_checkpoint(tmp_path / "run" / "best.pt")["epoch"] == 2


def test_a_run_repeats_from_its_own_config(images: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--data", images, "--epochs", "1", "--attack.steps", "2", "--test.attacks", "fgsm"]
    assert main(["train", "pgd", *flags, "--out", str(first)]) == 0
    assert main(["train", "pgd", "--config", str(first / "config.yaml"), "--out", str(second)]) == 0
    a, b = load_checkpoint(first), load_checkpoint(second)
    assert all(torch.equal(a["state"][key], b["state"][key]) for key in a["state"])


def test_a_run_says_and_keeps_the_memory_format_it_chose(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def choose(*_: object) -> str:
        logging.getLogger("fastadv").info("images are contiguous")
        return "contiguous"

    def never(*_: object) -> str:
        raise AssertionError("nothing is left to choose")

    monkeypatch.setattr("fastadv.trainers._state.chosen_format", choose)
    flags = ["--data", images, "--epochs", "2", "--attack.steps", "2", "--test.attacks", "fgsm"]
    first = tmp_path / "first"
    with stop_at_a_checkpoint():
        assert main(["train", "pgd", *flags, "--out", str(first)]) == 130
    assert "images are contiguous" in capsys.readouterr().out
    monkeypatch.setattr("fastadv.trainers._state.chosen_format", never)
    assert main(["train", "pgd", *flags, "--out", str(first), "--resume", "true"]) == 0
    assert yaml.safe_load((first / "config.yaml").read_text())["memory_format"] == "contiguous"
    assert load_checkpoint(first)["memory_format"] == "contiguous"
    assert json.loads((first / "evaluation.json").read_text())["pgd"]["memory_format"] == "contiguous"
    capsys.readouterr()
    assert main(["train", "pgd", *flags, "--out", str(first), "--resume", "true", "--memory-format", "preserve"]) == 2
    assert "memory_format was 'contiguous' and is now 'preserve'" in capsys.readouterr().err
    assert main(["train", "pgd", "--config", str(first / "config.yaml"), "--out", str(tmp_path / "second")]) == 0
    assert load_checkpoint(tmp_path / "second")["memory_format"] == "contiguous"


def test_a_stopped_run_goes_on(images: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "run"
    flags = ["train", "pgd", "--data", images, "--attack.steps", "2", "--batch-size", "40", "--seed", "4"]
    flags += ["--milestones", "[2]", "--augment", "shift-flip", "--held-out", "16"]
    flags += ["--optimizer", "sgd", "--lr", "0.05", "--test.attacks", "fgsm"]
    assert main([*flags, "--epochs", "3", "--out", str(tmp_path / "whole")]) == 0
    run_on = [*flags, "--epochs", "3", "--out", str(folder), "--resume", "true"]
    with stop_at_a_checkpoint():
        assert main(run_on) == 130  # nothing there yet: it begins
    assert load_checkpoint(folder)["epoch"] == 1
    capsys.readouterr()
    assert main([*run_on, "--lr", "0.01"]) == 2
    assert "lr was 0.05 and is now 0.01" in capsys.readouterr().err
    assert main(run_on) == 0
    a, b = load_checkpoint(tmp_path / "whole"), load_checkpoint(folder)
    assert all(torch.equal(a["state"][key], b["state"][key]) for key in a["state"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["avg_aa"] <= 1 for row in rows)


def test_samples_sorted_by_class_are_not_held_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    y = np.repeat(np.arange(3), 40)
    x = np.random.default_rng(0).random((120, 1, 28, 28), dtype=np.float32)
    np.savez(tmp_path / "sorted.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    command = ["train", "standard", "--data", str(tmp_path / "sorted.npz"), "--epochs", "1", "--test.limit", "80"]
    for count, what in ((30, "the last 30 samples hold none of class 0, 1"), (50, "the others hold none of class 2")):
        assert main([*command, "--held-out", str(count)]) == 2
        assert f"held_out: {what}: the training samples are sorted by class" in capsys.readouterr().err
    assert main([*command, "--test.attacks", "fgsm", "--out", str(tmp_path / "run")]) == 0
    assert "none of the 80 samples is of class 2" in " ".join(capsys.readouterr().out.split())


def test_any_attack_can_be_chosen_by_its_name(images: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--data", images, "--epochs", "1", "--attack", "PGD", "--attack.steps", "2", "--labels", "smooth"]
    flags += ["--mean", "0.5", "--std", "0.5", "--test.attacks", "fgsm"]
    assert main(["train", "bilateral", *flags, "--out", str(first)]) == 0
    assert yaml.safe_load((first / "config.yaml").read_text())["attack"]["class_path"] == "PGD"
    assert main(["train", "bilateral", "--config", str(first / "config.yaml"), "--out", str(second)]) == 0
    a, b = load_checkpoint(first), load_checkpoint(second)
    assert all(torch.equal(a["state"][key], b["state"][key]) for key in a["state"])
    assert {key.split(".")[0] for key in a["state"]} == {"model"}  # behind its normalisation
    assert main(["evaluate", str(first), "--attacks", "pgd", "--transfer-from", str(second)]) == 0


@pytest.mark.parametrize(("schedule", "kept"), [("[1]", [1]), ("math.isqrt", "math.isqrt")])
def test_tau_is_scheduled_by_epochs_or_by_a_function(schedule, kept, images: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--data", images, "--epochs", "2", "--attack.steps", "3", "--test.attacks", "fgsm", "--trusted", "true"]
    assert main(["train", "friendly-mart", *flags, "--tau-schedule", schedule, "--out", str(first)]) == 0
    assert yaml.safe_load((first / "config.yaml").read_text())["tau_schedule"] == kept
    again = ["--config", str(first / "config.yaml"), "--trusted", "true"]
    assert main(["train", "friendly-mart", *again, "--out", str(second)]) == 0
    a, b = load_checkpoint(first), load_checkpoint(second)
    assert all(torch.equal(a["state"][key], b["state"][key]) for key in a["state"])


@pytest.mark.thorough
def test_a_second_phase_starts_from_the_weights_of_a_first(images: str, tmp_path: Path, capsys) -> None:
    flags = ["--data", images, "--epochs", "1", "--lr", "0", "--test.attacks", "fgsm"]
    for name in ("first", "cosine"):
        head = ["--cosine", "5"] if name == "cosine" else []
        assert main(["train", "standard", *flags, *head, "--seed", "3", "--out", str(tmp_path / name)]) == 0
        for method in ("dra", "spat"):
            out = tmp_path / f"{name}-{method}"
            assert main(["train", method, *flags, *head, "--weights", str(tmp_path / name), "--out", str(out)]) == 0
            before, after = (load_checkpoint(folder)["state"] for folder in (tmp_path / name, out))
            assert all(torch.equal(before[key], after[key]) for key in before)
            assert main(["evaluate", str(out), "--attacks", "fgsm"]) == 0
    assert load_checkpoint(tmp_path / "cosine-spat")["cosine"] == 5
    capsys.readouterr()
    assert main(["train", "spat", *flags, "--weights", str(tmp_path / "cosine"), "--out", str(tmp_path / "no")]) == 2
    assert f"the weights in {tmp_path / 'cosine'} do not fit lenet5" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_schedule_beyond_the_run_is_pointed_out(images: str, tmp_path: Path, capsys) -> None:
    flags = ["--data", images, "--epochs", "1", "--attack.steps", "1", "--test.attacks", "fgsm"]
    assert main(["train", "friendly", *flags, "--out", str(tmp_path / "a")]) == 0
    assert "friendly: tau_schedule [50, 90] is beyond the 1 epochs of this run" in capsys.readouterr().out
    assert main(["train", "friendly", *flags, "--tau_schedule", "[]", "--out", str(tmp_path / "b")]) == 0
    assert "tau_schedule" not in capsys.readouterr().out


@pytest.mark.usefixtures("rendered")
def test_margins_of_samples_are_drawn_and_kept(images: str, tmp_path: Path) -> None:
    out = tmp_path / "smd"
    assert main(["train", "smd", "--data", images, "--epochs", "3", "--test.attacks", "fgsm", "--out", str(out)]) == 0
    kept = load_checkpoint(out)["kept"]
    assert kept["histogram"].sum(1).tolist() == [len(kept["margins"])] * 3
    assert kept["histogram_correct"].sum(1)[-1] == kept["correct"].sum() < len(kept["margins"])
    with (out / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["margin"]) == pytest.approx(float(kept["margins"].mean()))
    assert (out / "margins.png").stat().st_size > 10_000


def test_normal_training_is_timed_whatever_the_plan(images: str, tmp_path: Path, capsys) -> None:
    flags = ["--epochs", "2", "--warmup", "2", "--held-out", "16", "--patience", "1", "--collapse", "0.1"]
    flags += ["--optimizer", "sgd", "--lr", "1e30", "--clip", "1e-32"]  # which only the plan keeps from diverging
    out = ["--test.attacks", "fgsm", "--out", str(tmp_path / "run")]
    assert main(["train", "standard", "--data", images, *flags, *out]) == 0
    assert "one of normal training takes" in capsys.readouterr().out


class Clock:
    """A network's forward passes, for seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.passes = 0
        build = TrainingPlan.build

        def counted(plan: TrainingPlan) -> torch.nn.Module:
            model = build(plan)
            model.register_forward_pre_hook(self.tick)
            return model

        monkeypatch.setattr(TrainingPlan, "build", counted)
        monkeypatch.setattr(_estimate, "time", SimpleNamespace(perf_counter=lambda: float(self.passes)))

    def tick(self, *_: object) -> None:
        self.passes += 1


def test_estimates_are_what_runs_then_take(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, options = Clock(monkeypatch), Training(data=images, epochs=3, batch_size=40, held_out=6, patience=2)
    for method in (Standard(), Madry(attack=PGD(eps=0.1, alpha=0.01, steps=7)), FreeAT(replays=3)):
        plan = plan_training("it", method, options)
        found = estimate(plan)
        model, clock.passes = plan.build(), 0
        fit(model, method, plan.train, epochs=3, batch_size=40, validate=plan.watch)
        assert found.seconds == pytest.approx(clock.passes, rel=0.2)  # what validation takes follows from the network
        assert found.at_most == (None if isinstance(method, FreeAT) else found.seconds)
        assert str(found).startswith("about ")


def test_estimates_of_attacks_that_stop_early_are_bounded(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, options = Clock(monkeypatch), Training(data=images, epochs=2, batch_size=40)
    friendly = Friendly(attack=FriendlyPGD(eps=0.3, alpha=0.1, steps=9), tau_schedule=[])
    plan = plan_training("friendly", friendly, options)
    found = estimate(plan)
    model, clock.passes = plan.build(), 0
    fit(model, friendly, plan.train, epochs=2, batch_size=40)
    assert 0 < found.gradients < found.most == 9
    assert found.a_pass == 1
    assert found.at_least <= clock.passes <= found.at_most
    assert " to " in str(found)
    deepfool, ddn = Blind(attack=DeepFool(steps=4, candidates=3)), Blind(attack=DDN(steps=2))
    assert estimate(dataclasses.replace(plan, method=deepfool)).most == 8
    assert estimate(dataclasses.replace(plan, method=ddn)).at_most is None


def test_estimating_trains_nothing(images: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--data", images, "--epochs", "1", "--estimate", "true", "--out", str(tmp_path / "run")]
    assert main(["train", "friendly", *flags]) == 0
    assert main(["compare", "standard", "fgsm", *flags, "--seeds", "3"]) == 0
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "friendly",
        "standard, for each of 3 seeds",
        "fgsm, for each of 3 seeds",
    ]
    assert not (tmp_path / "run").exists()
    assert main(["train", "friendly", *flags, "--minutes", "3"]) == 2
    assert "training with minutes 3 takes that long" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_folder_may_have_the_name_of_a_method(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data", images, "--epochs", "1", "--attacks", "fgsm", "--limit", "5"]
    assert main(["compare", "friendly-mart", "friendly_trades", *flags, "--out", "friendly-mart"]) == 0
    assert sorted(path.name for path in Path("friendly-mart").iterdir() if path.is_dir()) == [
        "friendly_mart",
        "friendly_trades",
    ]
    shutil.move("friendly-mart/friendly_mart", "friendly-trades")
    assert main(["evaluate", "friendly-trades", "--attacks", "fgsm", "--limit", "5"]) == 0


@pytest.mark.usefixtures("rendered")
@pytest.mark.thorough
def test_compare_makes_one_table_and_one_page(images: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "both"
    flags = ["--data", images, "--epochs", "1", "--eps", "0.05", "--attacks", "pgd, deepfool, apgd"]
    flags += ["--out", str(folder)]
    assert main(["compare", "standard", "fgsm", *flags]) == 0
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["standard", "fgsm"]
    attacks = {"pgd", "apgd", "worst", "deepfool_avg_aa", "deepfool_norm"}
    assert set(rows[0]) == {"method", "seed", "clean", "seconds_per_epoch"} | attacks
    assert "eps 0.05" in capsys.readouterr().out
    for figure in ("aa_deepfool.png", "training_gradients.png"):
        assert (folder / figure).read_bytes().startswith(PNG)
    assert "Accuracy in % on 20 test samples of small" in (folder / "report.html").read_text()
    assert load_checkpoint(folder / "fgsm")["method"] == "fgsm"


def test_evaluate_repeats_the_table_of_training(images: str, tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    assert main(["train", "standard", "--data", images, "--epochs", "1", "--out", str(run)]) == 0
    assert not (run / "gradients.png").exists()  # the method counts none
    assert main(["evaluate", str(run), "--out", str(again)]) == 0  # on the data it was trained with
    tables = [next(csv.DictReader((folder / "table.csv").read_text().splitlines())) for folder in (run, again)]
    tables[0].pop("seconds_per_epoch")
    assert tables[0] == tables[1]
    assert main(["evaluate", str(run), "--data", images, "--label", "pred", "--limit", "5"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "pgd", "--attack.eps", "8"], "did you mean 8/255 = 0.0314"),
        (["train", "blind", "--rho", "1.5"], "rho must be in [0, 1], got 1.5"),
        (["train", "standard", "--model", "lenet6"], "unknown model 'lenet6'"),
        (["train", "standard", "--model", "two-circles-net"], "separates two classes of points"),
        (["train", "standard", "--data", "fashion-mnits"], "Did you mean 'fashion-mnist'"),
        (["train", "standard", "--data", "nowhere.npz"], "nowhere.npz"),
        (["train", "standard", "--data", "fashion-mnist", "--folder", "no/such/folder"], "no/such/folder"),
        (["train", "standard", "--data", "svhn"], "To fix: pip install scipy"),
        (["train", "standard", "--epochs", "0"], "epochs must be a whole number of at least 1"),
        (["train", "standard", "--device", "tpu9"], "device 'tpu9' cannot be used here"),
        (["train", "standard", "--test.eps", "-1"], "eps must be positive, got -1"),
        (["train", "standard", "--test.attacks", "pdg"], "unknown attack 'pdg'"),
        (["train", "standard", "--test.theta", "0"], "theta must be positive, got 0"),
        (["train", "standard", "--augment", "mirror"], "augment must be one of none, crop-flip"),
        (["train", "standard", "--optimizer", "lion"], "optimizer must be one of adam, adamw, sgd, got 'lion'"),
        (["train", "standard", "--patience", "3"], "need samples to measure on: set held_out"),
        (["train", "standard", "--held-out", "6000"], "held_out must leave samples to train on"),
        (["train", "standard", "--resume", "true"], "resume needs --out"),
        (["train", "standard", "--data", "two-circles", "--model", "two-circles-net", "--mean", "0.5"], "for images"),
        (["train", "standard", "--mean", "0.5,0.4"], "mean must be one number or 1, one a channel, got 2: [0.5, 0.4]"),
        (
            ["train", "standard", "--data", "two-circles", "--model", "two-circles-net", "--augment", "crop-flip"],
            "must be a floating-point batch of images",
        ),
        (["compare", "standard", "normal"], "unknown method 'normal'"),
        (["evaluate", "no-such-run"], "no checkpoint at no-such-run"),
        (["train", "standard", "--out", "/proc/run"], "cannot make run folder"),
    ],
)
def test_bad_input_gets_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # as where it is not installed
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.yaml"))  # no run folder is left behind


def test_unknown_methods_and_types_are_refused_by_the_parser(capsys: pytest.CaptureFixture) -> None:
    for arguments in (["train", "blnd"], ["train", "blind", "--rho", "much"], ["fly"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "unknown method 'blnd'; did you mean 'blind'?" in capsys.readouterr().err


def test_checkpoints_are_read_without_running_code(tmp_path: Path, images: str) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for name, content in (("evil.pt", Evil()), ("other.pt", {"state_dict": {}})):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=r"no checkpoint of fastadv"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.save({"format": 99, "state": {}}, tmp_path / "later.pt")
    with pytest.raises(ValueError, match="format 99"):
        load_checkpoint(tmp_path / "later.pt")
    flags = ["--data", images, "--epochs", "1", "--test.attacks", "fgsm"]
    assert main(["train", "standard", *flags, "--out", str(tmp_path / "run")]) == 0
    whole = (tmp_path / "run" / CHECKPOINT).read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path / "half.pt")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_flags(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", name, "--help-all"])
    printed = capsys.readouterr().out
    flags = [f"--{field.name}".replace("_", "-") for field in dataclasses.fields(METHODS[name])]
    assert [flag for flag in flags if flag not in printed] == []


def test_info_is_a_doctor() -> None:
    report = info.doctor()
    for name in (*ops.OPS, *ops.PASSES):
        assert name in report
    assert torch.__version__ in report
    if ops.MISSING["cpu"]:
        assert "reference" in report
    else:
        assert "against torch" in report


BUILT_FOR_CPU = {
    "torch": "2.13.0+cpu",
    "compiler": "g++ 12",
    "cpu_targets": "AVX2, x86-64",
    "cpu_selected": "AVX2",
    "cuda": "",
    "cuda_architectures": "",
    "cuda_obstacle": "PyTorch 2.13.0+cpu is a CPU build",
}


def test_a_wheel_for_every_python_has_the_words_of_the_module_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = tmp_path / "_build.json"
    recorded.write_text(json.dumps(BUILT_FOR_CPU | {"cpu_selected": "the builder's"}))
    monkeypatch.setattr(ops._kernels, "RECORDED", recorded)
    monkeypatch.setitem(sys.modules, "fastadv._info", None)
    monkeypatch.delattr(fastadv, "_info", raising=False)
    here = ops._kernels._selected(Path("/proc/cpuinfo").read_text())
    assert ops.build_info() == BUILT_FOR_CPU | {"cpu_selected": here}
    recorded.unlink()
    assert "_info" in ops.build_info()


AVX2_FLAGS = "avx avx2 bmi1 bmi2 f16c fma abm movbe"
AVX512_FLAGS = f"{AVX2_FLAGS} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "selected"),
    [("sse4_2 avx", "x86-64"), (AVX2_FLAGS, "AVX2"), (AVX2_FLAGS + " avx512f", "AVX2"), (AVX512_FLAGS, "AVX-512")],
)
def test_instruction_sets_are_those_of_the_processor(flags: str, selected: str) -> None:
    assert ops._kernels._selected(f"model name : x\nflags\t\t: fpu {flags} lm\nbugs : none\n") == selected


def test_the_processor_is_told_as_the_compiler_tells_it() -> None:
    info = pytest.importorskip("fastadv._info")
    assert ops._kernels._selected(Path("/proc/cpuinfo").read_text()) == info.build()["cpu_selected"]


@pytest.mark.parametrize("visible", [False, True])
def test_kernels_built_for_the_cpu_are_not_all_that_a_cuda_torch_can_run(
    visible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ops, ops._kernels):
        monkeypatch.setattr(module, "build_info", lambda: BUILT_FOR_CPU)
    monkeypatch.setattr(ops._kernels.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("FASTADV_NO_EXT", raising=False)
    monkeypatch.setattr(ops, "MISSING", {"cpu": None, "cuda": ops._kernels.load("_cuda")})
    monkeypatch.setattr(torch, "__version__", "2.14.0+cu130")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    report = info.doctor()
    assert "build   against torch 2.13.0+cpu by g++ 12; it runs with 2.14.0+cu130" in report
    why = "fastadv was built without them, against torch 2.13.0+cpu: PyTorch 2.13.0+cpu is a CPU build"
    assert f"No compiled cuda kernels: {why}\n" in report
    assert "installed here" not in report
    assert f"with the nvcc of a CUDA 13 toolkit on PATH: {ops.repair(cuda=True)}" in report
    assert ("No GPU is visible here" in report) == (not visible)
    assert "in place:" not in report
    assert "is in place" not in report


def test_a_cpu_torch_runs_all_that_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTADV_NO_EXT", raising=False)
    monkeypatch.setattr(ops, "MISSING", {"cpu": None, "cuda": "a reason"})
    monkeypatch.setattr(torch.version, "cuda", None)
    assert info.doctor().endswith("Everything that this PyTorch can run is in place: it is a CPU build.")


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code where no checkout hides the fastadv that is installed."""
    here = Path(__file__).parent
    command, env = [sys.executable, "-c", code], os.environ | environment
    return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False)


def test_unloadable_modules_cost_one_warning_and_nothing_else() -> None:
    code = (
        "import importlib.util, torch, types\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: types.SimpleNamespace(origin='/nowhere/_cpu.so')\n"
        "import fastadv\n"
        "importlib.util.find_spec = find\n"
        "from fastadv.info import doctor\n"
        "print(doctor())\n"
    )
    done = python(code, FASTADV_NO_EXT="0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning") == 1
    assert "_cpu.so does not load" in done.stderr
    assert ops.repair() in done.stderr
    assert "No compiled cpu kernels: _cpu.so does not load" in done.stdout
    assert ops.repair() in done.stdout


@pytest.mark.parametrize(
    ("here", "said"),
    [("12.8", "_cuda.so is for PyTorch with CUDA 13"), ("13.2", "does not load"), (None, "does not load")],
)
def test_kernels_for_another_cuda_are_not_loaded(monkeypatch, here, said) -> None:
    """They would be where the system has that CUDA's libraries, which PyTorch does not use."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin="/nowhere/_cuda.so"))
    monkeypatch.setattr(_kernels, "build_info", lambda: {"cuda": "13.0", "cuda_obstacle": "", "torch": "2.14.1"})
    monkeypatch.setattr(torch.version, "cuda", here)
    monkeypatch.delenv("FASTADV_NO_EXT", raising=False)
    assert said in _kernels.load("_cuda")


def test_switched_off_kernels_are_silent_and_named() -> None:
    done = python("from fastadv.info import doctor; print(doctor())", FASTADV_NO_EXT="1")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "unset FASTADV_NO_EXT" in done.stdout


def test_importing_fastadv_is_light() -> None:
    heavy = "matplotlib rich jsonargparse yaml"
    done = python(f"import fastadv, sys; print([m for m in '{heavy}'.split() if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
