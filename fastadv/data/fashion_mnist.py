"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, MIT licence): the full set and the embedded sample."""

from pathlib import Path

from .dataset import Dataset
from .files import FIX, Source
from .idx import image_files, read_images

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
EMBEDDED = Path(__file__).parent / "fashion_mnist_mini"

_DEBIAN = ", or install the Debian package dataset-fashion-mnist"
SOURCE = Source(
    "fashion-mnist",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    megabytes=31,
    others=f"{_DEBIAN}, or use the embedded fashion-mnist-mini",
)
# The images and the labels of each split; the digests are those of Debian's dataset-fashion-mnist.
FILES = {
    "train": image_files(
        "train",
        60_000,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        FIX + _DEBIAN,
    ),
    "test": image_files(
        "t10k",
        10_000,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        FIX + _DEBIAN,
    ),
}
_MINI_FIX = "reinstall fastadv"
MINI_FILES = {
    "train": image_files(
        "train",
        6_000,
        "cf313073c7eb485392848071d5c433571d7166043e971e3345b095cc30518084",
        "097b93fbcf9bd5bc648b1a457ddc55c9e4ab49afb33f9ecae8ce068399a75e3a",
        _MINI_FIX,
    ),
    "test": image_files(
        "t10k",
        1_000,
        "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef",
        "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909",
        _MINI_FIX,
    ),
}


def load_fashion_mnist(split: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """All 60,000 (train) or 10,000 (test) images of Fashion-MNIST: x [N, 1, 28, 28] in [0, 1], ten classes.

    The IDX files, plain or .gz, are looked for, and fetched with ``download``, as ``Source.locate`` says. Raises its
    errors, and ValueError naming the file that is not the original, bit for bit.
    """
    files = FILES[split]
    return read_images(files, SOURCE.locate(files, folder, download), CLASSES, "fashion-mnist")


def load_fashion_mnist_mini(split: str) -> Dataset:
    """The embedded sample: the first 600 training and the first 100 test images of each class, in original order.

    x [6000, 1, 28, 28] or [1000, 1, 28, 28] in [0, 1]; needs no network and no other file. ``make_mini`` made it.
    Raises ValueError naming the file that is damaged.
    """
    files = MINI_FILES[split]
    return read_images(files, [EMBEDDED / file.published for file in files], CLASSES, "fashion-mnist-mini")
