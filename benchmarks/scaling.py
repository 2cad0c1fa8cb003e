"""What a step of training costs, against batch, steps, classes, processes and image size; and whether
``fastadv train --estimate`` says it beforehand: `python -m benchmarks.scaling`.

Medians of up to 50 steps or 5 seconds (`fastadv.commands._estimate.timed`), or of two steps beside the plainest loop.
Images of sizes and classes that Fashion-MNIST does not have are random ones. Larger networks and images on a GPU.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import fastadv
from fastadv.attacks import PGD, DeepFool
from fastadv.commands import Training
from fastadv.commands._estimate import estimate, timed
from fastadv.commands._plan import plan_training
from fastadv.trainers import METHODS, Blind, Madry, Method, fit

from . import models
from .test_training import MADRY, by_fit, by_loop, plain_pgd
from .timing import DEVICE, Timed, peak_memory

EPS, ALPHA = 0.1, 0.025
GPU = DEVICE == "cuda"
LARGER, BATCHES = ("resnet18", [128, 256, 512]) if GPU else ("small-cnn", [32, 64, 128])
LARGEST, SIZES, TOGETHER = ("resnet50", [32, 64, 128, 224], 32) if GPU else ("resnet18", [16, 32, 64], 8)
ESTIMATED = ("standard", "madry", "trades", "friendly", "blind", "smd", "mma", "spat")


def pgd(steps: int) -> Madry:
    return Madry(attack=PGD(eps=EPS, alpha=ALPHA, steps=steps))


def random_images(size: int, classes: int, channels: int = 3, count: int = 512) -> fastadv.Dataset:
    numbers = torch.Generator().manual_seed(0)
    x = torch.rand(count, channels, size, size, generator=numbers)
    y = torch.arange(count) % classes
    return fastadv.Dataset(x, y, tuple(str(k) for k in range(classes))).to(DEVICE)


def cost(method: Method, data: fastadv.Dataset, **settings) -> float:
    """Milliseconds of a step."""
    plan = plan_training("it", method, Training(**settings), data)
    return 1e3 * timed(method, plan.build(), data, plan.options)[0]


def line(what: list[float], milliseconds: list[float]) -> str:
    """The straight line through them, and how far from it they are."""
    slope, offset = np.polyfit(what, milliseconds, 1)
    off = max(abs(offset + slope * x - y) / y for x, y in zip(what, milliseconds, strict=True))
    return f"{offset:.2f} + {slope:.3g} x each; at most {off:.0%} off"


def row(title: str, what: list[float], milliseconds: list[float], fitted: bool = True) -> None:
    cells = ", ".join(f"{x:g}: {y:.1f}" for x, y in zip(what, milliseconds, strict=True))
    print(f"| {title} | {cells} | {line(what, milliseconds) if fitted else ''} |", flush=True)


def with_processes(count: int) -> float:
    """Images a second in so many processes with a thread each."""
    with tempfile.TemporaryDirectory() as folder:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone"]
        flags = ["--per-class", "500", "--epochs", "2", "--batch-size", "128", "--model", "small-cnn"]
        command = [*launch, "-m", "fastadv", "train", "madry", *flags, "--test.limit", "10", "--test.attacks", "fgsm"]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--out", f"{folder}/run"], check=True, capture_output=True, env=env)
        rows = [json.loads(text) for text in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        return rows[-1]["images_per_second"]


def scaling() -> None:
    fashion = models.data("train").take(20_000).to(DEVICE)
    print("| what | ms a step | a line through them |\n| --- | --- | --- |")
    batches = [32, 64, 128, 256, 512]
    row("batch, LeNet-5, PGD-10", batches, [cost(pgd(10), fashion, batch_size=size) for size in batches])
    of_batches = [cost(pgd(10), fashion, batch_size=size, model=LARGER) for size in BATCHES]
    row(f"batch, {LARGER}, PGD-10", BATCHES, of_batches)
    steps = [0, 1, 2, 5, 10, 20]
    row("steps of PGD, LeNet-5", steps, [cost(pgd(count), fashion) for count in steps])
    row(f"steps of PGD, {LARGER}", steps[:5], [cost(pgd(count), fashion, model=LARGER) for count in steps[:5]])
    classes = [10, 20, 50, 100]
    of_classes = [
        cost(Blind(attack=DeepFool(steps=1, candidates=count)), random_images(28, count, 1), lr=0.0)
        for count in classes
    ]
    row("classes, a step of DeepFool with all candidates, LeNet-5", classes, of_classes)
    counts = range(1, min(2, torch.cuda.device_count() if GPU else 2) + 1)
    speeds = ", ".join(f"{count}: {with_processes(count):.0f} images/s" for count in counts)
    print(f"| processes, small CNN, PGD-10 | {speeds} | |", flush=True)


def sizes() -> None:
    """A step of PGD-AT on larger and larger images, beside the plainest loop: time, and memory."""
    sides = {
        "fastadv": by_fit(MADRY),
        "bfloat16, channels_last": by_fit(MADRY, precision="bfloat16", memory_format="channels_last"),
        "by hand": by_loop(plain_pgd),
    }
    print(f"\n| {TOGETHER} images, {LARGEST}, PGD-10 | {' | '.join(sides)} |\n| --- {'| --: ' * len(sides)}|")
    for size in SIZES:
        images = random_images(size, 10, count=TOGETHER)
        network = fastadv.models.build(LARGEST, tuple(images.x.shape[1:]), 10).to(DEVICE)
        cells = []
        for epoch in sides.values():
            step = Timed(partial(epoch, copy.deepcopy(network), images))
            for _ in range(3):
                step()
            cells.append(f"{1e3 * step.median():.0f} ms, {peak_memory(step.call) / 1e6:.0f} MB")
        print(f"| 3x{size}x{size} | {' | '.join(cells)} |", flush=True)


def estimates() -> None:
    """Two epochs on 10,000 images, beside what was said beforehand."""
    print("\n| method | network | at least | estimate | at most | took | took / estimate |")
    print("| --- | --- | --: | --: | --: | --: | --: |")
    for network, images in (("lenet5", 10_000), ("small-cnn", 2_000)):
        train = models.data("train").take(images).to(DEVICE)
        for name in ESTIMATED:
            plan = plan_training(name, METHODS[name](), Training(model=network, epochs=2), train)
            said, model = estimate(plan), plan.build()
            started = time.perf_counter()
            fit(model, plan.method, train, **plan.options.fit_settings())
            took = time.perf_counter() - started
            most = f"{said.at_most:.1f}" if said.at_most is not None else ""
            cells = f"{said.at_least:.1f} | {said.seconds:.1f} | {most} | {took:.1f} | {took / said.seconds:.2f}"
            print(f"| {name} | {network} | {cells} |", flush=True)


if __name__ == "__main__":
    scaling()
    sizes()
    estimates()
