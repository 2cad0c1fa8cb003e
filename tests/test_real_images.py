"""The commands on photographs: the 20 images each of published data sets that foolbox has."""

import csv
import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastadv import models
from fastadv.__main__ import main
from fastadv.attacks import PGD
from fastadv.data import CORRUPTIONS, cifar, corrupt, load
from fastadv.report._plots import draw_examples

FOUND = importlib.util.find_spec("foolbox")  # which is not imported
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.usefixtures("rendered"),
    pytest.mark.skipif(not FOUND, reason="foolbox is not installed"),
]


def names(name: str) -> tuple[str, ...]:
    """What the classes of a data set are called."""
    return {"cifar10": cifar.CIFAR10_CLASSES, "cifar100": cifar.CIFAR100_CLASSES}.get(name, tuple("0123456789"))


def of(name: str) -> list[tuple[Path, int]]:
    """The files and labels of one data set's images, which are called NAME_INDEX_LABEL.png."""
    paths = sorted((Path(FOUND.origin).parent / "data").glob(f"{name}_*.png"))
    assert len(paths) == 20
    return [(path, int(path.stem.split("_")[2])) for path in paths]


def as_folder(name: str, folder: Path) -> Path:
    """The images as a user's folder of them, the same in both halves."""
    for path, label in of(name):
        for half in ("train", "test"):
            place = folder / half / names(name)[label]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return folder


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cifar10", (3, 32, 32)), ("cifar100", (3, 32, 32)), ("fashionMNIST", (1, 28, 28)), ("mnist", (1, 28, 28))],
)
def test_pixels_keep_their_places_and_channels(name, shape, tmp_path):
    data = load(str(as_folder(name, tmp_path)), "test")
    assert data.x.shape == (20, *shape)
    assert data.bounds == (0, 1)
    found = {
        (data.classes[y], *x.mul(255).round().int().flatten().tolist()) for x, y in zip(data.x, data.y, strict=True)
    }
    expected = set()
    for path, label in of(name):
        with Image.open(path) as image:
            bands = [image.getchannel(band) for band in image.getbands()]
        values = [
            band.getpixel((column, row)) for band in bands for row in range(shape[1]) for column in range(shape[2])
        ]
        expected.add((names(name)[label], *values))
    assert found == expected


def test_photographs_of_one_size_are_read_and_others_named(tmp_path):
    """ImageNet's, of which foolbox has squares and other shapes."""
    sizes = {}
    for path in sorted((Path(FOUND.origin).parent / "data").glob("imagenet_*.jpg")):
        with Image.open(path) as image:
            sizes[path] = image.size
    squares = [path for path, size in sizes.items() if size == (512, 512)][:4]
    (tmp_path / "test" / "any").mkdir(parents=True)
    for path in squares:
        shutil.copy(path, tmp_path / "test" / "any")
    data = load(str(tmp_path), "test")
    assert data.x.shape == (len(squares), 3, 512, 512)
    for x, path in zip(data.x, squares, strict=True):
        with Image.open(path) as image:
            assert np.array_equal((255 * x).round().byte().permute(1, 2, 0).numpy(), np.asarray(image))
    shutil.copy(next(path for path, size in sizes.items() if size != (512, 512)), tmp_path / "test" / "any")
    with pytest.raises(ValueError, match=r"pixels: scale the images to one size \(--resize and --crop\)"):
        load(str(tmp_path), "test")


@pytest.mark.parametrize(("name", "coarse"), [("cifar10", b""), ("cifar100", b"\0")])
def test_the_binary_version_of_the_images_is_read_as_their_pngs_are(name, coarse, tmp_path, monkeypatch):
    """Its records are written here by the description of the format: labels, then the planes red, green and blue."""
    records = b""
    for path, label in of(name):
        with Image.open(path) as image:
            planes = b"".join(plane.tobytes() for plane in image.split())
        records += coarse + bytes([label]) + planes
    files = {"cifar10": cifar.CIFAR10_FILES, "cifar100": cifar.CIFAR100_FILES}[name]
    (tmp_path / files["test"].members[0]).write_bytes(records)
    monkeypatch.setitem(files, "test", replace(files["test"], records=20))
    binary, png = load(name, "test", folder=tmp_path), load(str(as_folder(name, tmp_path / "png")), "test")
    for x, y in zip(binary.x, binary.y.tolist(), strict=True):
        (same,) = (png.x == x).flatten(1).all(1).nonzero()
        assert png.classes[png.y[same]] == binary.classes[y]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    return as_folder("cifar10", tmp_path_factory.mktemp("photographs") / "cifar10")


def test_corruptions_keep_the_size_the_range_and_the_order_of_channels(photographs):
    data = load(str(photographs), "test")
    for name in CORRUPTIONS:
        errors = []
        for severity in (1, 5):
            x = corrupt(data.x, name, severity)
            assert x.shape == data.x.shape
            assert x.min() >= 0
            assert x.max() <= 1
            errors.append((x - data.x).square().mean())
            assert errors[-1] < (x - data.x.flip(1)).square().mean(), name
        assert errors[0] > 0, name
        if name != "elastic_transform":  # whose affine part is the smaller, the higher the severity
            assert errors[0] < errors[1], name


def test_examples_show_the_photographs_in_their_colours(photographs):
    data = load(str(photographs), "test")
    figure = draw_examples(
        {"net": (models.build("lenet5", data.sample_shape, 10), PGD(8 / 255, 2 / 255, 1))}, data, "", 6
    )
    colours = {path.parent.name: [] for path in photographs.glob("test/*/*.png")}
    for path in photographs.glob("test/*/*.png"):
        with Image.open(path) as image:
            colours[path.parent.name].append(np.asarray(image) / np.float32(255))
    for axes in figure.axes[:6]:
        assert any(np.allclose(axes.images[0].get_array(), own) for own in colours[axes.get_title()])


def test_commands_on_photographs(photographs, tmp_path, capsys):
    run = str(tmp_path / "run")
    train = ["train", "madry", "--data", str(photographs), "--model", "lenet5-bn", "--attack.steps", "2"]
    flags = ["--epochs", "2", "--batch-size", "10", "--augment", "crop-flip", "--test.attacks", "fgsm"]
    assert main([*train, *flags, "--out", run]) == 0
    assert main(["evaluate", run, "--attacks", "fgsm,pgd", "--out", str(tmp_path / "aside")]) == 0
    assert "overlap: 20 of 20 test samples are training samples" in " ".join(capsys.readouterr().out.split())
    assert main(["corruptions", run, "--severities", "1,5", "--out", str(tmp_path / "corruptions")]) == 0
    for written in ("run/examples.png", "aside/examples.png", "corruptions/corruptions.png"):
        with Image.open(tmp_path / written) as image:
            image.load()
    with (tmp_path / "aside" / "attacks.csv").open(encoding="utf-8") as file:
        accuracy = {row["attack"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    assert accuracy["worst"] <= min(accuracy["fgsm"], accuracy["pgd"]) <= accuracy["clean"]
    with (tmp_path / "corruptions" / "corruptions.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert {*CORRUPTIONS} <= {row[0] for row in rows}
