"""The runs of a sweep, each a process of its own: started here, by Slurm, or on the workers of a dask cluster."""

import importlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..runs import in_use, unwritable
from ._terminal import first_line, say
from ._trust import require_trust, trust


@dataclass(frozen=True)
class Job:
    """A run of a sweep: a command in a folder, with its log there.

    Args:
        name: what messages call it.
        command: the process, see `command_line`.
        folder: of the run, on a file system that all machines share.
        last: the file that the command writes last. Where it exists, the job is finished.
        voices: how lines of the log begin that are said here, and what they begin with then.
        trust: whose code it may run, the same as this process by default.
    """

    name: str
    command: list[str]
    folder: Path
    last: str
    voices: Mapping[str, str]
    trust: Mapping[str, str] = field(default_factory=trust)

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def finished(self) -> bool:
        return (self.folder / self.last).is_file()


def command_line(*arguments: str) -> list[str]:
    """The command of a process that runs ``fastadv`` with `arguments`.

    It imports what this one does: ``python -m`` would import from the working directory first.
    """
    path = [*filter(None, sys.path), str(Path(__file__).parents[2])]
    begin = f"import sys; sys.path[:] = {path}; sys.argv[0] = 'fastadv'"
    return [sys.executable, "-c", f"{begin}; from fastadv.__main__ import main; sys.exit(main())", *arguments]


def execute(
    job: Job, place: Mapping[str, str], stopped: Callable[[], bool], within: Path, own_session: bool = False
) -> str:
    """Runs `job` in the folder `within`, with `place` in its environment, on whatever machine; why it failed, or "".

    Once `stopped` says so, or this call is interrupted, the process is asked to save and stop, and waited for. In a
    session of its own, it does not get the signals that a scheduler sends this one.
    """
    job = replace(job, folder=within / job.folder)
    if job.finished or stopped():  # it was in the queue twice, or too long
        return ""
    if others := _others(job):
        return others
    try:
        log = job.log.open("ab")
    except OSError as error:
        return str(unwritable(job.log, error))
    how = {"env": os.environ | job.trust | place, "cwd": within, "start_new_session": own_session}
    with log:
        process = subprocess.Popen(job.command, stdout=log, stderr=log, **how)
    try:
        while process.poll() is None and not stopped():
            time.sleep(0.1)
    finally:
        process.terminate()  # it saves first
        process.wait()
    if not process.returncode or job.finished:
        return ""
    if others := _others(job):  # that had not begun before
        return others
    tail = "\n".join(job.log.read_text(errors="replace").splitlines()[-8:])
    failure = f"failed with exit status {process.returncode}; the tail of {job.log}:\n{tail}"
    if not shutil.disk_usage(job.folder).free:
        failure += "\nthe disk is full, so the log may lack the reason: free some space"
    return failure


def _others(job: Job) -> str:
    """What is said where a process that outlived its parent is at work on `job`; this one would be refused, too."""
    holder = in_use(job.folder)
    return f"{holder} still trains it: wait for it, or stop it" if holder else ""


class Promise(Protocol):
    """What standard futures, those of dask and jobs of submitit have in common."""

    def done(self) -> bool: ...
    def result(self) -> str: ...


@dataclass(frozen=True)
class Executor:
    """Where jobs run: `submit` is that of standard futures, `stop` makes `stopped` true for all of its jobs."""

    submit: Callable[..., Promise]
    stop: Callable[[], None]
    stopped: Callable[[], bool]


@contextmanager
def here(places: int) -> Iterator[Executor]:
    """Processes on this machine, one in each of `places`."""
    asked = threading.Event()
    with ThreadPoolExecutor(places) as pool:
        yield Executor(partial(pool.submit, execute), asked.set, asked.is_set)


@contextmanager
def on_cluster(name: str, folder: Path) -> Iterator[Executor]:
    """Jobs of Slurm, or of the dask cluster of ``dask:ADDRESS``. A file in `folder` tells them to stop.

    Raises ValueError where there is no such cluster.
    """
    asked = folder.absolute() / ".stop"
    asked.unlink(missing_ok=True)
    kind, _, address = name.partition(":")
    if kind == "slurm":
        import submitit

        try:
            slurm = submitit.SlurmExecutor(folder / ".submitit")
        except RuntimeError as error:
            raise ValueError(f"executor slurm: {error} Start the sweep where sbatch and srun are") from None
        slurm.update_parameters(time=24 * 60, job_name="fastadv")
        yield Executor(partial(slurm.submit, execute, own_session=True), asked.touch, asked.exists)
    else:
        from distributed import Client

        try:
            client = Client(address, timeout=10)
        except (OSError, ValueError) as error:
            raise ValueError(f"executor {name}: no dask scheduler answers there ({first_line(error)})") from None
        with client:
            yield Executor(partial(client.submit, execute, pure=False), asked.touch, asked.exists)


_NEEDS = {"slurm": "submitit", "dask": "distributed"}


def check_executor(name: str) -> None:
    """Raises ValueError for a `name` that is no executor, ImportError where the package it needs is missing."""
    kind, _, address = name.partition(":")
    if name not in ("local", "slurm") and not (kind == "dask" and address):
        raise ValueError(f"executor must be local, slurm or dask:ADDRESS, such as dask:tcp://host:8786, got {name!r}")
    if kind == "dask":
        require_trust(name, "a scheduler, which may send code,")
    if package := _NEEDS.get(kind):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ImportError(f"executor {name} needs {package}: pip install 'fastadv[{kind}]'") from None


class Running:
    """A `job` that was submitted to `executor`, for the given place."""

    def __init__(self, job: Job, place: dict[str, str], executor: Executor):
        self.job, self.place = job, place
        self.told = job.log.stat().st_size if job.log.is_file() else 0
        self.promise = executor.submit(job, place, executor.stopped, Path.cwd())

    def pass_on(self) -> None:
        """Says what the job has said since the last call, a line an epoch."""
        if not self.job.log.is_file():
            return
        with self.job.log.open("rb") as log:
            log.seek(self.told)
            *lines, _ = log.read().split(b"\n")
        self.told += sum(len(line) + 1 for line in lines)
        for line in (line.decode(errors="replace") for line in lines):
            for voice, name in self.job.voices.items():
                if line.startswith(voice):
                    say(name + line.removeprefix(voice))

    def failure(self) -> str:
        """Why the job, which is done, did not succeed; empty where it did."""
        try:
            return self.promise.result()
        except Exception as error:  # of the scheduler, which has many
            return f"failed with {type(error).__name__}: {error}"


def run_all(
    jobs: Sequence[Job], executor: str, folder: Path, places: Sequence[dict[str, str]], stop: Callable[[], bool]
) -> list[Job]:
    """Runs what is not finished, one in each of the `places`, until all is done or `stop` says so.

    `folder` is that of the sweep. Returns the jobs that failed, after it has said why.
    """
    waiting, free = [job for job in jobs if not job.finished], list(places)
    running: list[Running] = []
    failed: list[Job] = []
    with here(len(free)) if executor == "local" else on_cluster(executor, folder) as engine:
        try:
            while (waiting or running) and not stop():
                while waiting and free:
                    running.append(Running(waiting.pop(0), free.pop(0), engine))
                time.sleep(0.1)
                for each in running:
                    each.pass_on()
                for each in [each for each in running if each.promise.done()]:
                    each.pass_on()
                    running.remove(each)
                    free.append(each.place)
                    if (failure := each.failure()) and not stop():
                        say(f"{each.job.name}: {failure}")
                        failed.append(each.job)
        finally:
            if running:
                engine.stop()
            for each in running:
                leave(each.promise)
    return failed


def leave(promise: Any) -> None:
    """Waits until a job that was told to stop has; one that Slurm has not started is taken out of the queue."""
    if getattr(promise, "state", "") == "PENDING":
        promise.cancel()
    while not promise.done():
        time.sleep(0.1)
