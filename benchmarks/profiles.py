"""Where the time of training steps goes: `python -m benchmarks.profiles [NETWORK ...]`.

Self times of PyTorch's operators, in four groups, over the steps of an epoch; what is left of the time that the same
steps take without the profiler is Python, and PyTorch's dispatch.
"""

import copy
import sys
from collections import Counter

from torch.profiler import ProfilerActivity, profile

from fastadv.attacks import PGD, DeepFool, FriendlyPGD
from fastadv.trainers import SMD, TRADES, Blind, Friendly, Madry, Method, Standard

from . import models
from .test_training import ATTACK, BATCH, KL, by_fit
from .timing import DEVICE, Timed

METHODS: dict[str, Method] = {
    "standard": Standard(),
    "madry, PGD-10": Madry(attack=PGD(**ATTACK)),
    "friendly, PGD-10-0": Friendly(attack=FriendlyPGD(**ATTACK), tau_schedule=[]),
    "trades, PGD-10": TRADES(attack=PGD(**KL)),
    "blind, DeepFool-10": Blind(attack=DeepFool(steps=10)),
    "smd, EPGD-20-10": SMD(),
}
STEPS, ROUNDS = 4, 5
GROUPS = {  # by parts of operators' names, the first that fits
    "attack": ("fastadv::",),
    "optimiser": ("_fused_",),
    "network": (
        "conv",
        "mkldnn",
        "addmm",
        "mm",
        "pool",
        "relu",
        "threshold",
        "softmax",
        "nll_loss",
        "batch_norm",
        "cross_entropy",
        "kl_div",
        "xlogy",
        "sum",
        "mul",
        "add",
        "div",
        "mean",
    ),
}


def group(operator: str) -> str:
    return next((name for name, parts in GROUPS.items() if any(part in operator for part in parts)), "data")


def shares(method: Method, network: str) -> tuple[float, dict[str, float]]:
    """Milliseconds of a step, and what share of them each group has."""
    train, start = models.data("train").take(STEPS * BATCH).to(DEVICE), models.trained(network).to(DEVICE)
    epoch = by_fit(method)
    timed = Timed(lambda: epoch(copy.deepcopy(start), train))
    for _ in range(ROUNDS + 1):
        timed()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        epoch(copy.deepcopy(start), train)
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        if "::" in event.key or "Backward" in event.key:
            spent[group(event.key)] += event.self_cpu_time_total / 1e6
    whole = timed.median()
    in_groups = {name: spent[name] / whole for name in (*GROUPS, "data")}
    return 1e3 * whole / STEPS, {**in_groups, "Python": 1 - sum(in_groups.values())}


def main(networks: list[str]) -> None:
    names = (*GROUPS, "data", "Python")
    print(f"| method | network | ms a step | {' | '.join(names)} |\n| --- | --- | --: {'| --: ' * len(names)}|")
    for network in networks:
        for name, method in METHODS.items():
            step, of = shares(method, network)
            print(
                f"| {name} | {network} | {step:.1f} | {' | '.join(f'{of[each]:.1%}' for each in names)} |", flush=True
            )


if __name__ == "__main__":
    main(sys.argv[1:] or ["lenet5", "small-cnn"])
