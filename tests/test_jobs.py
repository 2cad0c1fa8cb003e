"""The runs of a sweep: in processes here, as jobs of Slurm through submitit, and on the workers of a dask cluster."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastadv.__main__ import main
from fastadv.commands._jobs import Job, check_executor, execute, on_cluster, run_all
from fastadv.runs import Run

ENDS = "import sys, pathlib; print('job: done'); pathlib.Path(sys.argv[1], 'last').touch()"
FAILS = "print('job: a line'); raise SystemExit(3)"
SAVES = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_):
    (folder / "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
(folder / "new").write_text(str(os.getppid()))
(folder / "new").rename(folder / "begun")
time.sleep(600)
"""
QUICK = ["--per-class", "3", "--epochs", "1", "--limit", "10", "--device", "cpu"]


def job(folder: Path, code: str = ENDS, last: str = "last") -> Job:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", code, str(folder)]
    return Job(folder.name, command, folder, last, {"job: ": f"{folder.name} says "})


def never() -> bool:
    return False


def wait_for(path: Path) -> None:
    end = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def dask() -> Iterator[str]:
    """Two workers on this machine."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**how) as cluster:
        yield f"dask:{cluster.scheduler_address}"


@contextmanager
def slurm() -> Iterator[str]:
    """submitit's executor of this machine, which has the interface of that of Slurm."""
    submitit = pytest.importorskip("submitit", reason="submitit is not installed")

    class Here(submitit.LocalExecutor):
        def update_parameters(self, time: int, **parameters: str) -> None:
            super().update_parameters(timeout_min=time, **parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submitit, "SlurmExecutor", Here)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield "slurm"


@contextmanager
def local() -> Iterator[str]:
    yield "local"


executors = pytest.mark.parametrize(
    "executor", [local, pytest.param(slurm, marks=pytest.mark.thorough), pytest.param(dask, marks=pytest.mark.thorough)]
)


@executors
def test_what_is_not_finished_runs(executor: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """More jobs than places; the log is passed on; a failed job does not stop the others."""
    before, broken = job(tmp_path / "before"), job(tmp_path / "broken", FAILS)
    (before.folder / "last").touch()
    others = [job(tmp_path / name) for name in ("a", "b", "c")]
    with executor() as name:
        assert run_all([before, broken, *others], name, tmp_path, [{}, {}], never) == [broken]
    assert [each.finished for each in others] == [True] * 3
    assert not before.log.exists()
    shown = capsys.readouterr().out
    assert "b says done" in shown
    assert "broken: failed with exit status 3; the tail of" in shown
    assert "job: a line" in shown


@executors
def test_a_stopped_sweep_waits_until_jobs_have_saved(executor: Callable, tmp_path: Path) -> None:
    running, waiting = job(tmp_path / "running", SAVES), job(tmp_path / "waiting")
    with executor() as name:
        assert run_all([running, waiting], name, tmp_path, [{}], (running.folder / "begun").exists) == []
        assert (running.folder / "saved").exists()
        assert not waiting.log.exists()
        assert run_all([waiting], name, tmp_path, [{}], never) == []
    assert waiting.finished


@executors
def test_a_run_that_outlived_its_sweep_is_left_alone(
    executor: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    held = job(tmp_path / "held")
    lock = Run(held.folder, "a: 1", {}, resume=True)
    with executor() as name:
        assert run_all([held], name, tmp_path, [{}], never) == [held]
    assert lock.folder.is_dir()
    assert f"held: process {os.getpid()} on " in " ".join(capsys.readouterr().out.split())


def test_a_job_that_was_queued_twice_runs_once(tmp_path: Path) -> None:
    once = job(tmp_path / "once")
    assert [execute(once, {}, never, Path.cwd()) for _ in range(2)] == ["", ""]
    assert once.log.read_text() == "job: done\n"


def test_paths_are_those_of_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the worker's working directory; its environment is added to."""
    code = "import os, sys, pathlib; pathlib.Path(sys.argv[1], 'last').write_text(os.environ['PLACE'])"
    monkeypatch.chdir(tmp_path)
    relative = job(Path("run"), code)
    monkeypatch.chdir("/")
    assert execute(relative, {"PLACE": "4"}, never, tmp_path) == ""
    assert (tmp_path / "run" / "last").read_text() == "4"


@pytest.mark.thorough
def test_a_job_near_its_time_limit_saves(tmp_path: Path) -> None:
    """Slurm sends a signal before the end. It leads to another start, which continues if the sweep does."""
    saving = job(tmp_path / "saving", SAVES)
    with slurm() as name, on_cluster(name, tmp_path) as engine:
        promise = engine.submit(saving, {}, engine.stopped, Path.cwd())
        wait_for(saving.folder / "begun")
        os.kill(int((saving.folder / "begun").read_text()), signal.SIGUSR2)
        wait_for(saving.folder / "saved")
        engine.stop()
        while not promise.done():
            time.sleep(0.05)


@pytest.mark.thorough
@pytest.mark.parametrize("executor", [slurm, dask])
def test_compare(executor: Callable, tmp_path: Path) -> None:
    """A sweep on a cluster, a run of which is lost, continues elsewhere; runs that ended stay as they are."""
    folder = tmp_path / "c"
    command = ["compare", "standard", "fgsm", *QUICK, "--attacks", "fgsm", "--out", str(folder), "--resume", "auto"]
    with executor() as name:
        assert main([*command, "--executor", name]) == 0
        table = (folder / "table.csv").read_text()
        assert [line.partition(",")[0] for line in table.splitlines()] == ["method", "standard", "fgsm"]
        times = {path: path.stat().st_mtime_ns for path in (folder / "fgsm").iterdir()}
        (folder / "standard" / "evaluation.json").unlink()
        assert main([*command, "--executor", name, "--at-a-time", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "fgsm").iterdir()} == times
    assert (folder / "table.csv").read_text() == table
    (folder / "standard" / "evaluation.json").unlink()
    assert main(command) == 0
    assert (folder / "table.csv").read_text() == table


@pytest.mark.thorough
@pytest.mark.parametrize("executor", [slurm, dask])
def test_reproduce(executor: Callable, tmp_path: Path) -> None:
    """Seeds on a cluster give the files of seeds run here."""
    changes = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--attacks", "fgsm", "--seeds", "2"]
    command = ["reproduce", "blind-fashion-mnist-fgsm", *changes, *QUICK]
    assert main([*command, "--out", str(tmp_path / "here")]) == 0
    with executor() as name:
        assert main([*command, "--executor", name, "--out", str(tmp_path / "there")]) == 0
    for file in ("results.md", "seed-0/results.md", "seed-1/blind-fashion-mnist-fgsm/figures.csv"):
        assert (tmp_path / "there" / file).read_text() == (tmp_path / "here" / file).read_text()
    assert "epoch 1/1" in (tmp_path / "there/seed-1/log.txt").read_text()
    assert not (tmp_path / "here/seed-1/log.txt").exists()


@pytest.mark.parametrize("name", ["pbs", "dask", "dask:", "slurm:gpu", ""])
def test_unknown_executors(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", "standard", "--executor", name, "--out", str(tmp_path / "c")]) == 2
    assert "executor must be local, slurm or dask:ADDRESS" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("dask:tcp://host:8786", "distributed")])
@pytest.mark.parametrize("command", [["compare", "standard"], ["reproduce", "blind-fashion-mnist-fgsm"]])
def test_a_missing_package(
    command: list[str],
    name: str,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main([*command, "--executor", name, "--out", str(tmp_path / "c")]) == 2
    extra = name.partition(":")[0]
    assert f"executor {name} needs {package}: pip install 'fastadv[{extra}]'" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_reproduce_needs_seeds_to_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("fastadv.commands._reproduce.check_executor", lambda name: None)
    command = ["reproduce", "blind-fashion-mnist-fgsm", "--executor", "slurm", "--out", str(tmp_path / "c")]
    assert main(command) == 2
    assert "executor slurm runs a job a seed: give --seeds" in capsys.readouterr().err


@pytest.mark.thorough
def test_no_cluster(tmp_path: Path) -> None:
    if importlib.util.find_spec("submitit"):
        check_executor("slurm")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(tmp_path))
            with pytest.raises(ValueError, match="Start the sweep where sbatch and srun are"):
                run_all([job(tmp_path / "a")], "slurm", tmp_path, [{}], never)
    pytest.importorskip("distributed", reason="distributed is not installed")
    with pytest.raises(ValueError, match="no dask scheduler answers there"):
        run_all([job(tmp_path / "b")], "dask:tcp://127.0.0.1:1", tmp_path, [{}], never)
