"""Where batches come from: samples that can be read in any order, or a loader of the user's."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from .._processes import processes
from ..data import AnyData, Dataset, Placed, Samples, Stream, samples_of
from ._parallel import gathered, own_part

Part = tuple[Tensor, Tensor, Tensor]
"""Of a batch, what this process has: x [B, ...], y [B], and their places in the data set [B]."""


@dataclass
class Shuffled:
    """Samples that can be read in any order, on the device of the model: batches as seed and epoch alone say."""

    data: Placed
    batch_size: int

    def __post_init__(self) -> None:
        self.bounds, self.sample_shape = self.data.bounds, self.data.sample_shape
        self.device = self.data.device
        _check_parts(self.batch_size, len(self))
        self.batches = len(self.split(torch.arange(len(self))))

    def __len__(self) -> int:
        return len(self.data)

    def split(self, order: Tensor) -> list[Tensor]:
        """`order` in batches."""
        parts = list(order.split(self.batch_size))
        if len(parts) > 1 and len(parts[-1]) < processes():  # every process needs a sample
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        """This process's parts of the batches of an epoch, but for the first `skip`, and the batches' sizes."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(_seed(seed, epoch)))
        for whole in self.split(order.to(self.device))[skip:]:
            index = own_part(whole)
            yield self.data.at(index), len(whole)


@dataclass
class Loaded:
    """A loader of (x, y) or (x, y, index), whose order is its own affair; it draws from a generator seeded every epoch.

    Without an index, samples are numbered in the order in which they come, which `indexed` forbids: it would be wrong
    for methods that keep something of every sample.
    """

    loader: DataLoader
    bounds: tuple[float, float]
    device: torch.device
    indexed: bool

    def __post_init__(self) -> None:
        try:
            self.sample_shape = tuple(self.loader.dataset[0][0].shape)
        except (TypeError, NotImplementedError, AttributeError, IndexError):
            raise TypeError(
                "train must be a DataLoader of a data set with a length, whose items are (x, y) or (x, y, index), "
                "with x a tensor; where there is no length, fastadv.data.Stream(loader, count=...) with the samples "
                "of an epoch"
            ) from None

    def __len__(self) -> int:
        return len(self.loader.dataset)

    @property
    def batches(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        """The batches of an epoch, but for the first `skip`. In several processes, the loader's sampler shares them."""
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(epoch)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed(seed, epoch))
            batches = iter(self.loader)
            seen = sum(len(y) for _, y, *_ in islice(batches, skip))
            first = list(islice(batches, 0 if skip else 1))  # a sampler draws when it is asked for the first
        for x, y, *index in chain(first, batches):
            if self.indexed and not index:
                raise ValueError("the method keeps something of every sample: its loader must give (x, y, index)")
            places = index[0] if index else torch.arange(seen, seen + len(y))
            self._check(places, y)
            seen += len(y)
            x, y, places = (each.to(self.device, non_blocking=True) for each in (x, y, places))
            if x.dim() == 4 and x.device.type == "cpu":
                x = x.to(memory_format=torch.channels_last)  # as `Dataset.to`
            yield (x, y, places), len(y) * processes()

    def _check(self, places: Any, y: Tensor) -> None:
        known = isinstance(places, Tensor) and places.dtype == torch.int64 and places.shape == y.shape[:1]
        if not known or (len(places) and not 0 <= places.min() <= places.max() < len(self)):
            if known:
                got = f"{int(places.min())} to {int(places.max())}"
            else:
                got = f"{places.dtype} {list(places.shape)}" if isinstance(places, Tensor) else type(places).__name__
            raise ValueError(
                "what a loader gives beside (x, y) must be the sample's place in its data set, int64, from 0 to "
                f"{len(self) - 1}, by which random numbers and what methods keep are found again; got {got}"
            )


@dataclass
class Extended:
    """The batches of `source`, a share of each from `extra` (Gowal et al., 2021; Wang et al., 2023).

    There are as many batches an epoch as `source` has, of the same sizes; int(share * size) samples of one are extra,
    drawn with replacement. The samples of `source` come in a random order, all before any comes again, whatever the
    epochs. The places of extra samples follow on those of `source`.

    Raises ValueError where `extra` has other shapes, bounds or classes, or batches are too small for the share.
    """

    source: Shuffled
    extra: Placed
    share: float

    def __post_init__(self) -> None:
        own = self.source.data
        self.bounds, self.sample_shape, self.device = own.bounds, own.sample_shape, own.device
        self.batches = self.source.batches
        for what, here, there in (
            ("samples of shape", [*own.sample_shape], [*self.extra.sample_shape]),
            ("the bounds", tuple(own.bounds), tuple(self.extra.bounds)),
        ):
            if here != there:
                raise ValueError(f"extra has {what} {there}, the training data {here}: bring it to those")
        if own.classes and len(self.extra.classes) > len(own.classes):
            raise ValueError(
                f"extra has {len(self.extra.classes)} classes, the training data {len(own.classes)}: number them alike"
            )
        size = min(self.source.batch_size, len(own))
        if not int(self.share * size):
            raise ValueError(
                f"of a batch of {size}, extra_share {self.share} is not one sample: set one of them higher"
            )

    def __len__(self) -> int:
        return len(self.source) + len(self.extra)

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        """This process's parts of the batches of an epoch, but for the first `skip`, and the batches' sizes."""
        sizes = [len(part) for part in self.source.split(torch.arange(len(self.source)))]
        extra = [int(self.share * size) for size in sizes]
        needed = sum(sizes) - sum(extra)
        own = self._in_turn(epoch * needed, needed, seed).split([a - b for a, b in zip(sizes, extra, strict=True)])
        generator = torch.Generator().manual_seed(_seed(seed, epoch))
        drawn = torch.randint(len(self.extra), (sum(extra),), generator=generator).split(extra)
        for number, parts in enumerate(zip(own, drawn, strict=True)):
            turn = torch.randperm(sizes[number], generator=generator)  # so that every process has some of both
            if number >= skip:
                whole = torch.cat([parts[0], len(self.source) + parts[1]])[turn]
                yield self._at(own_part(whole.to(self.device))), len(whole)

    def _in_turn(self, first: int, count: int, seed: int) -> Tensor:
        """`count` samples of the source, from the `first` on of one random order after another."""
        n = len(self.source)
        passes = range(first // n, (first + count - 1) // n + 1)
        orders = [torch.randperm(n, generator=torch.Generator().manual_seed(_seed(seed, each))) for each in passes]
        return torch.cat(orders)[first - passes[0] * n :][:count]

    def _at(self, places: Tensor) -> Part:
        n = len(self.source)
        sources = ((self.source.data, places[places < n]), (self.extra, places[places >= n] - n))
        found = [data.at(ids) for data, ids in sources if len(ids)]
        turn = (places >= n).argsort(stable=True).argsort()  # parts of a batch have some of both
        x, y = (torch.cat([getattr(batch, name) for batch in found])[turn] for name in ("x", "y"))
        return x, y, places


@dataclass
class Streamed:
    """Samples that come one after the other, as from files in shards, of which every process reads its own.

    An epoch has as many as the stream is said to have. A process whose own are fewer than its part begins again.
    Samples are numbered as they come.
    """

    data: Stream
    batch_size: int

    def __post_init__(self) -> None:
        self.bounds, self.sample_shape = self.data.bounds, self.data.sample_shape
        self.device = self.data.device
        _check_parts(self.batch_size, len(self))
        own = gathered(hashlib.sha256(self.data.first(1).x.cpu().numpy().tobytes()).hexdigest())
        if len(set(own)) < len(own):
            raise ValueError(
                "several processes read the same samples: give each shards of its own, as webdataset.split_by_node and "
                "datasets.distributed.split_dataset_by_node do"
            )

    def __len__(self) -> int:
        return self.data.count

    def split(self) -> list[Tensor]:
        parts = torch.arange(len(self), device=self.device).split(self.batch_size)
        return [part for part in parts if len(part) >= processes()]

    @property
    def batches(self) -> int:
        return len(self.split())

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        """This process's parts of the batches of an epoch, but for the first `skip`, which are read all the same."""
        self.data.set_epoch(epoch)
        walk = self.data.repeated().batches(len(own_part(torch.arange(self.batch_size))))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed(seed, epoch))
            first = next(walk)  # a loader draws when it is asked for the first
        for whole, (x, y, _) in islice(zip(self.split(), chain([first], walk), strict=False), skip, None):
            index = own_part(whole)
            yield (x[: len(index)], y[: len(index)], index), len(whole)


class Replayed:
    """The batches of `source`, each several times in a row."""

    def __init__(self, source: Shuffled | Loaded | Extended | Streamed, times: int):
        self.source, self.times = source, times
        self.bounds, self.sample_shape, self.device = source.bounds, source.sample_shape, source.device
        self.batches = times * source.batches

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        whole, part = divmod(skip, self.times)
        for number, item in enumerate(self.source.epoch(epoch, seed, whole)):
            yield from repeat(item, self.times - (part if number == 0 else 0))


Source = Shuffled | Loaded | Extended | Streamed | Replayed


def _check_parts(batch_size: int, samples: int) -> None:
    if min(batch_size, samples) < processes():
        raise ValueError(
            f"a batch needs a sample for each of {processes()} processes: batch_size is {batch_size}, of {samples} "
            "samples"
        )


def _seed(seed: int, epoch: int) -> int:
    return seed * 1_000_003 + epoch


def extended(
    source: Shuffled | Loaded, extra: AnyData, share: float, bounds: tuple[float, float], own_labels: bool
) -> Extended:
    """`source` with a `share` of each batch from `extra`. Raises ValueError where that cannot be, as of a loader."""
    if not isinstance(source, Shuffled):
        raise ValueError("extra needs training data that can be read in any order: give a data set, not a DataLoader")
    other = source_of(extra, source.batch_size, bounds, source.device, False, own_labels)
    if not isinstance(other, Shuffled):
        raise ValueError("extra must be data that can be read in any order: give a data set, not a DataLoader")
    return Extended(source, other.data, share)


def source_of(
    train: AnyData,
    batch_size: int,
    bounds: tuple[float, float],
    device: torch.device,
    indexed: bool,
    own_labels: bool = False,
) -> Shuffled | Loaded | Streamed:
    """`train` as a source of batches on `device`; `indexed` where a loader must tell samples apart, `own_labels` where
    labels are what a loss of the user's own takes.

    Raises TypeError for anything else than tensors, a loader, or a data set with random access.
    """
    if isinstance(train, tuple) and len(train) == 2:
        x, y = train
        classes = () if own_labels else tuple(str(k) for k in range(int(y.max()) + 1))
        train = Dataset(x, y, classes=classes, bounds=bounds, name="train")
    if isinstance(train, DataLoader):
        if not (isinstance(train.dataset, IterableDataset) and hasattr(train.dataset, "__len__")):
            return Loaded(train, bounds, device, indexed)
        train = Stream(train, bounds=bounds, name="train", count=len(train.dataset))
    found = samples_of(train, name="train")
    found = found.with_own_labels() if own_labels else found
    if isinstance(found, Stream) and found.count:
        if indexed:
            raise ValueError(
                "the method keeps something of every sample, and those of a stream have no places by which to find it "
                "again: give a data set with random access"
            )
        return Streamed(found.to(device), batch_size)
    if not isinstance(found, Placed):
        raise TypeError(
            "train must be a fastadv Dataset, tensors (x, y) or a DataLoader, or a data set of PyTorch or Hugging Face "
            f"with a length, or a fastadv.data.Stream with a count, got {type(train).__name__}"
        )
    if not isinstance(train, Samples):
        found = replace(found, bounds=bounds)
    return Shuffled(found.to(device), batch_size)
