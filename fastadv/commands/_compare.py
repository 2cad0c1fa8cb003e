"""``fastadv compare``."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import report
from ..info import environment
from ..runs import CONFIG, Run, make_folder, write_text
from ..trainers import METHODS, Stopped
from ._estimate import estimate
from ._jobs import Job, check_executor, command_line, run_all
from ._launch import launched
from ._parser import unknown
from ._plan import plan_evaluation, plan_training
from ._settings import Testing, Training, as_yaml, defaults
from ._terminal import asked_to_stop, console, drawn, say


@dataclass
class Comparison:
    """How many runs, and how they share the machine.

    Args:
        seeds: runs of each method, with successive seeds.
        at_a_time: runs trained at the same time. Each is a separate process; they share the GPUs evenly. 0 is one per
            GPU, or one without GPUs; on a cluster, all.
        executor: where runs are trained: local, slurm or dask:ADDRESS, such as dask:tcp://host:8786. A cluster's
            machines must see the same files and the same Python.
    """

    seeds: int = 1
    at_a_time: int = 0
    executor: str = "local"

    def __post_init__(self) -> None:
        check_executor(self.executor)
        for name, least in (("seeds", 1), ("at_a_time", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def compare(names: Sequence[str], options: Training, testing: Testing, how: Comparison) -> None:
    """``fastadv compare METHOD METHOD ...``, all at one budget in training and test."""
    if launched():
        raise ValueError("compare starts processes of its own: start it without torchrun, and set --at-a-time")
    names = list(dict.fromkeys(name.replace("-", "_") for name in names))
    for name in names:
        if name not in METHODS:
            raise ValueError(unknown("method", name, METHODS))
    data = options.training_data()
    measurement = plan_evaluation(testing, options, None, train=data)
    testing = measurement.testing
    options = dataclasses.replace(options, eps=testing.eps)
    plans = {name: plan_training(name, METHODS[name](), options, data, testing.label) for name in names}
    if options.estimate:
        for name, plan in plans.items():
            say(f"{name}, for each of {how.seeds} seeds: {estimate(plan)}")
        return
    say(f"eps {testing.eps:.4g} in the test, and in the training of methods that have a budget")
    config = as_yaml(options, testing, how, methods=names)
    known = defaults(options, testing, how)
    run = Run(options.run_folder("compare"), config, environment(), bool(options.resume), known)
    folder = run.folder
    jobs: dict[tuple[str, int], Job] = {}
    for name, plan in plans.items():
        for seed in range(options.seed, options.seed + how.seeds):
            called = f"{name}/seed-{seed}" if how.seeds > 1 else name
            own = folder / called
            if not (own / CONFIG).is_file():
                settings = dataclasses.replace(options, seed=seed)
                make_folder(own)
                write_text(own / CONFIG, as_yaml(plan.method, settings, test=dataclasses.asdict(testing)))
            command = command_line("train", name, "--config", str(own / CONFIG), "--out", str(own), "--resume", "auto")
            jobs[name, seed] = Job(called, command, own, "evaluation.json", {f"{name}: ": f"{called}: "})
    spots = places(how.at_a_time, len(jobs), gpus(options.device), torch.get_num_threads())
    if how.executor != "local":  # whose machines have GPUs and threads of their own
        spots = [{}] * (how.at_a_time or len(jobs))
    with asked_to_stop() as stop:
        failed = run_all(list(jobs.values()), how.executor, folder, spots, stop)
    if stop():
        raise Stopped(f"stopped and saved: continue with --resume auto --out {folder}")
    if finished := {key: report.read_run(job.folder) for key, job in jobs.items() if job.finished}:
        conclude(folder, finished)
    if failed:
        names = ", ".join(job.name for job in failed)
        raise ValueError(
            f"{len(failed)} of {len(jobs)} runs failed ({names}): continue with --resume auto --out {folder}"
        )


def gpus(device: str) -> list[str]:
    """The GPUs that runs may be spread over, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")[:count]


def places(at_a_time: int, runs: int, gpus: Sequence[str], threads: int) -> list[dict[str, str]]:
    """What stands in the environment of each of the processes that train at the same time: its GPU, its threads."""
    count = min(at_a_time or max(1, len(gpus)), runs)
    shared = {"OMP_NUM_THREADS": str(max(1, threads // count))}
    return [shared | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(count)]


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
