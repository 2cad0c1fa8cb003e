"""Sizes of the perturbations that attacks without a budget find, beside adv-lib's on one LeNet-5.

    python -m benchmarks.minimum_norm IMAGES STEPS [NORM ...]

Trains the network on the bundled images first, which takes a minute.
"""

import math
import sys
import time
import warnings

import torch
from torch import Tensor, nn

import fastadv
from fastadv import ops
from fastadv.attacks import ALMA, DDN, FMN, PDGD, PDPGD, Attack, SigmaZero
from fastadv.trainers import Standard, fit

from .peers import adv_lib

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
L1, L2 = {ALPHA: 0.5, "init_lr_distance": 0.5}, {ALPHA: 0.9, "init_lr_distance": 0.1}  # as published


def pairs(steps: int) -> dict[str, tuple[Attack, str, dict]]:
    """By name, starting with the norm: the attack, and adv-lib's function with its options, of so many steps."""
    orders = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}
    found: dict[str, tuple[Attack, str, dict]] = {}
    for norm, order in orders.items():
        found[f"{norm} FMN"] = FMN(steps, norm=norm), "fmn", {"norm": order, "steps": steps}
        options = {"norm": order, "num_steps": steps} | ({"proximal_operator": 23} if norm == "l0" else {})
        found[f"{norm} PDPGD"] = PDPGD(steps, norm=norm), "pdpgd", options
    for norm, options in (("l1", L1), ("l2", L2)):
        found[f"{norm} ALMA"] = ALMA(steps, norm=norm), "alma", {"distance": norm, "num_steps": steps} | options
    found["l0 sigma-zero"] = SigmaZero(steps), "sigma_zero", {"num_steps": steps}
    found["l2 PDGD"] = PDGD(steps), "pdgd", {"num_steps": steps}
    found["l2 DDN"] = DDN(steps), "ddn", {"steps": steps, "levels": None}
    return dict(sorted(found.items()))


def network(epochs: int) -> tuple[nn.Module, Tensor, Tensor]:
    """LeNet-5 trained for so many epochs, and the test images that it is right about, with their labels."""
    model, test = fastadv.models.LeNet5(), fastadv.load("fashion-mnist-mini", "test")
    fit(model, Standard(), fastadv.load("fashion-mnist-mini", "train"), epochs=epochs, batch_size=64, lr=1e-3, seed=0)
    model.eval().requires_grad_(False)
    right = model(test.x).argmax(1) == test.y
    return model, test.x[right], test.y[right]


def sizes(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The sizes of perturbations, [B], infinite where they do not fool."""
    return torch.where(model(x_adv).argmax(1) != y, ops.row_norms(x_adv, norm, x), torch.inf)


def main(images: int, steps: int, *norms: str) -> None:
    warnings.simplefilter("ignore")
    model, x, y = network(12)
    x, y = x[:images], y[:images]
    print("| norm | attack | median | adv-lib's | mean | adv-lib's | time over adv-lib's |\n" + "| --- " * 7 + "|")
    for name, (attack, theirs, options) in pairs(steps).items():
        norm, title = name.split(maxsplit=1)
        if norms and norm not in norms:
            continue
        started = time.perf_counter()
        own = sizes(model, attack(model, x, y), x, y, norm)
        between = time.perf_counter()
        peer = sizes(model, adv_lib(theirs, **options)(model)(x, y), x, y, norm)
        share = (between - started) / (time.perf_counter() - between)
        both = own.isfinite() & peer.isfinite()
        figures = [own.median(), peer.median(), own[both].mean(), peer[both].mean(), share]
        print(f"| {norm} | {title} | " + " | ".join(f"{float(figure):.4g}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
