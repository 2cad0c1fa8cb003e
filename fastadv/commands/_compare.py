"""``fastadv compare``."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import report
from ..info import environment
from ..runs import CONFIG, Run, in_use, make_folder, unwritable, write_text
from ..trainers import METHODS, Stopped
from ._estimate import estimate
from ._launch import launched
from ._parser import unknown
from ._plan import plan_evaluation, plan_training
from ._settings import Testing, Training, as_yaml
from ._terminal import asked_to_stop, console, drawn, say


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


def command_line(*arguments: str) -> list[str]:
    """The command of a process that runs ``fastadv`` with `arguments`.

    It imports what this one does: ``python -m`` would import from the working directory first.
    """
    path = [*filter(None, sys.path), str(Path(__file__).parents[2])]
    begin = f"import sys; sys.path[:] = {path}; sys.argv[0] = 'fastadv'"
    return [sys.executable, "-c", f"{begin}; from fastadv.__main__ import main; sys.exit(main())", *arguments]


class Running:
    """A job that is trained and evaluated in a process of its own, with `place` in its environment.

    Raises BlockingIOError where such a process, which outlived its parent, is still at it.
    """

    def __init__(self, job: Job, place: dict[str, str]):
        self.job, self.place = job, place
        if holder := in_use(job.folder):  # the process would be refused as well
            raise BlockingIOError(f"{holder} still trains it: wait for it, or stop it")
        flags = ["--config", str(job.folder / CONFIG), "--out", str(job.folder), "--resume", "auto"]
        command = command_line("train", job.method, *flags)
        try:
            log = job.log.open("ab")
        except OSError as error:
            raise unwritable(job.log, error) from None
        with log:
            self.told = log.tell()
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | place)

    def pass_on(self) -> None:
        """Says what training has said since the last call, a line an epoch."""
        with self.job.log.open("rb") as log:
            log.seek(self.told)
            *lines, _ = log.read().split(b"\n")
        self.told += sum(len(line) + 1 for line in lines)
        for line in (line.decode(errors="replace") for line in lines):
            if line.startswith(f"{self.job.method}: "):
                say(self.job.name + line.removeprefix(self.job.method))


def compare(names: Sequence[str], options: Training, testing: Testing, how: Comparison) -> None:
    """``fastadv compare METHOD METHOD ...``, all at one budget in training and test."""
    if launched():
        raise ValueError("compare starts processes of its own: leave torchrun out, and say how many with --at-a-time")
    names = list(dict.fromkeys(name.replace("-", "_") for name in names))
    for name in names:
        if name not in METHODS:
            raise ValueError(unknown("method", name, METHODS))
    data = options.training_data()
    measurement = plan_evaluation(testing, options, None, train=data)
    testing = measurement.testing
    options = dataclasses.replace(options, eps=testing.eps)
    plans = {name: plan_training(name, METHODS[name](), options, data) for name in names}
    if options.estimate:
        for name, plan in plans.items():
            say(f"{name}, for each of {how.seeds} seeds: {estimate(plan)}")
        return
    say(f"eps {testing.eps:.4g} in the test, and in the training of methods that have a budget")
    config = as_yaml(options, testing, how, methods=names)
    run = Run(options.run_folder("compare"), config, environment(), resume=bool(options.resume))
    folder = run.folder
    jobs = []
    for name, plan in plans.items():
        for seed in range(options.seed, options.seed + how.seeds):
            job = Job(f"{name}/seed-{seed}" if how.seeds > 1 else name, name, seed, folder)
            if not (job.folder / CONFIG).is_file():
                settings = dataclasses.replace(options, seed=seed)
                make_folder(job.folder)
                write_text(job.folder / CONFIG, as_yaml(plan.method, settings, test=dataclasses.asdict(testing)))
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
                except BlockingIOError as error:
                    say(f"{job.name}: {error}")
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
                    say("\n".join(each.job.log.read_text(errors="replace").splitlines()[-8:]))
                    if not shutil.disk_usage(each.job.folder).free:
                        say("the disk is full, and the log may lack the reason: make room")
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
    written = [folder / "table.csv", *drawn(report.write_report, [whole], folder)]
    say(f"written: {', '.join(map(str, written))}, and a folder a run")
