"""Data that are walked over in batches: of any kind, with the results of the same data in memory, a batch at a time."""

import functools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset
from toys import Wavy, labels, samples

import fastadv.data
from fastadv import commands
from fastadv.__main__ import main
from fastadv.attacks import FGSM, DeepFool, Noise
from fastadv.data import Dataset, Framing, Indexed, Stream, corrupted, load, open_samples, samples_of
from fastadv.evaluation import (
    calibrated,
    corruption_accuracy,
    evaluate,
    features,
    gradient_norms,
    landing,
    swept_curve,
    transfer,
)
from fastadv.runs import load_checkpoint
from fastadv.trainers import Standard, fit

MODEL = Wavy(48, 5)
X, Y = samples(41, 3, 4, 4), labels(41, 5)
WHOLE = Dataset(X, Y, tuple("abcde"))
ATTACKS = {"noise": Noise(0.1), "deepfool": DeepFool(steps=2)}


class Items(TorchDataset):
    """(x, y) by place, y as MedMNIST has it: an array of one."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, np.ndarray]:
        return X[place], np.array([int(Y[place])])


class Walked(IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return zip(X, Y.tolist(), strict=True)


class Rows:
    """What a data set of Hugging Face shows of itself: columns of images and labels, with random access."""

    class Image: ...

    class ClassLabel:
        names = tuple("abcde")

    features: ClassVar = {"label": ClassLabel(), "img": Image()}

    def with_format(self, kind: None) -> "Rows":
        return self

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, key: int | str) -> Any:
        return Y.tolist() if key == "label" else {"label": int(Y[key]), "img": X[key].numpy()}

    def iter(self, batch_size: int) -> Iterator[dict[str, Any]]:
        for x, y in zip(X.split(batch_size), Y.split(batch_size), strict=True):
            yield {"label": y.tolist(), "img": list(x.numpy())}


class FlowingRows:
    """The same without random access."""

    features, with_format, iter = Rows.features, lambda self, kind: self, Rows.iter


def parts(size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(X.split(size), Y.split(size), strict=True))


SOURCES: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (X, Y),
    "column of labels": lambda: Dataset(X, Y.unsqueeze(1), WHOLE.classes),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=6),
    "loader of dicts": lambda: DataLoader(
        Items(), batch_size=6, collate_fn=lambda items: {"x": [x for x, _ in items], "label": [y[0] for _, y in items]}
    ),
    "loader of columns": lambda: DataLoader(Items(), batch_size=6),
    "list": lambda: parts(9),
    "one by one": lambda: parts(1),
    "generator": lambda: iter(parts(50)),
    "function": lambda: Stream(lambda: iter(parts(4)), count=41),
    "data set": lambda: Items(),
    "iterable data set": lambda: Walked(),
    "rows": lambda: Rows(),
    "flowing rows": lambda: FlowingRows(),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)


MEASURES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "evaluate": lambda data: {
        name: (outcome.right, getattr(outcome, "sizes", None), getattr(outcome, "curve", None))
        for name, outcome in evaluate(MODEL, data, ATTACKS, batch_size=8).outcomes.items()
    },
    "findings": lambda data: {"all": [f.text for f in evaluate(MODEL, data, ATTACKS, checks=8).findings]},
    "transfer": lambda data: dict(enumerate(transfer({"a": MODEL, "b": Wavy(48, 5, 7)}, data, ATTACKS, batch_size=8))),
    "features": lambda data: vars(features(torch.nn.Sequential(MODEL), data, ATTACKS, ["0"], batch_size=8)),
    "gradient_norms": lambda data: vars(gradient_norms(MODEL, data, batch_size=8)),
    "swept_curve": lambda data: vars(swept_curve(MODEL, data, FGSM(), [0.01, 0.02], batch_size=8)),
}


@functools.cache
def in_memory(name: str) -> dict[str, Any]:
    return MEASURES[name](WHOLE)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_all_kinds_of_data_give_the_results_of_data_in_memory(source: Callable[[], Any]) -> None:
    for name, measure in MEASURES.items():
        assert same(measure(source()), in_memory(name))
    found, wanted = (landing(MODEL, data, FGSM(0.05), batch_size=size) for data, size in ((source(), 7), (WHOLE, 500)))
    assert torch.equal(found.confusion, wanted.confusion)
    assert [row[1:3] for row in found.rows] == [row[1:3] for row in wanted.rows]


def test_a_loader_that_shuffles_gives_the_same_results_where_it_names_samples() -> None:
    loader = DataLoader(TensorDataset(X, Y, torch.arange(41)), batch_size=6, shuffle=True)
    torch.manual_seed(0)
    listed = list(loader)
    order = torch.cat([ids for *_, ids in listed])
    assert order.tolist() != list(range(41))
    found, wanted = (evaluate(MODEL, data, ATTACKS, batch_size=8).results["noise"] for data in (listed, WHOLE))
    assert torch.equal(found.sizes, wanted.sizes[order])
    assert torch.equal(found.right, wanted.right[order])


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "generator"])
def test_parts_of_data(name: str) -> None:
    data = samples_of(SOURCES[name]()).named(WHOLE.classes)
    assert data.sample_shape == (3, 4, 4)
    first = data.first(2).x
    assert torch.equal(first, X[: len(first)])
    for change in (lambda given: given.take(10), lambda given: given.only([1, 3]).take(5), lambda given: given):
        batches, wanted = list(change(data).batches(3)), change(WHOLE)
        assert torch.equal(torch.cat([batch.x for batch in batches]), wanted.x)
        assert torch.equal(torch.cat([batch.y for batch in batches]), wanted.y)
        assert [len(batch.y) for batch in batches[:-1]] == [3] * (len(batches) - 1)


def test_corruptions_of_a_stream_are_those_of_the_data() -> None:
    x, model = samples(9, 3, 8, 8), Wavy(192, 5)
    data = Dataset(x, labels(9, 5), tuple("abcde"))
    stream = Stream(lambda: zip(data.x.split(2), data.y.split(2), strict=True), data.classes)
    for name in ("gaussian_noise", "fog"):
        found = torch.cat([batch.x for batch in corrupted(stream, name, 3, batch_size=4).batches(5)])
        assert torch.equal(found, corrupted(data, name, 3).x)
    sets = [[("fog", 1, corrupted(each, "fog", 1))] for each in (stream, data)]
    assert corruption_accuracy(model, sets[0], stream) == corruption_accuracy(model, sets[1], data)


class Alive:
    """How many samples of those that were made are still in memory, at the most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def batch(self, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        values = np.random.default_rng(seed).random((size, 3, 4, 4), dtype=np.float32)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(values, self.gone, size)
        return torch.from_numpy(values), torch.arange(size) % 5

    def gone(self, size: int) -> None:
        self.now -= size


@pytest.mark.parametrize("size", [2, 8, 40])
def test_no_more_than_a_batch_is_held(size: int) -> None:
    """Beside it, what the source gives at a time. Samples for the checks are copies, of a number that does not grow."""
    alive = Alive()
    stream = Stream(lambda: (alive.batch(size, seed) for seed in range(240 // size)))
    models = {"a": MODEL, "b": Wavy(48, 5, 7)}
    for measure in (
        lambda: evaluate(MODEL, stream, {"fgsm": FGSM(0.01)}, batch_size=16, checks=8),
        lambda: transfer(models, stream, {"fgsm": FGSM(0.01)}, batch_size=16),
        lambda: landing(MODEL, stream, FGSM(0.01), batch_size=16),
        lambda: gradient_norms(MODEL, stream, batch_size=16),
        lambda: corruption_accuracy(MODEL, [("none", 1, stream)], batch_size=16),
    ):
        measure()
        assert size <= alive.most <= 16 + 2 * size
        assert alive.now <= size


def test_the_checks_hold_a_number_of_samples_that_does_not_grow() -> None:
    from fastadv.evaluation._honesty import Seen

    seen = Seen(WHOLE.named(WHOLE.classes), 4)
    for batch in WHOLE.batches(7):
        seen.note(batch)
        assert len(seen._held) <= 8
    few, places, ids = seen.some(4)
    assert places.tolist() == ids.tolist() == [0, 16, 24, 40]
    assert torch.equal(few.x, X[places])


def test_an_evaluation_goes_on_with_batches_of_another_size_and_not_with_other_samples() -> None:
    asked = []

    def model(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return MODEL(x)

    def again(data: Any, kept: dict) -> int:
        asked.clear()
        evaluate(model, data, {"noise": Noise(0.1)}, batch_size=8, checks=0, kept=kept)
        return sum(asked)

    kept: dict = {}
    first = again(Stream(parts(9), WHOLE.classes), kept)
    assert first >= 2 * 41
    assert again(Stream(parts(5), WHOLE.classes), kept) == 0
    changed = X.clone()
    changed[40] = 0
    assert again(Dataset(changed, Y, WHOLE.classes), kept) == 2  # the batch that has it: clean and attacked
    assert again(Dataset(changed, (Y + 1) % 5, WHOLE.classes), kept) == first


def test_what_is_no_data() -> None:
    with pytest.raises(TypeError, match=r"data must be a fastadv.Dataset, .*, got str"):
        evaluate(MODEL, "cifar10")
    with pytest.raises(TypeError, match=r"every batch or sample must be \(x, y\), \(x, y, ids\) or a dict, got Tensor"):
        evaluate(MODEL, [X])
    with pytest.raises(ValueError, match="at least one sample is needed, got none"):
        evaluate(MODEL, [])
    with pytest.raises(ValueError, match="walked over once, and was: give a list"):
        calibrated(MODEL, iter(parts(8)), Noise(0.1), Noise(0.2))
    with pytest.raises(ValueError, match=r"x lies in .*, outside its bounds \[0, 1\]"):
        evaluate(MODEL, [(X, Y), (2 * X, Y)], {})
    with pytest.raises(ValueError, match=r"y\[0\] is 7, but the labels of 5 classes are 0..4"):
        evaluate(MODEL, [(X, Y), (X[:1], torch.tensor([7]))], {})
    with pytest.raises(ValueError, match=r"have the shapes .*: all must have one"):
        list(Stream([(X[:1], Y[:1]), (X[:1, :2], Y[:1])]).batches(4))
    with pytest.raises(ValueError, match="of the columns picture, label none is called image or img"):
        list(Stream([{"picture": X, "label": Y}]).batches(4))
    with pytest.raises(ValueError, match="must be the samples' ids, int64, one a sample"):
        list(Stream([(X, Y, Y.float())]).batches(4))


def test_pixels_are_divided_by_255() -> None:
    pixels = torch.tensor([[[[0, 51]]], [[[102, 255]]]], dtype=torch.uint8)
    (batch,) = Stream([(pixels, torch.tensor([0, 1]))]).batches(9)
    assert torch.equal(batch.x.flatten(), torch.tensor([0, 51, 102, 255]) / 255)


# --------------------------------------------------------------------------------------------------------------- images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of mixed sizes, of two classes: red is 10 times the column of a pixel, green the number of the file."""
    for split, count in (("train", 12), ("test", 10)):
        for number in range(count):
            width, height = (20, 12) if number % 3 else (12, 16)
            values = np.broadcast_to(10 * np.arange(width, dtype=np.uint8)[None, :, None], (height, width, 3)).copy()
            values[..., 1] = number
            place = tmp_path / "pets" / split / ("cat" if number % 2 else "dog")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(place / f"{number:02d}.png")
    return tmp_path / "pets"


def test_images_of_mixed_sizes_are_framed(folder: Path) -> None:
    data = open_samples(str(folder), "test", framing=Framing(crop=8))
    assert isinstance(data, Dataset)
    assert data.sample_shape == (3, 8, 8)
    first = (12 - 8) // 2  # file 0 is 12 pixels wide: the middle columns
    place = int((255 * data.x[:, 1, 0, 0]).round().eq(0).nonzero())
    assert (255 * data.x[place, 0, 3]).round().tolist() == [10 * (first + k) for k in range(8)]
    image = Image.new("L", (30, 20), 7)
    assert Framing(resize=10)(image).size == (15, 10)
    assert Framing(resize=10, crop=10)(image).size == (10, 10)
    assert np.unique(np.asarray(Framing(resize=10, crop=10)(image))).tolist() == [7]
    with pytest.raises(ValueError, match=r"pixels: scale the images to one size \(--resize and --crop\)"):
        list(open_samples(str(folder), "test").batches(4))
    with pytest.raises(ValueError, match="fewer than crop 14: scale images with resize"):
        open_samples(str(folder), "test", framing=Framing(crop=14))
    with pytest.raises(ValueError, match="crop 9 exceeds resize 8"):
        Framing(8, 9)
    with pytest.raises(ValueError, match=r"resize must be a number of pixels, or 0 for none, got -1"):
        Framing(-1)
    with pytest.raises(ValueError, match="resize and crop are for folders of images and hf:NAME, not for two-circles"):
        open_samples("two-circles", "test", framing=Framing(8))


def test_training_on_images_that_are_read_as_it_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = open_samples(str(folder), "train", framing=Framing(crop=8))
    monkeypatch.setattr(fastadv.data, "IN_MEMORY", 0)
    read = open_samples(str(folder), "train", framing=Framing(crop=8))
    assert isinstance(held, Dataset)
    assert isinstance(read, Indexed)
    weights = []
    for data in (held, read, read.per_class(6), read.subset(torch.arange(12))):
        model = Wavy(192, 2)
        fit(model, Standard(), data, epochs=2, batch_size=5)
        weights.append(model.v.detach())
    assert all(torch.equal(each, weights[0]) for each in weights)


NETWORK = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from fastadv.data import Stream
from toys import Wavy, samples, labels

def build(): return Wavy(192, 2)

def pairs(split):
    x = samples(20, 3, 8, 8, seed=len(split))
    return TensorDataset(x, labels(20, 2))

def large(split): return TensorDataset(samples(20, 3, 28, 28, seed=len(split)), labels(20, 2))
def loader(split): return Stream(DataLoader(pairs(split), batch_size=3), classes=("a", "b"), name="toys")
def tensors(split): return pairs(split).tensors
def nameless(split): return DataLoader(pairs(split), batch_size=3)
def flow(split): return iter(nameless(split))
def breaks(split): raise OSError("no disk")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "given_sources", raising=False)
    (tmp_path / "given_sources.py").write_text(NETWORK)
    return tmp_path


def test_the_command_line_reads_images_as_it_goes(folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ["--data", str(folder), "--crop", "8"]
    for name, limit in (("held", 2**30), ("read", 0)):
        monkeypatch.setattr(fastadv.data, "IN_MEMORY", limit)
        assert main(["evaluate", "given_sources:build", *data, "--attacks", "fgsm,deepfool", "--out", f"{name}-e"]) == 0
    held, read = (np.load(here / f"{name}-e" / "evaluation.npz") for name in ("held", "read"))
    assert all(np.array_equal(held[key], read[key]) for key in held.files if "seconds" not in key)


@pytest.mark.parametrize("function", ["pairs", "tensors", "loader"])
def test_the_command_line_takes_functions(function: str, here: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--data", f"given_sources:{function}", "--attacks", "fgsm", "--out", "out", "--at_once", "7"]
    assert main(["evaluate", "given_sources:build", *flags]) == 0
    x = samples(20, 3, 8, 8, seed=4)
    right = (Wavy(192, 2)(x).argmax(1) == labels(20, 2)).numpy()
    found = np.load(here / "out" / "evaluation.npz")
    (key,) = [name for name in found.files if name.endswith("natural/right")]
    assert found[key].tolist() == right.tolist()
    assert (here / "out" / "examples.png").is_file()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nameless", "does not name the classes of its data"),
        ("flow", "does not name the classes of its data"),
        ("breaks", r"given_sources:breaks\(\) failed: OSError: no disk"),
        ("other", "given_sources has no 'other'"),
    ],
)
def test_functions_that_give_no_data(function: str, message: str, here: Path) -> None:
    with pytest.raises(ValueError, match=message):
        commands.Data(data=f"given_sources:{function}").load("test")


def test_a_loader_is_not_trained_on_from_the_command_line(here: Path) -> None:
    with pytest.raises(ValueError, match="training reads samples in an order of its own"):
        commands.Training(data="given_sources:loader").training_data()


@pytest.mark.thorough
def test_training_on_a_data_set_of_the_users_from_the_command_line(here: Path, folder: Path) -> None:
    flags = ["--model", "lenet5", "--epochs", "1", "--batch-size", "4", "--test.attacks", "fgsm", "--held-out", "2"]
    for data, shape in ((str(folder), [3, 28, 28]), ("given_sources:large", [3, 28, 28])):
        framing = ["--resize", "28", "--crop", "28"] if data == str(folder) else []
        out = f"run-{len(data)}"
        assert main(["train", "standard", "--data", data, *framing, *flags, "--out", out]) == 0
        about = load_checkpoint(here / out)
        assert (about.get("resize", 0), about["shape"]) == (28 if framing else 0, shape)
        named = [] if framing else ["--data", data]  # a function that a checkpoint names does not run
        again = ["--attacks", "fgsm", "--out", f"{out}-again"]
        assert main(["evaluate", out, *again, *named]) == 0  # data and sizes are those of training
        assert main(["landing", out, "--out", f"{out}-landing", *named]) == 0


def test_medmnist_archives(tmp_path: Path) -> None:
    arrays = {}
    for split, n in (("train", 6), ("val", 2), ("test", 4)):
        arrays[f"{split}_images"] = np.full((n, 4, 4, 3), 51 * len(split) % 256, np.uint8)
        arrays[f"{split}_labels"] = np.arange(n).reshape(n, 1) % 2
    np.savez(tmp_path / "pathmnist.npz", **arrays)
    train, test = (load(str(tmp_path / "pathmnist.npz"), split) for split in ("train", "test"))
    assert (train.sample_shape, len(train), len(test)) == ((3, 4, 4), 6, 4)
    assert train.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert samples_of(test) is test


def test_hugging_face_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    for split, number in ((split, number) for split in ("train", "test") for number in range(6)):
        place = tmp_path / "pets" / split / ("dog" if number % 2 else "cat")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8 + number % 3), (10 * number, 0, 255)).save(place / f"{number}.png")
    held = open_samples(f"hf:{tmp_path / 'pets'}", "test", framing=Framing(crop=8))
    assert (held.classes, held.y.tolist()) == (("cat", "dog"), [0, 0, 0, 1, 1, 1])
    assert (255 * held.x[:, 0, 0, 0]).round().tolist() == [0, 20, 40, 10, 30, 50]
    rows = datasets.load_dataset(str(tmp_path / "pets"), split="test")
    for each in (rows, rows.to_iterable_dataset()):
        data = samples_of(each, Framing(crop=8))
        (batch,) = data.batches(9)
        assert data.classes == held.classes
        assert torch.equal(batch.x, held.x)
        assert torch.equal(batch.y, held.y)
    with pytest.raises(ValueError, match=r"has no test data in .*, as a folder or on the hub"):
        open_samples(f"hf:{tmp_path / 'none'}", "test")
