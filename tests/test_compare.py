"""``fastadv compare``: methods and seeds in processes of their own, one table, one page; stopped and resumed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import runs_in_this_process

from fastadv.__main__ import main
from fastadv.commands._compare import gpus, places
from fastadv.runs import Run, load_checkpoint

QUICK = ["--per-class", "3", "--epochs", "1", "--attacks", "fgsm,pgd", "--limit", "10", "--device", "cpu"]


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, each with two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "c"
    flags = ["--seeds", "2", "--seed", "5", "--eps", "0.05", "--lr", "0.01"]
    with runs_in_this_process():
        assert main(["compare", "standard", "friendly-mart", *QUICK, *flags, "--out", str(folder)]) == 0
    return folder


def test_a_run_for_every_method_and_seed(done: Path) -> None:
    table = rows(done / "table.csv")
    cases = [(method, seed) for method in ("standard", "friendly_mart") for seed in (5, 6)]
    assert [(row["method"], int(row["seed"])) for row in table] == cases
    for row, (method, seed) in zip(table, cases, strict=True):
        folder = done / method / f"seed-{seed}"
        assert rows(folder / "table.csv")[0] == {name: text for name, text in row.items() if name != "seed"}
        assert f"seed: {seed}\n" in (folder / "config.yaml").read_text()
        assert "epoch 1/1" in (folder / "log.txt").read_text()
    assert (
        "eps: 0.05" in (done / "friendly_mart" / "seed-5" / "config.yaml").read_text()
    )  # of the test, and in training
    first, second = (load_checkpoint(done / "standard" / f"seed-{seed}")["state"] for seed in (5, 6))
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_means_and_deviations(done: Path) -> None:
    table = rows(done / "table.csv")
    for row in rows(done / "summary.csv"):
        own = [each for each in table if each["method"] == row["method"]]
        assert int(row["seeds"]) == len(own) == 2
        for column in ("clean", "fgsm", "pgd", "worst", "seconds_per_epoch"):
            values = np.array([float(each[column]) for each in own])
            assert float(row[column]) == pytest.approx(values.mean())
            assert float(row[f"{column}_std"]) == pytest.approx(values.std(ddof=1))


def test_it_ends_in_the_report(done: Path) -> None:
    page = (done / "report.html").read_text()
    for name in ("standard/seed-5", "friendly_mart/seed-6", "standard, n = 2", "Means over seeds"):
        assert name in page
    assert (done / "training_loss.svg").is_file()
    assert "training loss of" not in page  # what a report drew is not shown as the run's own


@pytest.mark.thorough
def test_going_on(done: Path, capfd: pytest.CaptureFixture) -> None:
    """A finished run is left alone, a failed one is told of and does not stop the others, and is tried again."""
    flags = ["--seeds", "2", "--seed", "5", "--eps", "0.05", "--lr", "0.01", "--out", str(done)]
    command = ["compare", "standard", "friendly-mart", *QUICK, *flags]
    assert main(command) == 2
    assert "runs are never overwritten" in capfd.readouterr().err
    assert main([*command, "--resume", "auto", "--eps", "0.1"]) == 2
    assert "eps was 0.05 and is now 0.1" in capfd.readouterr().err
    folders = [done / name for name in ("standard/seed-5", "standard/seed-6", "friendly_mart/seed-5")]
    broken, killed, finished = folders
    times = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    whole = (done / "table.csv").read_text()
    for folder in (broken, killed):
        (folder / "evaluation.json").unlink()
    checkpoint = (broken / "checkpoint.pt").read_bytes()
    (broken / "checkpoint.pt").write_bytes(b"something else")
    other = done / "friendly_mart/seed-6"
    (other / "evaluation.json").unlink()
    held = Run(other, (other / "config.yaml").read_text(), {}, resume=True)
    assert main([*command, "--resume", "auto"]) == 2
    del held
    shown = capfd.readouterr()
    assert "standard/seed-5: failed with exit status 2" in shown.out
    assert "is damaged, or no checkpoint of fastadv" in shown.out
    assert f"friendly_mart/seed-6: process {os.getpid()} on " in shown.out
    assert "still trains it: wait for it, or stop it" in shown.out
    assert (
        f"2 of 4 runs failed (standard/seed-5, friendly_mart/seed-6): continue with --resume auto --out {done}"
        in shown.err
    )
    assert [(row["method"], row["seed"]) for row in rows(done / "table.csv")] == [
        ("standard", "6"),
        ("friendly_mart", "5"),
    ]
    (broken / "checkpoint.pt").write_bytes(checkpoint)
    assert main([*command, "--resume", "auto"]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == times
    assert (done / "table.csv").read_text() == whole
    for path in killed.iterdir():  # as before it had its config.yaml
        if path.name != "environment.json":
            path.unlink()
    assert main([*command, "--resume", "auto"]) == 0
    assert (killed / "evaluation.json").is_file()


def test_two_comparisons_in_one_folder(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "c").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastadv.commands._compare.run_all", lambda *_: [])
        command = ["compare", "standard", *QUICK, "--out", str(tmp_path / "c"), "--resume", "auto"]
        assert main(command) == 0
        held = Run(tmp_path / "c", (tmp_path / "c/config.yaml").read_text(), {}, resume=True)
        assert main(command) == 2
        assert held.folder.is_dir()
    assert f"{tmp_path / 'c'} is in use by process {os.getpid()}" in capfd.readouterr().err


def test_runs_import_what_the_comparison_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what lies in the working directory; and each says of its own process where it ran."""
    (tmp_path / "queue.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    (tmp_path / "fastadv").mkdir()
    (tmp_path / "fastadv" / "__init__.py").write_text("raise SystemExit('another checkout')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastadv.commands._compare.environment", lambda: {"torch": "the comparison's"})
    assert main(["compare", "standard", *QUICK, "--out", "c"]) == 0
    assert not Path("ran").exists()
    assert json.loads(Path("c/environment.json").read_text()) == {"torch": "the comparison's"}
    assert "epoch 1/1" in Path("c/standard/log.txt").read_text()
    assert json.loads(Path("c/standard/environment.json").read_text())["torch"] == torch.__version__


@pytest.mark.thorough
def test_a_signal_saves_and_stops_all(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    command = [sys.executable, "-m", "fastadv", "compare", "standard", *QUICK, "--epochs", "200", "--out", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = folder / "standard" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    assert f"stopped and saved: continue with --resume auto --out {folder}" in running.communicate(timeout=600)[1]
    assert running.returncode == 143
    assert 3 < load_checkpoint(folder / "standard")["epoch"] < 200
    assert not (folder / "report.html").exists()
    assert subprocess.run([*command, "--resume", "auto"], env=environment, check=False).returncode == 0
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, 201))
    assert (folder / "standard" / "log.txt").read_text().count("epoch 2/200") == 1  # it went on
    assert not (folder / "summary.csv").exists()  # there is one seed
    assert rows(folder / "table.csv")[0]["method"] == "standard"


@pytest.mark.thorough
def test_a_budget_of_minutes(tmp_path: Path) -> None:
    flags = ["--minutes", "0.05", "--out", str(tmp_path / "c")]
    assert main(["compare", "fgsm", *QUICK, *flags]) == 0
    history = [json.loads(line) for line in (tmp_path / "c/fgsm/metrics.jsonl").read_text().splitlines()]
    assert len(history) > 1  # whatever epochs says
    assert sum(row["seconds"] for row in history) >= 3


def test_places() -> None:
    """Runs take GPUs in turn, one each unless more are asked for, and share the threads."""
    on = [(place.get("CUDA_VISIBLE_DEVICES"), place["OMP_NUM_THREADS"]) for place in places(0, 9, ["0", "3"], 8)]
    assert on == [("0", "4"), ("3", "4")]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(5, 9, ["0", "3"], 8)] == ["0", "3", "0", "3", "0"]
    assert places(0, 9, [], 8) == [{"OMP_NUM_THREADS": "8"}]
    assert places(3, 9, [], 2) == [{"OMP_NUM_THREADS": "1"}] * 3
    assert places(8, 2, [], 8) == [{"OMP_NUM_THREADS": "4"}] * 2  # no more than there are runs


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus("auto") == gpus("cuda") == ["0", "1"]
    assert gpus("cpu") == gpus("cuda:1") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert gpus("auto") == ["4", "GPU-7"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--at-a-time", "-1"], "at_a_time must be at least 0, got -1"),
        (["--minutes", "1", "--schedule", "cosine"], "leave out minutes, or the schedule cosine"),
    ],
)
def test_bad_input(flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", "standard", *flags, "--out", str(tmp_path / "c")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("fastadv.commands._compare.launched", lambda: True)
    assert main(["compare", "standard", "--out", str(tmp_path / "c")]) == 2
    assert "start it without torchrun" in capsys.readouterr().err
