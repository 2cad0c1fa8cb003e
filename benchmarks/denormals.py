"""How much slower a CPU is with denormal weights: published networks as they are, and with these weights 0.

    python -m benchmarks.denormals

SMD's and TRADES' LeNet-5 were trained with Adam and weight decay before `fit` set such weights to 0.
"""

import statistics
import time

import torch
from torch import nn

import fastadv

from .reproduction import RESULTS

ROWS = {"SMD": "smd-table2b-smd", "TRADES, 8/255": "smd-table2b-tr-b6-8"}
LEAST = torch.finfo(torch.float32).tiny


def milliseconds(model: nn.Module, x: torch.Tensor) -> float:
    """The median of 30 passes forward, of processor time."""
    seconds = []
    for _ in range(31):
        started = time.process_time()
        model(x)
        seconds.append(time.process_time() - started)
    return 1000 * statistics.median(seconds[1:])


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    x = fastadv.load("fashion-mnist-mini", "test").take(100).x
    print("| network | denormal weights | ms for 100 images | with these 0 | ratio |\n| --- | --: | --: | --: | --: |")
    for title, row in ROWS.items():
        weights = RESULTS / "reproduce" / "2026-12-01-smd-fashion-mnist" / row / "model.safetensors"
        model = fastadv.hub.load_weights(weights, (1, 28, 28), 10)
        tiny = {p: (p != 0) & (p.abs() < LEAST) for p in model.parameters()}
        before = milliseconds(model, x)
        for p, where in tiny.items():
            p.masked_fill_(where, 0)
        after = milliseconds(model, x)
        count = sum(int(where.sum()) for where in tiny.values())
        print(f"| {title} | {count:,} | {before:.1f} | {after:.1f} | {before / after:.1f} |")


if __name__ == "__main__":
    main()
