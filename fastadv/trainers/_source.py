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
        self.batches = len(self._split(torch.arange(len(self))))

    def __len__(self) -> int:
        return len(self.data)

    def _split(self, order: Tensor) -> list[Tensor]:
        parts = list(order.split(self.batch_size))
        if len(parts) > 1 and len(parts[-1]) < processes():  # every process needs a sample
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        """This process's parts of the batches of an epoch, but for the first `skip`, and the batches' sizes."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(_seed(seed, epoch)))
        for whole in self._split(order.to(self.device))[skip:]:
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

    def _split(self) -> list[Tensor]:
        parts = torch.arange(len(self), device=self.device).split(self.batch_size)
        return [part for part in parts if len(part) >= processes()]

    @property
    def batches(self) -> int:
        return len(self._split())

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        """This process's parts of the batches of an epoch, but for the first `skip`, which are read all the same."""
        self.data.set_epoch(epoch)
        walk = self.data.repeated().batches(len(own_part(torch.arange(self.batch_size))))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed(seed, epoch))
            first = next(walk)  # a loader draws when it is asked for the first
        for whole, (x, y, _) in islice(zip(self._split(), chain([first], walk), strict=False), skip, None):
            index = own_part(whole)
            yield (x[: len(index)], y[: len(index)], index), len(whole)


class Replayed:
    """The batches of `source`, each several times in a row."""

    def __init__(self, source: Shuffled | Loaded | Streamed, times: int):
        self.source, self.times = source, times
        self.bounds, self.sample_shape, self.device = source.bounds, source.sample_shape, source.device
        self.batches = times * source.batches

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[Part, int]]:
        whole, part = divmod(skip, self.times)
        for number, item in enumerate(self.source.epoch(epoch, seed, whole)):
            yield from repeat(item, self.times - (part if number == 0 else 0))


def _check_parts(batch_size: int, samples: int) -> None:
    if min(batch_size, samples) < processes():
        raise ValueError(
            f"a batch needs a sample for each of {processes()} processes: batch_size is {batch_size}, of {samples} "
            "samples"
        )


def _seed(seed: int, epoch: int) -> int:
    return seed * 1_000_003 + epoch


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
