"""benchmarks/records.py runs for every network and level, and counts what it says it counts."""

import json
from pathlib import Path

import pytest
import torch
from toys import linear

from benchmarks import records
from fastadv import data
from fastadv.attacks import FGSM
from fastadv.trainers import NFGSM


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 images, and one cheap attack on both sides; whatever the loop has trained is robust enough."""
    halves = [data.load("fashion-mnist-mini", split).take(16) for split in ("train", "test")]
    monkeypatch.setattr("fastadv.data.load_halves", lambda name: halves)
    monkeypatch.setattr(
        records, "torchattacks", lambda name, eps, **_: lambda model: lambda x, y: FGSM(eps)(model, x, y)
    )
    monkeypatch.setattr(records, "ATTACKS", (FGSM(0.1),))
    monkeypatch.setattr(records, "TESTED", 8)
    monkeypatch.setattr(records, "robust", lambda model, x, y, level=0.0: 99.0)


@pytest.mark.parametrize(
    ("name", "level"),
    [("lenet5", 55), ("lenet5", 65), ("small-cnn", 60), pytest.param("resnet18", 55, marks=pytest.mark.thorough)],
)
def test_both_sides_run(name, level, tiny, capsys):
    records.main([str(level), "3", "4", "--model", name])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["model"], each["target"], each["seed"], each["side"]) for each in told] == [
        (name, level, seed, side) for seed in (3, 4) for side in ("torchattacks", "fastadv")
    ]
    way = records.WAYS[name][level]
    assert [each["gradients"] for each in told] == [8, 4 * way.epochs] * 2  # of 7 steps and one; of 4 replays
    for each in told:
        assert each["seconds"] > 0
        assert each["joules"] is None or each["joules"] >= 0


def test_gradients_are_those_of_attacks_too(tiny):
    train = data.load("fashion-mnist-mini", "train").take(40)
    way = records.Way(NFGSM, images=10, epochs=3)
    assert records.fast(linear(784, 10), way, train, 0) == pytest.approx(3 * 2 / 4)


def test_a_cheaper_attack_is_enough_below_the_level(monkeypatch):
    asked = []
    attacks = [lambda model, x, y, k=k: asked.append(k) or x for k in range(3)]
    monkeypatch.setattr(records, "ATTACKS", attacks)
    model, x = torch.nn.Identity(), torch.eye(4)
    y = torch.tensor([0, 1, 0, 0])
    assert records.robust(model, x, y, level=55.0) == 50.0
    assert asked == [0]
    assert records.robust(model, x, y) == 50.0
    assert asked == [0, 0, 1, 2]


def test_joules_are_those_of_all_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of packages, not of their parts; a counter may begin again once, which takes more than the seconds between."""
    monkeypatch.setattr(records, "ZONES", tmp_path)
    monkeypatch.setattr(records, "DEVICE", torch.device("cpu"))

    def write(**counts: int) -> None:
        for zone, count in counts.items():
            folder = tmp_path / zone.replace("_", ":").replace("rapl", "intel-rapl")
            folder.mkdir(exist_ok=True)
            name = {"rapl_0": "package-0", "rapl_1": "package-1", "rapl_0_0": "core"}[zone]
            contents = {"name": name, "energy_uj": count, "max_energy_range_uj": 10_000_000_000}
            for file, content in contents.items():
                (folder / file).write_text(f"{content}\n")

    clock = records.Clock()
    clock.stop()
    assert clock.joules is None  # nothing there
    write(rapl_0=9_999_000_000, rapl_1=5_000_000, rapl_0_0=1)
    clock = records.Clock()
    write(rapl_0=2_000_000, rapl_1=6_000_000, rapl_0_0=9_000_000)
    clock.stop()
    assert clock.joules == pytest.approx(1 + 2 + 1)
    clock.go()
    write(rapl_1=6_500_000)
    clock.stop()
    assert clock.joules == pytest.approx(4.5)
    clock.began = (clock.began[0] - 11, *clock.began[1:])  # eleven seconds of 1,000 W go round
    clock.stop()
    assert clock.joules is None
    monkeypatch.setattr(records, "DEVICE", torch.device("meta"))
    clock = records.Clock()
    clock.stop()
    assert clock.joules is None  # processors are not what trains
