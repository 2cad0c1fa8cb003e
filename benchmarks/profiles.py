"""Where the time of training steps goes: `python -m benchmarks.profiles [NETWORK ...]`.

By cProfile, which sees every call from Python into PyTorch: the network's passes, fused ops, the optimiser, all other
calls (data, bookkeeping), and Python itself, whose share it exaggerates.
"""

import copy
import cProfile
import pstats
import sys
from collections import Counter

from fastadv import ops
from fastadv.attacks import PGD, DeepFool, FriendlyPGD
from fastadv.trainers import SMD, TRADES, Blind, Friendly, Madry, Method, Standard

from . import models
from .test_training import ATTACK, BATCH, KL, by_fit

METHODS: dict[str, Method] = {
    "standard": Standard(),
    "madry, PGD-10": Madry(attack=PGD(**ATTACK)),
    "friendly, PGD-10-0": Friendly(attack=FriendlyPGD(**ATTACK), tau_schedule=[]),
    "trades, PGD-10": TRADES(attack=PGD(**KL)),
    "blind, DeepFool-10": Blind(attack=DeepFool(steps=10)),
    "smd, EPGD-20-10": SMD(),
}
STEPS = 10
PASSES = (*ops.PASSES, "run_backward", "conv2d", "linear", "relu", "pool", "batch_norm", "flatten", "softmax", "einsum")
LOSSES = ("cross_entropy", "kl_div")
GROUPS = ("network", "fused ops", "optimiser", "other calls", "Python")


def group(file: str, name: str) -> str:
    if file.endswith("_passes.py"):  # a network's first convolution, its pools and its batch norms
        return "network"
    if file != "~":
        return "Python"
    if "fastadv" in name and not any(part in name for part in ops.PASSES):
        return "fused ops"
    if "_fused_" in name:
        return "optimiser"
    return "network" if any(part in name for part in PASSES + LOSSES) else "other calls"


def shares(method: Method, network: str) -> tuple[float, dict[str, float]]:
    """Milliseconds of a step, and what share of them each group has."""
    train, start, epoch = models.data("train").take(STEPS * BATCH), models.trained(network), by_fit(method)
    epoch(copy.deepcopy(start), train.take(BATCH))  # warms up
    profiler, model = cProfile.Profile(), copy.deepcopy(start)
    profiler.runcall(epoch, model, train)
    spent: Counter[str] = Counter()
    for (file, _, name), (_, _, seconds, _, _) in pstats.Stats(profiler).stats.items():
        spent[group(file, name)] += seconds
    whole = sum(spent.values())
    return 1e3 * whole / STEPS, {name: spent[name] / whole for name in GROUPS}


def main(networks: list[str]) -> None:
    print(f"| method | network | ms a step | {' | '.join(GROUPS)} |\n| --- | --- | --: {'| --: ' * len(GROUPS)}|")
    for network in networks:
        for name, method in METHODS.items():
            step, of = shares(method, network)
            cells = " | ".join(f"{of[each]:.1%}" for each in GROUPS)
            print(f"| {name} | {network} | {step:.1f} | {cells} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["lenet5", "small-cnn"])
