"""AutoAttack's fast version beside the standard one, on ten networks whose weights are in results/reproduce.

    python -m benchmarks.fast_autoattack IMAGES FILE.json [FIRST [NETWORK ...]]

Robust, weak and masked networks, all LeNet-5. The standard version is run with two seeds: how far these are apart is
what chance does. Takes IMAGES test images of each network's data, from number FIRST on (0), and prints the table.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import fastadv
from fastadv.attacks import AttackResult, AutoAttack

FOLDER = Path(__file__).parent / "results" / "reproduce"
BLIND, MNIST = "2026-11-30-blind-fashion-mnist-70/blind-fashion-mnist", "2026-11-30-blind-mnist-10k/blind-mnist"
SEEDS = "2026-11-30-friendly-fashion-mnist-seeds/seed-0/friendly-fashion-mnist"
NETWORKS = {
    "Fashion-MNIST, NT": (f"{BLIND}-nt", "fashion-mnist", 0.02),
    "Fashion-MNIST, FGSM-AT": (f"{BLIND}-fgsm", "fashion-mnist", 0.1),
    "Fashion-MNIST, PGD-AT": (f"{BLIND}-pgd", "fashion-mnist", 0.1),
    "Fashion-MNIST, DF-AT": (f"{BLIND}-df-at", "fashion-mnist", 0.1),
    "Fashion-MNIST, BAT": (f"{BLIND}-bat", "fashion-mnist", 0.1),
    "Fashion-MNIST, MART": (f"{SEEDS}-mart-0.1", "fashion-mnist", 0.1),
    "Fashion-MNIST, FAT for MART": (f"{SEEDS}-friendly-mart-0.1", "fashion-mnist", 0.1),
    "MNIST, PGD-AT": (f"{MNIST}-pgd", "mnist-10k", 0.3),
    "MNIST, DF-AT": (f"{MNIST}-df-at", "mnist-10k", 0.2),
    "MNIST, BAT": (f"{MNIST}-bat", "mnist-10k", 0.2),
}
"""Where the weights are, the data and the budget in L-infinity."""
LEFT = "eps", "clean, %", "standard, %", "again, %", "fast, %", "fast in bf16, %"
COMPARED = "fast left more", "fewer", "gradients of standard", "of fast", "share"


def measured(name: str, first: int, images: int) -> dict[str, Any]:
    """Counts of one network: samples that are right, and what each version took."""
    folder, data, eps = NETWORKS[name]
    test = fastadv.load(data, "test")
    x, y, ids = test.x[first:][:images], test.y[first:][:images], torch.arange(first, first + images)
    weights = FOLDER / folder / "model.safetensors"
    model = fastadv.hub.load_weights(weights, test.sample_shape, len(test.classes))
    found: dict[str, AttackResult] = {}
    for version, attack in {
        "standard": AutoAttack(eps, seed=0),
        "again": AutoAttack(eps, seed=1),
        "fast": AutoAttack(eps, "fast", seed=0),
        "bf16": AutoAttack(eps, "fast", bf16=True, seed=0),
    }.items():
        found[version] = attack.run(model, x, y, ids)
    left = {version: ~result.success for version, result in found.items()}
    clean = int((model(x).argmax(1) == y).sum())
    counts = {"network": name, "eps": eps, "first": first, "samples": len(x), "clean": clean}
    counts |= {version: int(who.sum()) for version, who in left.items()}
    counts |= {f"{version}_gradients": int(result.grads.sum()) for version, result in found.items()}
    return counts | {
        f"{version}_{word}": int(who.sum())
        for version in ("again", "fast", "bf16")
        for word, who in {
            "more": left[version] & ~left["standard"],
            "fewer": left["standard"] & ~left[version],
        }.items()
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """A line for each network."""
    heads = ("network", *LEFT, *COMPARED)
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " --: |" * (len(heads) - 1)]
    for row in rows:
        shares = (f"{100 * row[key] / row['samples']:.1f}" for key in ("clean", "standard", "again", "fast", "bf16"))
        counts = (str(row[key]) for key in ("fast_more", "fast_fewer"))
        standard, fast = row["standard_gradients"], row["fast_gradients"]
        cells = (row["network"], f"{row['eps']:g}", *shares, *counts, f"{standard:,}", f"{fast:,}")
        lines.append(f"| {' | '.join(cells)} | {fast / standard:.3f} |")
    return "\n".join(lines) + "\n"


def main(images: int, file: Path, first: int = 0, *names: str) -> None:
    rows = json.loads(file.read_text()) if file.exists() else []
    for name in names or NETWORKS:
        if name not in (row["network"] for row in rows):
            rows.append(measured(name, first, images))
            file.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows), end="")


if __name__ == "__main__":
    with torch.no_grad():
        main(int(sys.argv[1]), Path(sys.argv[2]), int("".join(sys.argv[3:4]) or 0), *sys.argv[4:])
