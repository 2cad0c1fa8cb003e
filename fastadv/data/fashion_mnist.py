"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, MIT licence): the full set and the embedded sample."""

import http.client
import os
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .dataset import Dataset
from .idx import IdxFile

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SYSTEM = Path("/usr/share/datasets/fashion-mnist")
EMBEDDED = Path(__file__).parent / "fashion_mnist_mini"


def _pair(prefix: str, count: int, images: str, labels: str, fix: str) -> tuple[IdxFile, IdxFile]:
    return (
        IdxFile(f"{prefix}-images-idx3-ubyte", (count, 28, 28), images, fix),
        IdxFile(f"{prefix}-labels-idx1-ubyte", (count,), labels, fix, highest=len(CLASSES) - 1),
    )


_FIX = "delete this file, then install the Debian package dataset-fashion-mnist or pass download=True (--download true)"
# The images and the labels of each split; the digests are those of Debian's dataset-fashion-mnist.
FILES = {
    "train": _pair(
        "train",
        60_000,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        _FIX,
    ),
    "test": _pair(
        "t10k",
        10_000,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        _FIX,
    ),
}
_MINI_FIX = "reinstall fastadv"
MINI_FILES = {
    "train": _pair(
        "train",
        6_000,
        "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
        "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
        _MINI_FIX,
    ),
    "test": _pair(
        "t10k",
        1_000,
        "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
        "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
        _MINI_FIX,
    ),
}


def load_fashion_mnist(split: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """All 60,000 (train) or 10,000 (test) images of Fashion-MNIST: x [N, 1, 28, 28] in [0, 1], ten classes.

    The IDX files, plain or .gz, are looked for in ``folder`` and nowhere else where one is given; otherwise in
    ``$FASTADV_DATA``, ``$FASTADV_DATA/fashion-mnist``, the system's data-set folder and the user's cache folder. With
    ``download`` those still missing are fetched into the cache folder from the data set's own address.

    Raises FileNotFoundError listing the folders searched, ConnectionError when the download fails, and ValueError
    naming the file that is not the original, bit for bit.
    """
    files = FILES[split]
    folders = _folders() if folder is None else [Path(folder).expanduser()]
    for place in folders:
        if all(file.find(place) for file in files):
            return _read("fashion-mnist", files, place)
    if download and folder is None:
        cache = folders[-1]
        for file in files:
            if not file.find(cache):
                _download(file, cache)
        return _read("fashion-mnist", files, cache)
    raise FileNotFoundError(
        f"Fashion-MNIST: no folder searched holds both {' and '.join(f'{file.name}[.gz]' for file in files)}:\n"
        + "".join(f"  {place}{'' if place.is_dir() else ' (does not exist)'}\n" for place in folders)
        + "To fix: install the Debian package dataset-fashion-mnist; or allow a download of 31 MB by download=True "
        "(--download true); "
        "or name the folder that holds the files by folder= or FASTADV_DATA; or use the embedded fashion-mnist-mini."
    )


def load_fashion_mnist_mini(split: str) -> Dataset:
    """The embedded sample: the first 600 training and the first 100 test images of each class, in original order.

    x [6000, 1, 28, 28] or [1000, 1, 28, 28] in [0, 1]; needs no network and no other file. ``make_mini`` made it.
    Raises ValueError naming the file that is damaged.
    """
    return _read("fashion-mnist-mini", MINI_FILES[split], EMBEDDED)


def _read(name: str, files: tuple[IdxFile, IdxFile], folder: Path) -> Dataset:
    images, labels = (file.read(file.find(folder) or folder / f"{file.name}.gz") for file in files)
    x = torch.from_numpy(np.divide(images[:, None], 255, dtype=np.float32))
    return Dataset(x, torch.from_numpy(labels.astype(np.int64)), classes=CLASSES, name=name)


def _folders() -> list[Path]:
    """Where the files may be, in the order searched; the last is the cache folder, where downloads go."""
    given = os.environ.get("FASTADV_DATA")
    data = [Path(given).expanduser(), Path(given).expanduser() / "fashion-mnist"] if given else []
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [*data, SYSTEM, cache / "fastadv" / "fashion-mnist"]


def _download(file: IdxFile, folder: Path) -> None:
    """Fetch ``file`` into ``folder``: it appears there complete and verified, or not at all."""
    url = f"{URL}/{file.name}.gz"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            # Compressed images are smaller than plain ones: more than this is no such file, however long it is.
            content = response.read(file.size)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"downloading {url} failed: {error}. To fix: check the network, or install the Debian package "
            "dataset-fashion-mnist"
        ) from error
    fix = f"nothing was kept of what {url} gave: try again, or install the Debian package dataset-fashion-mnist"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{file.name}-", suffix=".gz", delete=False) as partial:
        try:
            partial.write(content)
            partial.flush()
            os.fsync(partial.fileno())
            replace(file, fix=fix).read(Path(partial.name))
            os.replace(partial.name, folder / f"{file.name}.gz")
        finally:
            Path(partial.name).unlink(missing_ok=True)
