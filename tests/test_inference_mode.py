"""Evaluation within ``torch.inference_mode``, as in Lightning's test_step: the same figures as outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import linear, samples

from fastadv.attacks import DRA, PGD, DeepFool
from fastadv.data import Dataset
from fastadv.evaluation import (
    calibrated,
    corruption_accuracy,
    evaluate,
    features,
    gradient_norms,
    landing,
    last_layers,
    radial_curve,
    swept_curve,
    transfer,
)
from fastadv.report import plot_examples, plot_noise

OTHER = linear(48, 5, seed=3)
PGD_20 = PGD(0.02, 0.002, 20)
Measure = Callable[[nn.Module, Dataset], Any]


def evaluated(model: nn.Module, data: Dataset) -> list[Any]:
    found = evaluate(model, data, {"pgd": PGD_20, "deepfool": DeepFool()}, train=data)
    parts = [found.natural, *found.results.values()]
    return [*(part.right for part in parts), found.results["deepfool"].curve.flips, *found.findings]


MEASURES: dict[str, Measure] = {
    "evaluate": evaluated,
    "transfer": lambda model, data: transfer({"a": model, "b": OTHER}, data, {"pgd": PGD_20}),
    "swept_curve": lambda model, data: [*vars(swept_curve(model, data, PGD_20, [0.01, 0.02])).values()],
    "radial_curve": lambda model, data: [*vars(radial_curve(model, data.x, 1 - data.x, data.y)).values()],
    "calibrated": lambda model, data: calibrated(model, data, DRA(0.02), PGD_20),
    "corruption_accuracy": lambda model, data: corruption_accuracy(model, [("blur", 1, data)], data),
    "gradient_norms": lambda model, data: gradient_norms(model, data).rows,
    "landing": lambda model, data: [landing(model, data, PGD_20).confusion],
    "features": lambda model, data: features(model, data, {"pgd": PGD_20}, last_layers(model)).rows,
}


def data() -> Dataset:
    x = samples(60, 3, 4, 4)
    y = linear(48, 5)(x).argmax(1)
    y[::10] = (y[::10] + 1) % 5
    return Dataset(x, y, tuple("abcde"))


@pytest.mark.parametrize("inside", [True, False], ids=["its own tensors", "tensors from outside"])
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_same_figures(measure: Measure, inside: bool) -> None:
    model, given = linear(48, 5).eval(), data()
    expected = measure(model, given)
    with torch.inference_mode():
        if inside:
            given = Dataset(given.x.clone(), given.y.clone(), given.classes)
            assert given.x.is_inference()
        found = measure(model, given)
        assert torch.is_inference_mode_enabled()
    if isinstance(found, list) and isinstance(found[0], Tensor):
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(found, expected, strict=True))
    else:
        assert found == expected


@pytest.mark.usefixtures("rendered")
def test_examples_are_drawn(tmp_path: Path) -> None:
    model, given = linear(48, 5).eval(), data()
    outside = plot_examples({"a": model}, given, PGD_20, tmp_path / "outside.png").read_bytes()
    with torch.inference_mode():
        given = Dataset(given.x.clone(), given.y.clone(), given.classes)
        assert plot_examples({"a": model}, given, PGD_20, tmp_path / "inside.png").read_bytes() == outside
        plot_noise(model, given, {"pgd": PGD_20, "dra": DRA(0.02)}, tmp_path / "noise.png")
