"""A second data set of which a share of each batch is: its file, the order of batches, and what is refused."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toys import labels, linear, samples

from fastadv.__main__ import main
from fastadv.attacks import FGSM
from fastadv.data import Dataset, Indexed, load_extra
from fastadv.runs import load_checkpoint
from fastadv.trainers import FGSMPGI, Batch, Standard, Stopped, fit
from fastadv.trainers._source import Extended, Shuffled

OWN = Dataset(samples(23, 1, 4, 4), labels(23, 3), tuple("abc"), name="own")
MORE = Dataset(samples(50, 1, 4, 4, seed=1), labels(50, 3, seed=1), tuple("abc"), name="more")


def batches(share: float, epochs: int, size: int = 6) -> list[list[Tensor]]:
    source = Extended(Shuffled(OWN, size), MORE, share)
    return [[part[2] for part, _ in source.epoch(epoch, seed=3, skip=0)] for epoch in range(epochs)]


def test_a_share_of_every_batch_is_extra_and_an_epoch_is_as_long_as_without():
    found = batches(0.7, 3)
    assert [[len(places) for places in epoch] for epoch in found] == [[6, 6, 6, 5]] * 3
    assert [[int((places >= 23).sum()) for places in epoch] for epoch in found] == [[4, 4, 4, 3]] * 3
    assert max(int(places.max()) for epoch in found for places in epoch) < 73
    again = batches(0.7, 3)
    assert all(torch.equal(a, b) for one, two in zip(found, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(found[0][0], found[1][0])


def test_own_samples_come_all_before_any_comes_again():
    source = Extended(Shuffled(OWN, 6), MORE, 0.5)
    places = torch.cat([source._in_turn(first, 12, seed=3) for first in range(0, 69, 12)])
    for part in places.split(23)[:3]:
        assert len(part.unique()) == 23
    found = torch.cat([places[places < 23] for epoch in batches(0.5, 6) for places in epoch])
    assert torch.equal(found[: 12 * 4].bincount(minlength=23), places[: 12 * 4].bincount(minlength=23))
    extra = torch.cat([places[places >= 23] for epoch in batches(0.5, 40) for places in epoch]) - 23
    counts = torch.bincount(extra, minlength=50)
    assert (counts > 0).all()


def test_places_name_the_samples():
    source = Extended(Shuffled(OWN, 6), MORE, 0.5)
    x, y = torch.cat((OWN.x, MORE.x)), torch.cat((OWN.y, MORE.y))
    assert len(source) == 73
    for (found, wanted, places), _ in source.epoch(0, seed=0, skip=1):
        assert torch.equal(found, x[places])
        assert torch.equal(wanted, y[places])


def test_parts_of_a_batch_have_some_of_both():
    """So that batch norm, of parts that are accumulated, sees neither kind alone."""
    mixed = [
        all(0 < int((part >= 23).sum()) < len(part) for part in epoch[0].chunk(2))
        for seed in range(20)
        for epoch in [[part[2] for part, _ in Extended(Shuffled(OWN, 20), MORE, 0.5).epoch(0, seed, 0)]]
    ]
    assert sum(mixed) >= 18


@dataclass
class Seen(Standard):
    places: list[Tensor] = field(default_factory=list)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.places.append(batch.ids)
        return super().loss(model, batch)


@pytest.mark.parametrize("method", [Seen, lambda: FGSMPGI(attack=FGSM(0.1))], ids=["standard", "fgsm_pgi"])
def test_resumes_within_an_epoch_to_the_same_bits(method):
    how = {"extra": MORE, "extra_share": 0.6, "epochs": 3, "batch_size": 6, "memory_format": "preserve"}
    whole, stopped, states = linear(16, 3), linear(16, 3), []
    fit(whole, one := method(), OWN, **how)
    steps = iter(range(100))
    with pytest.raises(Stopped):
        fit(stopped, method(), OWN, **how, on_save=states.append, stop=lambda: next(steps) == 5)
    fit(again := linear(16, 3), two := method(), OWN, **how, resume=states[-1])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    if isinstance(one, Seen):
        assert [each.tolist() for each in one.places[6:]] == [each.tolist() for each in two.places]


def other(**changed: object) -> Dataset:
    return Dataset(**{"x": MORE.x, "y": MORE.y, "classes": MORE.classes, "name": "more"} | changed)


@pytest.mark.parametrize(
    ("extra", "share", "message"),
    [
        (other(x=samples(50, 1, 5, 4)), 0.5, r"extra has samples of shape \[1, 5, 4\], the training data \[1, 4, 4\]"),
        (other(bounds=(-1.0, 1.0)), 0.5, r"extra has the bounds \(-1.0, 1.0\), the training data \(0.0, 1.0\)"),
        (other(classes=tuple("abcd")), 0.5, "extra has 4 classes, the training data 3: number them alike"),
        (MORE, 0.1, r"of a batch of 6, extra_share 0.1 is not one sample"),
        (MORE, 0.0, "extra and extra_share go together"),
        (None, 0.5, "extra and extra_share go together"),
        (MORE, 1.0, r"extra_share must be in \[0, 1\), got 1.0"),
        (DataLoader(TensorDataset(MORE.x, MORE.y)), 0.5, "extra must be data that can be read in any order"),
    ],
)
def test_what_is_no_extra(extra, share, message):
    with pytest.raises(ValueError, match=message):
        fit(linear(16, 3), Standard(), OWN, extra=extra, extra_share=share, batch_size=6, epochs=1)


def test_a_loader_takes_no_extra():
    loader = DataLoader(TensorDataset(OWN.x, OWN.y), batch_size=6)
    with pytest.raises(ValueError, match="extra needs training data that can be read in any order"):
        fit(linear(16, 3), Standard(), loader, extra=MORE, extra_share=0.5, epochs=1)


# Files


COLOURED = Dataset(samples(5, 3, 4, 6), labels(5, 3), tuple("abc"), name="own")
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
Y = np.arange(7) % 3


def test_pixels_stay_pixels_in_memory_and_come_as_shares_of_255(tmp_path):
    np.savez(path := tmp_path / "1m.npz", image=PIXELS, label=Y)
    found = load_extra(path, COLOURED)
    assert isinstance(found, Indexed)
    assert found.items.images.dtype == torch.uint8
    assert found.classes == COLOURED.classes
    x, y, _ = found.at(torch.tensor([6, 2]))
    assert torch.equal(x, torch.from_numpy(np.divide(PIXELS[[6, 2]], 255, dtype=np.float32)).permute(0, 3, 1, 2))
    assert y.tolist() == [0, 2]


@pytest.mark.parametrize("names", [("image", "label"), ("x_train", "y_train"), ("x", "y")])
def test_names_and_layouts(names, tmp_path):
    x = samples(7, 3, 4, 6)
    for layout in (x, x.permute(0, 2, 3, 1)):
        np.savez(path := tmp_path / "more.npz", **dict(zip(names, (layout.numpy(), Y), strict=True)))
        assert torch.equal(load_extra(path, COLOURED).x, x)
    np.savez(path, **dict(zip(names, (x[:, 0, :, :4].numpy(), Y), strict=True)))
    assert load_extra(path, OWN).sample_shape == (1, 4, 4)


def test_safetensors(tmp_path):
    save = pytest.importorskip("safetensors.torch").save_file
    save({"image": torch.from_numpy(PIXELS), "label": torch.from_numpy(Y)}, path := tmp_path / "more.safetensors")
    np.savez(tmp_path / "more.npz", image=PIXELS, label=Y)
    places = torch.arange(7)
    one, two = (load_extra(each, COLOURED).at(places) for each in (path, tmp_path / "more.npz"))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.y, two.y)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"more\.safetensors"):
        load_extra(path, COLOURED)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": PIXELS[:, :3], "label": Y}, r"samples are \[3, 6, 3\], those of own \[3, 4, 6\]"),
        ({"image": PIXELS, "label": Y + 1}, "labels are from 1 to 3, the classes of own from 0 to 2"),
        ({"image": PIXELS, "label": Y[:6]}, r"integer labels \[N\] are wanted, got \[7, 4, 6, 3\] and .* \[6\]"),
        ({"image": PIXELS, "label": Y / 1}, "labels float64: save numbers, and labels as integers"),
        ({"image": PIXELS.astype(np.int64), "label": Y}, "samples are torch.int64: save uint8 pixels"),
        ({"image": PIXELS / 100, "label": Y}, r"outside its bounds \[0, 1\]"),
        ({"images": PIXELS, "label": Y}, "it holds 'images', 'label', but image and label; or x_train and y_train"),
        ({"image": np.array([None]), "label": Y}, "holds Python objects"),
    ],
    ids=["shape", "classes", "numbers", "labels", "pixels", "range", "names", "objects"],
)
def test_files_that_are_refused(arrays, message, tmp_path):
    np.savez(path := tmp_path / "more.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_extra(path, COLOURED)


def test_a_file_that_is_missing_or_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file; give an \.npz or a \.safetensors file"):
        load_extra(tmp_path / "none.npz", COLOURED)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npz"):
        load_extra(tmp_path / "text.npz", COLOURED)


@pytest.mark.thorough
def test_the_command_trains_on_both(tmp_path, capfd):
    def data(name: str, n: int) -> Path:
        arrays = {"x_train": samples(n, 1, 28, 28), "y_train": labels(n, 3)}
        np.savez(path := tmp_path / name, **arrays, x_test=arrays["x_train"][:8], y_test=arrays["y_train"][:8])
        return path

    own, more = data("own.npz", 16), data("more.npz", 24)
    flags = ["train", "standard", "--data", str(own), "--epochs", "1", "--batch-size", "8", "--test.attacks", "fgsm"]
    flags += ["--extra", str(more), "--out", str(out := tmp_path / "run")]
    assert main([*flags, "--extra-share", "0.5"]) == 0
    assert load_checkpoint(out / "checkpoint.pt")["history"][0]["epoch"] == 1
    assert "extra_share: 0.5" in (out / "config.yaml").read_text()
    assert main(flags) == 2
    assert "extra and extra_share go together" in capfd.readouterr().err
