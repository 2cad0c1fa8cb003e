"""Finished batches of an evaluation: whole, verified, or measured again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import labels, linear, samples

import fastadv.commands._batches as module
from fastadv.attacks import Noise
from fastadv.commands._batches import Batches
from fastadv.data import Dataset
from fastadv.evaluation import evaluate

PART = {"right": torch.tensor([True, False]), "sizes": torch.tensor([0.5, 0.25]), "grads": torch.tensor([3, 4])}


def test_what_is_put_there_is_taken_from_there(tmp_path: Path) -> None:
    batches = Batches(tmp_path / "a" / "b")
    batches["pgd-0-2"] = PART
    found = Batches(tmp_path / "a" / "b")["pgd-0-2"]
    assert list(found) == list(PART)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in PART.items())
    assert list(batches) == ["pgd-0-2"]
    assert batches.get("pgd-2-2") is None


def save(**arrays: np.ndarray):
    return lambda path: np.savez(path, **arrays)


def rename(path: Path) -> None:
    """The batch of another key, in this one's place."""
    path.write_bytes(path.with_name("pgd-2-2.npz").read_bytes())


def bend(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"NUMPY") + 200] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else"),
        bend,
        rename,
        save(right=np.array([1, 0])),
        save(other=np.array([True, False])),
        save(right=np.array([True, False], dtype=object)),
    ],
)
def test_a_damaged_batch_is_measured_again(damage, tmp_path: Path) -> None:
    batches = Batches(tmp_path)
    for key in ("pgd-0-2", "pgd-2-2"):
        batches[key] = PART
    damage(tmp_path / "pgd-0-2.npz")
    with pytest.warns(UserWarning, match=r"pgd-0-2.npz is damaged or from another version of fastadv, and is"):
        assert batches.get("pgd-0-2") is None
    assert batches.get("pgd-2-2") is not None


def test_a_batch_of_another_version_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Batches(tmp_path)["pgd-0-2"] = PART
    monkeypatch.setattr(module, "__version__", "0.0.0")
    with pytest.warns(UserWarning, match="another version"):
        assert Batches(tmp_path).get("pgd-0-2") is None


def test_an_evaluation_with_a_damaged_batch_ends_as_one_without(tmp_path: Path) -> None:
    data = Dataset(samples(9, 4), labels(9, 3), ("a", "b", "c"), name="toys")
    settings = {"attacks": {"noise": Noise(eps=0.2)}, "batch_size": 4, "checks": 0}
    wanted = evaluate(linear(4, 3), data, **settings, kept=Batches(tmp_path)).results["noise"]
    (tmp_path / "noise-4-4.npz").write_bytes(b"PK")
    with pytest.warns(UserWarning, match="noise-4-4.npz is damaged"):
        found = evaluate(linear(4, 3), data, **settings, kept=Batches(tmp_path)).results["noise"]
    assert found.accuracy == wanted.accuracy
    assert torch.equal(found.sizes, wanted.sizes)
