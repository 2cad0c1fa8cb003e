"""``fastadv compare``."""

import dataclasses
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import report
from ..info import environment
from ..runs import CONFIG, Run
from ..trainers import METHODS, AttackMethod, Stopped
from ._estimate import estimate
from ._launch import launched
from ._settings import Testing, Training, as_yaml, budgeted
from ._terminal import asked_to_stop, console, say


@dataclass
class Comparison:
    """How many runs, and how they share the machine.

    Args:
        seeds: how many times each method is trained: with seed, and with the next ones.
        at_a_time: how many runs are trained at the same time, in processes of their own; they share the GPUs evenly. 0
            is one for every GPU, or one.
    """

    seeds: int = 1
    at_a_time: int = 0

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("at_a_time", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Job:
    """A run of a comparison, in a folder of its own within the comparison's, with its settings, log and results."""

    name: str
    method: str
    seed: int
    whole: Path

    @property
    def folder(self) -> Path:
        return self.whole / self.name

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def finished(self) -> bool:
        return (self.folder / "evaluation.json").is_file()  # what training writes last


class Running:
    """A job that is trained and evaluated in a process of its own, with `place` in its environment.

    Raises BlockingIOError where such a process, which outlived its parent, is still at it.
    """

    def __init__(self, job: Job, place: dict[str, str]):
        self.job, self.place = job, place
        flags = ["--config", str(job.folder / CONFIG), "--out", str(job.folder), "--resume", "auto"]
        command = [sys.executable, "-m", "fastadv", "train", job.method, *flags]
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with job.log.open("a") as log:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the process inherits the lock and, ending, gives it up
            self.told = log.tell()
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | path | place)

    def pass_on(self) -> None:
        """Says what training has said since the last call, a line an epoch."""
        with self.job.log.open() as log:
            log.seek(self.told)
            *lines, _ = log.read().split("\n")
        self.told += sum(len(line.encode()) + 1 for line in lines)
        for line in lines:
            if line.startswith(f"{self.job.method}: "):
                say(self.job.name + line.removeprefix(self.job.method))


def compare(names: Sequence[str], options: Training, testing: Testing, how: Comparison) -> None:
    """``fastadv compare METHOD METHOD ...``; training attacks that have a budget take the one of the evaluation."""
    if launched():
        raise ValueError("compare starts processes of its own: leave torchrun out, and say how many with --at-a-time")
    names = list(dict.fromkeys(name.replace("-", "_") for name in names))
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}: choose among {', '.join(METHODS)}")
    methods = {name: METHODS[name]() for name in names}
    for method in methods.values():
        if isinstance(method, AttackMethod):
            method.attack = budgeted(method.attack, testing.eps)
    train_set = options.training_data()
    options.check(train_set)
    if options.estimate:
        for name, method in methods.items():
            say(f"{name}, for each of {how.seeds} seeds: {estimate(method, options, train_set)}")
        return
    testing.samples(options)  # what is wrong with them is told before a folder is made
    config = as_yaml(options, testing, how, methods=names)
    folder = Run(options.run_folder("compare"), config, environment(), resume=bool(options.resume)).folder
    jobs = []
    for name, method in methods.items():
        for seed in range(options.seed, options.seed + how.seeds):
            job = Job(f"{name}/seed-{seed}" if how.seeds > 1 else name, name, seed, folder)
            if not (job.folder / CONFIG).is_file():
                settings = dataclasses.replace(options, seed=seed)
                Run(job.folder, as_yaml(method, settings, test=dataclasses.asdict(testing)), environment(), resume=True)
            jobs.append(job)
    with asked_to_stop() as stop:
        failed = run_all(jobs, places(how.at_a_time, len(jobs), gpus(options.device), torch.get_num_threads()), stop)
    if stop():
        raise Stopped(f"stopped, and all is saved: go on with --resume auto --out {folder}")
    if finished := [job for job in jobs if job.finished]:
        conclude(folder, {(job.method, job.seed): report.read_run(job.folder) for job in finished})
    if failed:
        names = ", ".join(job.name for job in failed)
        raise ValueError(f"{len(failed)} of {len(jobs)} runs failed ({names}): go on with --resume auto --out {folder}")


def gpus(device: str) -> list[str]:
    """The GPUs that runs may be spread over, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")[:count]


def places(at_a_time: int, runs: int, gpus: Sequence[str], threads: int) -> list[dict[str, str]]:
    """What stands in the environment of each of the processes that train at the same time: its GPU, its threads."""
    count = min(at_a_time or max(1, len(gpus)), runs)
    shared = {"OMP_NUM_THREADS": str(max(1, threads // count))}
    return [shared | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(count)]


def run_all(jobs: Sequence[Job], free: list[dict[str, str]], stop: Callable[[], bool]) -> list[Job]:
    """Runs what is not finished, a process in each of the `free` places, until all is done or `stop` says so.

    Returns those that failed, after the end of their logs.
    """
    waiting, failed = [job for job in jobs if not job.finished], []
    running: list[Running] = []
    try:
        while (waiting or running) and not stop():
            while waiting and free:
                job, place = waiting.pop(0), free.pop(0)
                try:
                    running.append(Running(job, place))
                except BlockingIOError:
                    say(f"{job.name}: a process that outlived an earlier compare still trains it: await it, or end it")
                    free.append(place)
                    failed.append(job)
            time.sleep(0.1)
            for each in running:
                each.pass_on()
            for each in [each for each in running if each.process.poll() is not None]:
                each.pass_on()
                running.remove(each)
                free.append(each.place)
                if each.process.returncode and not stop():
                    say(
                        f"{each.job.name}: failed, with exit status {each.process.returncode}; {each.job.log} ends with"
                    )
                    say("\n".join(each.job.log.read_text().splitlines()[-8:]))
                    failed.append(each.job)
    finally:
        for each in running:
            each.process.terminate()  # it saves first
        for each in running:
            each.process.wait()
    return failed


def conclude(folder: Path, runs: Mapping[tuple[str, int], report.RunFolder]) -> None:
    """Prints and writes the table of all runs, by method and seed, and the page of the comparison."""
    report.write_seeds(runs, folder)
    whole = report.read_run(folder)
    console.print(report.runs_table(whole))
    for (method, seed), run in runs.items():
        for finding in run.findings:
            say(f"{method}, seed {seed}: {finding}", "yellow")
    page = report.write_report([whole], folder)
    say(f"written: {folder / 'table.csv'}, {page}, and a folder a run")
