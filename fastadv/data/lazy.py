"""Data that are read while they are walked over: `Indexed` by place, `Stream` from loaders and iterables."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from .dataset import Dataset
from .images import UNCHANGED, Framing, as_tensor
from .samples import Batch, Placed, Samples, checked, laid_out_on

X_COLUMNS, Y_COLUMNS = ("image", "img", "pixel_values", "x"), ("label", "labels", "fine_label", "y")

CPU = torch.device("cpu")
AnyData = Samples | tuple[Tensor, Tensor] | TorchDataset | Iterable[Any]
"""What `samples_of` takes; a DataLoader and data sets of Hugging Face are iterables."""


@dataclass(frozen=True, eq=False)
class Indexed(Placed):
    """Samples that are read by their places when they are wanted, and forgotten then; they can be trained on, too.

    Args:
        items: has a length, and (x, y) at every place, as data sets of PyTorch have. x is a tensor or an array in
            `bounds`, or `uint8` pixels or an image of Pillow's, which are divided by 255; y an integer, or one in an
            array. All places give the same each time they are asked. Where it has ``__getitems__(places)``, that reads
            several.
        classes: the name of each class; empty where they are not known.
        bounds: the least and the greatest value that a sample may hold.
        name: what messages and reports call the data.
        labels: [N], where they are known without reading the samples.
        own_labels: whether labels are what a loss of the user's own takes, of any type and shape, and no classes.

    Errors of `Dataset` are raised by the batch that has what is wrong.
    """

    items: Any
    classes: tuple[str, ...] = ()
    bounds: tuple[float, float] = (0.0, 1.0)
    name: str = "data"
    labels: Tensor | None = None
    own_labels: bool = False
    device: torch.device = CPU
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.items)))
        if len(self.index) == 0:
            raise ValueError(f"{self.name}: at least one sample is needed, got none")
        if self.labels is not None and len(self.labels) != len(self.items):
            raise ValueError(f"{self.name}: {len(self.labels)} labels were given for {len(self.items)} samples")

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def sample_shape(self) -> tuple[int, ...]:
        return super().sample_shape

    @cached_property
    def y(self) -> Tensor:
        """The labels [N]; all samples are read for them where they are not known."""
        if self.labels is not None:
            return self.labels[self.index].to(self.device)
        return torch.cat([y for _, y, _ in self.batches(64)])

    def at(self, ids: Tensor) -> Batch:
        places = self.index[ids.cpu()].tolist()
        several = getattr(self.items, "__getitems__", None)
        rows: Iterable[Any] = several(places) if several else map(self.items.__getitem__, places)
        x, labels = None, []
        for row, (place, item) in enumerate(zip(places, rows, strict=True)):
            one, label, _ = _parted(item, self.name)
            one = _numbers(one, self.name)
            if x is None:
                how = {"memory_format": torch.channels_last} if one.dim() == 3 else {}
                x = torch.empty(len(places), *one.shape, dtype=torch.float32, **how)
            if one.shape != x.shape[1:]:
                raise ValueError(
                    f"{self.name}: sample {place} has shape {[*one.shape]}, another {[*x.shape[1:]]}: all must have one"
                    " size and as many channels; images can be resized and cropped"
                )
            x[row] = one
            labels.append(torch.as_tensor(label))
        if x is None:  # of no places
            raise ValueError(f"{self.name}: at least one sample is needed, got none")
        if not self.own_labels:
            labels = [label.reshape(-1) for label in labels]
            if any(len(label) != 1 for label in labels):
                raise ValueError(f"{self.name}: a sample has {len(labels[0])} labels: one class index is wanted")
            labels = [label[0] for label in labels]
        x, y = checked(x, torch.stack(labels), () if self.own_labels else self.classes or None, self.bounds, self.name)
        return Batch(laid_out_on(self.device, x), y.to(self.device), ids.to(self.device))

    def to(self, device: torch.device | str) -> "Indexed":
        return replace(self, device=torch.device(device))

    def named(self, classes: Sequence[str]) -> "Indexed":
        return replace(self, classes=tuple(classes))

    def with_own_labels(self) -> "Indexed":
        return replace(self, classes=(), own_labels=True)

    def subset(self, index: Tensor | Sequence[int] | slice) -> "Indexed":
        return replace(self, index=self.index[index.cpu() if isinstance(index, Tensor) else index])

    def held(self) -> Dataset:
        """The same data in memory."""
        x, labels = torch.empty(len(self), *self.sample_shape, device=self.device), []
        for batch in self.batches(64):
            x[batch.ids] = batch.x
            labels.append(batch.y)
        return Dataset(x, torch.cat(labels), self.classes, self.bounds, self.name)


class Stream(Samples):
    """Samples that come in batches of whatever size, as from a DataLoader.

    They are joined or cut to the batches that a walk asks for. Ids are the order in which the samples come, or the
    third part of batches (x, y, ids); then a loader that shuffles changes no result but the order.

    Args:
        batches: an iterable of (x, y), (x, y, ids) or dicts with an image and a label; or a function that returns one.
            A function with an argument gets the number of the epoch, from 0: what it shuffles can follow from that.
            x [B, ...] is a tensor or an array in `bounds`, or `uint8` pixels, which are divided by 255; y is [B] or
            [B, 1]. A generator can be walked over once; give a function where it takes several walks.
        classes: the name of each class. Where they are not given, evaluations number the outputs of the model.
        bounds: the least and the greatest value that a sample may hold.
        name: what messages and reports call the data.
        count: the number of samples, where it is known: for progress, and to choose what is worth being timed. In
            training, an epoch is so many, in all processes together; `fit` needs it.
    """

    def __init__(
        self,
        batches: Iterable[Any] | Callable[..., Iterable[Any]],
        classes: Sequence[str] = (),
        bounds: tuple[float, float] = (0.0, 1.0),
        name: str = "data",
        *,
        count: int | None = None,
    ):
        self.classes, self.bounds, self.name = tuple(classes), bounds, name
        self._source, self._count, self.own_labels = batches, count, False
        self._from: Callable[[bool], Iterator[Batch]] | None = None  # what gives the batches of another stream
        self._device: torch.device | None = None
        self._begun: tuple[Batch, Iterator[Batch]] | None = None  # a walk of which the first part was looked at
        self._spent = False
        self._epoch, self._before = 0, None

    @property
    def count(self) -> int | None:
        return self._count

    @property
    def device(self) -> torch.device:
        return self._device or self._first().x.device

    def first(self, n: int) -> Batch:
        return self._joined([Batch(*(column[:n] for column in self._first()))])

    def _first(self) -> Batch:
        if self._begun is None:
            parts = self._parts()
            first = next(parts, None)
            if first is None:
                raise ValueError(f"{self.name}: at least one sample is needed, got none")
            self._begun = first, parts
        return self._begun[0]

    def _parts(self, own_labels: bool = False) -> Iterator[Batch]:
        """What the source gives, checked, in its own sizes; `own_labels`: with labels as they are."""
        own_labels |= self.own_labels
        if self._begun is not None:
            (first, rest), self._begun = self._begun, None
            yield first
            del first
            yield from rest
            return
        source = self._source
        if callable(source):
            source = source(self._epoch) if inspect.signature(source).parameters else source()
        if self._from:
            source = self._from(own_labels)
        elif iter(source) is source and not callable(self._source):
            if self._spent:
                raise ValueError(
                    f"{self.name}: a generator or iterator can be walked over once, and was: give a list, a DataLoader,"
                    " or fastadv.data.Stream(function), of a function that returns a new one"
                )
            self._spent = True
        seen = 0
        for item in source:
            x, y, ids = _parted(item, self.name)
            y = torch.as_tensor(y)
            if y.dim() == 0 or (own_labels and isinstance(source, IterableDataset)):  # a sample by itself
                x, y, ids = [x], y.unsqueeze(0), None if ids is None else torch.as_tensor(ids).reshape(1)
            x = [_numbers(one, self.name) for one in x] if isinstance(x, list | tuple) else _numbers(x, self.name)
            x = x if isinstance(x, Tensor) else torch.stack(x)
            if len(y) == 0:
                continue
            x, y = checked(x, y, () if own_labels else self.classes or None, self.bounds, self.name)
            ids = torch.arange(seen, seen + len(y)) if ids is None else ids
            if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != y.shape[:1]:
                raise ValueError(f"{self.name}: what comes beside (x, y) must be the samples' ids, int64, one a sample")
            seen += len(y)
            part = Batch(x, y, ids.to(y.device))
            del item, x, y, ids  # what was taken is not held while the next is made
            yield part
            del part

    def batches(self, size: int) -> Iterator[Batch]:
        waiting: list[Batch] = []
        for part in self._parts():
            while len(part.y):
                room = size - sum(len(each.y) for each in waiting)
                waiting.append(Batch(*(column[:room] for column in part)))
                part = Batch(*(column[room:] for column in part))
                if sum(len(each.y) for each in waiting) == size:
                    whole, waiting = self._joined(waiting), []
                    yield whole
                    del whole
        if waiting:
            yield self._joined(waiting)

    def _joined(self, parts: list[Batch]) -> Batch:
        shapes = {tuple(part.x.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"{self.name}: samples have the shapes {shapes}: all must have one")
        x, y, ids = (torch.cat(columns) if len(parts) > 1 else columns[0] for columns in zip(*parts, strict=True))
        x = laid_out_on(self._device, x)
        return Batch(x, y.to(x.device), ids.to(x.device))

    def _of(self, parts: Callable[[bool], Iterator[Batch]], **changed: Any) -> "Stream":
        how = {"classes": self.classes, "bounds": self.bounds, "name": self.name, "count": self._count} | changed
        found = Stream((), **how)
        found._from, found._device, found.own_labels = parts, self._device, self.own_labels
        found._before = self
        return found

    def set_epoch(self, epoch: int) -> None:
        """Walks that begin are those of an epoch, from 0, as the source says: a function of it, or a loader or data set
        with a method ``set_epoch``. Others are the same in every epoch, or what they make of torch's generator.
        """
        if epoch != self._epoch:
            self._begun, self._epoch = None, epoch
        if self._before is not None:
            self._before.set_epoch(epoch)
        for source in (self._source, getattr(self._source, "dataset", None)):
            if hasattr(source, "set_epoch"):
                source.set_epoch(epoch)

    def repeated(self) -> "Stream":
        """The same samples again and again, without an end. Raises ValueError, in a walk, where there are none."""

        def parts(own_labels: bool) -> Iterator[Batch]:
            while True:
                count = 0
                for part in self._parts(own_labels):
                    count += len(part.y)
                    yield part
                if not count:
                    raise ValueError(f"{self.name}: at least one sample is needed, got none")

        return self._of(parts, count=None)

    def counted(self, n: int) -> "Stream":
        """The same, of which you know that an epoch has `n` samples."""
        if n < 1:
            raise ValueError(f"{self.name}: an epoch needs at least one sample, got {n}")
        return self._of(self._parts, count=n)

    def to(self, device: torch.device | str) -> "Stream":
        found = self._of(self._parts)
        found._device = torch.device(device)
        return found

    def named(self, classes: Sequence[str]) -> "Stream":
        return self._of(self._parts, classes=tuple(classes))

    def with_own_labels(self) -> "Stream":
        found = self._of(self._parts, classes=())
        found.own_labels = True
        return found

    def take(self, n: int) -> "Stream":
        if n < 1:
            raise ValueError(f"{self.name}: take needs at least one sample, got {n}")

        def first(own_labels: bool) -> Iterator[Batch]:
            left = n
            for part in self._parts(own_labels):
                yield Batch(*(column[:left] for column in part))
                left -= min(left, len(part.y))
                if left == 0:
                    return

        return self._of(first, count=None if self._count is None else min(n, self._count))

    def only(self, classes: Sequence[int]) -> "Stream":
        def chosen(own_labels: bool) -> Iterator[Batch]:
            for x, y, ids in self._parts(own_labels):
                kept = torch.isin(y, torch.tensor(classes, device=y.device))
                yield Batch(x[kept], y[kept], ids[kept])

        return self._of(chosen, count=None)


def samples_of(data: AnyData, framing: Framing = UNCHANGED, name: str = "data") -> Samples:
    """`data` as something to walk over, whatever of these it is; nothing is read yet.

    A `Dataset` and the other `Samples`; tensors (x, y); a data set of PyTorch or of Hugging Face, with random access
    (`Indexed`) or without (`Stream`); a DataLoader or another iterable of batches (`Stream`). Values lie in [0, 1]:
    make an `Indexed` or a `Stream` where they do not. `framing` is for images of Hugging Face.

    Raises TypeError for anything else.
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return Stream([data], name=name, count=len(data[1]))
    if isinstance(data, DataLoader):
        return Stream(data, _classes(data.dataset), name=name, count=_count(data))
    if hasattr(data, "features") and hasattr(data, "iter"):
        return _hugging_face(data, framing, name)
    if isinstance(data, IterableDataset):
        return Stream(data, _classes(data), name=name)
    if isinstance(data, TorchDataset):
        return Indexed(data, _classes(data), name=name)
    if isinstance(data, Iterable) and not isinstance(data, Tensor | Mapping | str | bytes):
        return Stream(data, name=name)
    raise TypeError(
        f"{name} must be a fastadv.Dataset, tensors (x, y), a DataLoader, an iterable of batches (x, y), or a data set "
        f"of PyTorch or Hugging Face, got {type(data).__name__}"
    )


def _classes(data: Any) -> tuple[str, ...]:
    names = getattr(data, "classes", ())
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _count(loader: DataLoader) -> int | None:
    whole = loader.batch_sampler is None or not loader.drop_last
    return len(loader.sampler) if whole and hasattr(loader.sampler, "__len__") else None


def _parted(item: Any, name: str) -> tuple[Any, Any, Any]:
    """x, y and the ids, or None, of a batch or of one sample."""
    if isinstance(item, Mapping):
        columns = [next((key for key in known if key in item), None) for known in (X_COLUMNS, Y_COLUMNS)]
        if None in columns:
            raise ValueError(
                f"{name}: of the columns {', '.join(map(str, item))} none is called {' or '.join(X_COLUMNS)}, or none "
                f"{' or '.join(Y_COLUMNS)}: rename them, or give (x, y)"
            )
        return item[columns[0]], item[columns[1]], None
    if isinstance(item, list | tuple) and len(item) in (2, 3):
        return *item, *[None] * (3 - len(item))
    raise TypeError(f"{name}: every batch or sample must be (x, y), (x, y, ids) or a dict, got {type(item).__name__}")


def _numbers(x: Any, name: str) -> Tensor:
    """`x` as a tensor; pixels are divided by 255."""
    if isinstance(x, Image.Image):
        return as_tensor(x)
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: x must be a tensor, an array or an image of Pillow's, got {type(x).__name__}")
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


class _Rows:
    """Rows of a data set of Hugging Face as (x, y), with random access or in batches."""

    def __init__(self, data: Any, image: str, label: str, framing: Framing):
        self.data, self.image, self.label, self.framing, self.mode = data.with_format(None), image, label, framing, ""

    def __len__(self) -> int:
        return len(self.data)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)

    def _pair(self, image: Any, label: Any) -> tuple[Any, Any]:
        if not isinstance(image, Image.Image):
            return np.asarray(image), label
        self.mode = self.mode or ("L" if len(as_tensor(image)) == 1 else "RGB")
        x = as_tensor(self.framing(image))
        return (x.expand(3, -1, -1) if len(x) == 1 and self.mode == "RGB" else x), label  # grey among colours

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        row = self.data[place]
        return self._pair(row[self.image], row[self.label])

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        rows = chain.from_iterable(
            zip(part[self.image], part[self.label], strict=True) for part in self.data.iter(batch_size=16)
        )
        return (self._pair(*row) for row in rows)


def _hugging_face(data: Any, framing: Framing, name: str) -> Samples:
    features = dict(data.features or {})
    kinds = {column: type(feature).__name__ for column, feature in features.items()}

    def column(kind: str, known: Sequence[str]) -> str:
        typed = [each for each in kinds if kinds[each] == kind] or list(kinds)
        found = typed if len(typed) == 1 else [each for each in known if each in typed]
        if not found:
            raise ValueError(
                f"{name}: of the columns {', '.join(kinds) or 'nothing'} none is known to be the "
                f"{'image' if kind == 'Image' else 'label'}: rename it to {known[0]} (rename_column)"
            )
        return found[0]

    image, label = column("Image", X_COLUMNS), column("ClassLabel", Y_COLUMNS)
    classes = tuple(getattr(features[label], "names", None) or ())
    rows = _Rows(data, image, label, framing)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        return Stream(rows, classes, name=name)
    return Indexed(rows, classes, name=name, labels=torch.as_tensor(list(data.with_format(None)[label])))
