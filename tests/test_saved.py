"""Adversarial samples in files: as they were made, whole, and checked against every claim."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import Wavy, labels, samples

from fastadv.__main__ import main
from fastadv.attacks import PGD, Attack, DeepFool, Noise
from fastadv.attacks._grid import rounded
from fastadv.data import Dataset
from fastadv.evaluation import SampleFolder, evaluate, open_saved, verify
from fastadv.evaluation._saved import _rounded

MODEL = Wavy(48, 5)
EIGHT_BITS = (255 * samples(20, 3, 4, 4)).round() / 255
DATA = Dataset(EIGHT_BITS, labels(20, 5), tuple("abcde"))
ATTACKS: dict[str, Attack] = {
    "pgd/20": PGD(8 / 255, 2 / 255, steps=3),
    "l2": PGD(0.3, 0.1, steps=3, norm="l2"),
    "df": DeepFool(),
}


def saved(folder: Path, encoding: str, data: Dataset = DATA, attacks: dict[str, Attack] = ATTACKS, **how: Any) -> Any:
    resume = how.pop("resume", False)
    return evaluate(
        MODEL, data, attacks, batch_size=8, checks=0, save=SampleFolder(folder, encoding, resume=resume), **how
    )


@pytest.mark.parametrize("encoding", ["npz", "safetensors", "png"])
def test_what_is_saved_is_what_was_made_and_every_claim_of_it_holds(encoding: str, tmp_path: Path) -> None:
    if encoding == "safetensors":
        pytest.importorskip("safetensors")
    found = saved(tmp_path / "s", encoding)
    stored = open_saved(tmp_path / "s")
    assert stored.attacks == list(ATTACKS)
    assert torch.equal(stored.dataset().x, DATA.x)  # 8 bits already
    assert torch.equal(stored.dataset("l2").y, DATA.y)
    for name, attack in ATTACKS.items():
        x_adv = attack.within(DATA.bounds).seeded(0)(MODEL, DATA.x, DATA.y, torch.arange(20))
        step = (1.0 if name == "l2" else 0.5) / 255 if encoding == "png" else 0  # some are rounded towards x
        assert (stored.dataset(name).x - x_adv).abs().max() <= step + 1e-6
    claims = {row.attack: row for row in verify(tmp_path / "s", MODEL, batch_size=3)}
    assert all(row.hold for row in claims.values())
    assert [(row.samples, row.damaged) for row in claims.values()] == [(20, 0)] * 3
    assert claims["pgd/20"].within == claims["df"].within == claims["l2"].within == 20
    if encoding != "png":
        assert {name: row.fooled for name, row in claims.items()} == {
            name: int((~result.right).sum()) for name, result in found.results.items()
        }
    assert sorted(path.suffix for path in (tmp_path / "s").rglob("*") if path.is_file()) == sorted(
        [".json"] * 13 + [f".{encoding}"] * (80 if encoding == "png" else 12)
    )


def test_claims_that_do_not_hold(tmp_path: Path) -> None:
    saved(tmp_path / "s", "npz", attacks={"noise": Noise(0.3), "pgd": PGD(0.1)})
    noise, pgd = verify(tmp_path / "s", MODEL)
    assert noise.hold
    assert pgd.hold
    other = verify(tmp_path / "s", Wavy(48, 5, seed=9))
    assert other[1].still_fooled < other[1].fooled == pgd.fooled
    assert other[1].still_within == other[1].within == 20
    path = tmp_path / "s" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sets"]["pgd"]["eps"] = 0.05
    path.write_text(json.dumps(manifest))
    assert verify(tmp_path / "s", MODEL)[1] == pgd._replace(still_within=0)
    victim = tmp_path / "s" / "noise" / "0000008.npz"
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    (tmp_path / "s" / "pgd" / "0000016.npz").unlink()
    noise, pgd = verify(tmp_path / "s", MODEL)
    assert (noise.damaged, pgd.damaged) == (8, 4)
    assert not noise.hold
    with pytest.raises(ValueError, match="noise has files that are missing or damaged"):
        open_saved(tmp_path / "s").dataset("noise")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: "[]", "it holds no object"),
        (lambda whole: "{", "is missing or damaged"),
        (lambda whole: json.dumps({}), "KeyError: 'format'"),
        (lambda whole: whole.replace("version 1", "version 9"), "its format is"),
        (lambda whole: whole.replace('"clean"', '".."'), "names a folder elsewhere"),
        (lambda whole: whole.replace("0000000.npz", "../../x.npz"), "files of other names"),
        (lambda whole: whole.replace('"labels": [', '"labels": [1, '), "columns of different lengths"),
    ],
)
def test_damaged_manifests(change: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path / "s", "npz", attacks={"noise": Noise(0.1)})
    path = tmp_path / "s" / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        open_saved(tmp_path / "s")


def test_rounding_keeps_the_linf_budget_where_a_level_is_within_it() -> None:
    x = torch.tensor([[0.0, 10, 100.4, 254, 255]]) / 255
    x_adv = torch.tensor([[2.6, 7.4, 102.9, 255, 252.4]]) / 255
    found = 255 * _rounded(x_adv, (0, 1), x, PGD(2.6 / 255))
    assert found.round().tolist() == [[2, 8, 103, 255, 253]]  # 102.9 is 2.5 away, and 103 is 2.6
    assert (found / 255 - x).abs().max() <= 2.6001 / 255
    assert (255 * _rounded(x_adv, (0, 1))).round().tolist() == [[3, 7, 103, 255, 252]]
    tight = _rounded(torch.full((1, 1), 0.4 / 255), (0, 1), torch.full((1, 1), 0.4 / 255), PGD(0.1 / 255))
    assert (255 * tight).tolist() == [[0]]  # no level is within: the nearest
    twice = _rounded(2 * x_adv - 1, (-1, 1))
    torch.testing.assert_close(twice, 2 * _rounded(x_adv, (0, 1)) - 1, atol=2e-7, rtol=0)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_rounding_keeps_other_budgets_with_as_few_values_as_it_takes(norm: str) -> None:
    exact = torch.tensor([[3.6, 4.9, 0.3, 1.55], [3.6, 4.9, 0.3, 1.55]], dtype=torch.float64)
    clean, sizes = torch.zeros(2, 4, dtype=torch.float64), {"l1": (11, 10.5), "l2": (math.sqrt(45), math.sqrt(42.5))}
    budget = torch.tensor(sizes[norm], dtype=torch.float64).unsqueeze(1)
    nearest, turned = [4, 5, 0, 2], [4, 5, 0, 1]  # 1.55 is the nearest to the middle between two levels
    assert rounded(exact, clean, norm, budget).tolist() == [nearest, turned]
    assert rounded(exact, clean, "l0", 1.0).tolist() == [nearest, nearest]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_png_says_what_rounding_costs(bounds: tuple[float, float], tmp_path: Path) -> None:
    low, width = bounds[0], bounds[1] - bounds[0]
    odd = Dataset(low + width * samples(20, 1, 4, 4), labels(20, 5), DATA.classes, bounds)
    model, attack = Wavy(16, 5), PGD(1.3 / 255, 0.5 / 255, 3)
    evaluate(model, odd, {"pgd": attack}, batch_size=8, checks=0, save=SampleFolder(tmp_path / "s", "png"))
    sets = open_saved(tmp_path / "s").manifest["sets"]
    assert sets["clean"]["rounding"]["largest_change"] == pytest.approx(0.5 / 255 * width, rel=0.1)
    x, x_adv = (open_saved(tmp_path / "s").dataset(name).x for name in ("clean", "pgd"))
    assert (x_adv - x).abs().max() <= 1.3 / 255 * width
    made = attack.within(bounds).seeded(0)(model, odd.x, odd.y, torch.arange(20))
    lost = (model(made).argmax(1) != odd.y) & (model(x_adv).argmax(1) == odd.y)
    assert sets["pgd"]["rounding"] == {"successes_lost": int(lost.sum()), "left_the_budget": 0}
    assert all(row.hold for row in verify(tmp_path / "s", model))
    pixels = np.asarray(Image.open(tmp_path / "s" / "clean" / "0000003.png"))
    assert pixels.shape == (4, 4)
    assert (pixels == (255 * (odd.x[3, 0] - low) / width).round().numpy()).all()


def test_a_stopped_evaluation_goes_on_and_saves_all(tmp_path: Path) -> None:
    def stop(done: int, in_all: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    kept: dict[str, dict[str, Tensor]] = {}
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path / "s", "npz", kept=kept, on_step=stop)
    with pytest.raises(FileNotFoundError, match=r"has no manifest.json"):
        open_saved(tmp_path / "s")
    with pytest.raises(FileExistsError, match="saved samples are never overwritten"):
        saved(tmp_path / "s", "npz")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.npz")}
    victim = min(before)
    victim.with_suffix(".json").unlink()  # of a batch that was not finished
    saved(tmp_path / "s", "npz", kept=kept, resume=True)
    assert {path for path, time in before.items() if path.stat().st_mtime_ns != time} == {victim}
    saved(tmp_path / "whole", "npz")
    assert (tmp_path / "s" / "manifest.json").read_text() == (tmp_path / "whole" / "manifest.json").read_text()
    assert all(row.hold for row in verify(tmp_path / "s", MODEL))


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples are saved as npz, png, safetensors, got 'pt'"):
        SampleFolder(tmp_path / "s", "pt")
    flat = Dataset(samples(4, 48), labels(4, 5), DATA.classes)
    with pytest.raises(ValueError, match=r"PNG is for images of 1 or 3 channels, not for samples of shape \[48\]"):
        evaluate(MODEL, flat, {}, save=SampleFolder(tmp_path / "s", "png"))
    assert not (tmp_path / "s").exists()


@pytest.mark.thorough
def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "saved_models.py").write_text(
        "from toys import Wavy\ndef one(): return Wavy(48, 5)\ndef other(): return Wavy(48, 5, seed=9)\n"
    )
    halves = {f"x_{half}": EIGHT_BITS.numpy() for half in ("train", "test")}
    np.savez("d.npz", **halves, y_train=DATA.y.numpy(), y_test=DATA.y.numpy(), layout="channels-first")
    flags = [
        "--data",
        "d.npz",
        "--attacks",
        "pgd,deepfool",
        "--eps",
        "0.05",
        "--save-samples",
        "s",
        "--samples-as",
        "png",
    ]
    assert main(["evaluate", "saved_models:one", *flags, "--checks", "0"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 bits: of pgd, " in said
    assert "fastadv verify s --model saved_models:one" in said
    assert main(["verify", "s", "--model", "saved_models:one"]) == 0
    assert "all claims hold" in capsys.readouterr().out
    assert main(["verify", "s", "--model", "saved_models:other"]) == 1
    assert "samples that were claimed to be misclassified are not" in capsys.readouterr().out
    assert main(["verify", "nowhere", "--model", "saved_models:one"]) == 2
    assert "has no manifest.json" in capsys.readouterr().err
