"""Batches in parts, networks computed twice, sharded networks, and data that come in shards."""

import gc
import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_engine import Recorder, bits
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from toys import BatchNormNet, InDouble, linear, quick, samples

from benchmarks import imagenet_model
from fastadv.attacks import PGD
from fastadv.data import Dataset, Stream, load
from fastadv.trainers import MAIL, METHODS, SMD, Batch, Blind, DRAFineTuning, Madry, Standard, fit
from fastadv.trainers._blocks import blocks_of, checkpointed

SGD = {"epochs": 2, "batch_size": 9, "optimizer": "sgd", "lr": 0.05}


@pytest.fixture(scope="module")
def images() -> Dataset:
    return load("fashion-mnist-mini", "train").take(23)


def figures(history: list[dict[str, float]]) -> list[float]:
    return [value for row in history for name, value in row.items() if name not in ("seconds", "images_per_second")]


def blocky(dropout: float = 0.25) -> nn.Sequential:
    """Blocks with what a second pass may upset, for 1x28x28."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout))
        stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4, momentum=None), nn.ReLU())
        return nn.Sequential(stem, nn.Sequential(block), nn.Flatten(), nn.Linear(4 * 13 * 13, 10))


def layers() -> InDouble:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return InDouble(nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10)))


# Batches in parts


@pytest.mark.parametrize("name", quick(METHODS, "standard", "gairat"))
def test_parts_of_a_batch_train_as_the_whole(name, images):
    """Of 9 samples and of 2, in 4 parts; or the method says why it cannot."""
    whole, parts = layers(), layers()
    method = METHODS[name]()
    if method.whole_batch:
        with pytest.raises(ValueError, match=f"accumulate 4 makes parts of a batch, and {type(method).__name__} needs"):
            fit(parts, method, images, **SGD, accumulate=4)
        assert torch.equal(bits(whole), bits(parts)), "before any work"
        return
    few = images.take(11)
    expected = fit(whole, METHODS[name](), few, **SGD)
    history = fit(parts, method, few, **SGD, accumulate=4)
    torch.testing.assert_close(bits(parts), bits(whole), rtol=1e-4, atol=1e-5)
    assert figures(history) == pytest.approx(figures(expected), rel=1e-4, abs=1e-6, nan_ok=True)


def test_what_needs_no_mean_over_a_batch_may_come_in_parts():
    assert all(method.whole_batch for method in (Blind(), MAIL()))
    assert not any(method.whole_batch for method in (Blind(cutoff=0.0), MAIL(factor=3.0)))


@pytest.mark.parametrize("more", [{"awp": 0.01}, pytest.param({"clip": 0.1, "ema": 0.5}, marks=pytest.mark.thorough)])
def test_regularisers_see_the_whole_batch(more, images):
    whole, parts = layers(), layers()
    method = Madry(attack=PGD(0.1, 0.05, 2))
    fit(whole, method, images, **SGD, **more)
    fit(parts, method, images, **SGD, **more, accumulate=3)
    torch.testing.assert_close(bits(parts), bits(whole), rtol=1e-6, atol=1e-8)


def test_a_batch_of_fewer_samples_than_parts(images):
    fit(layers(), Standard(), images.take(2), epochs=1, accumulate=5)
    with pytest.raises(ValueError, match="accumulate must be a whole number of at least 1, got 0"):
        fit(layers(), Standard(), images, accumulate=0)


# Networks computed twice


def test_blocks_are_the_top_level_ones():
    model = blocky()
    assert blocks_of(model) == [model[0], model[1][0]], "of a sequence of blocks, these"
    assert blocks_of(InDouble(model)) == blocks_of(model), "a wrapper is no block"
    assert blocks_of(nn.Sequential(nn.Flatten(), nn.Linear(2, 2))) == []


@pytest.mark.parametrize("name", quick(["fgsm_pgi", "grad_align", "smd", "spat", "dra"], "fgsm_pgi"))
def test_a_second_pass_changes_nothing(name, images):
    """Weights, statistics of batch norm, what dropout draws, the history: to the bit."""
    once, twice = blocky(), blocky()
    found = []
    for model, more in ((once, {}), (twice, {"checkpointing": True})):
        torch.manual_seed(1)
        found.append(figures(fit(model, METHODS[name](), images, **SGD, **more)))
    assert torch.equal(bits(once), bits(twice))
    assert found[0] == pytest.approx(found[1], rel=0, abs=0, nan_ok=True)
    assert [type(module) for module in once.modules()] == [type(module) for module in twice.modules()]


@pytest.mark.thorough
@pytest.mark.parametrize("more", [{"precision": "bfloat16"}, {"awp": 0.01}, {"ema": 0.5, "accumulate": 2}])
def test_a_second_pass_goes_with_other_settings(more, images):
    models = blocky(), blocky()
    for model, twice in zip(models, (False, True), strict=True):
        torch.manual_seed(1)
        fit(model, Madry(attack=PGD(0.1, 0.05, 2)), images, **SGD, **more, checkpointing=twice)
    assert torch.equal(bits(models[0]), bits(models[1]))


def kept_for_the_way_back(model: nn.Module, x: Tensor) -> int:
    """The bytes that a pass keeps beside the parameters."""
    own, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def see(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        output = model(x)
    del output
    return sum(found.values())


def test_a_second_pass_saves_memory():
    model, x = blocky(), samples(8, 1, 28, 28)
    whole = kept_for_the_way_back(model, x)
    with checkpointed(model):
        less = kept_for_the_way_back(model, x)
    image = 4 * 8 * 4 * 13 * 13  # bytes of what a block gives
    assert whole >= x.nbytes + 5 * image, "a convolution, a norm and ReLU keep what they need"
    assert less <= x.nbytes + 3 * image, "only what goes into the blocks and into the last layer"


def test_networks_that_cannot_be_computed_twice(images):
    with pytest.raises(ValueError, match="BatchNormNet has none, only single layers: leave it out"):
        fit(
            BatchNormNet(),
            Standard(),
            Dataset(samples(8, 3, 6, 6), torch.arange(8) % 5, tuple("abcde")),
            checkpointing=True,
        )
    with pytest.raises(ValueError, match="checkpointing and compiled exclude each other"):
        fit(blocky(), Standard(), images, checkpointing=True, compiled=True)


# Networks in shards


def plain() -> InDouble:
    """Blocks without batch norm, for 1x28x28."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = (nn.Sequential(nn.Conv2d(n, 4, 3, stride=2), nn.ReLU()) for n in (1, 4))
        return InDouble(nn.Sequential(nn.Sequential(*blocks), nn.Flatten(), nn.Linear(144, 10)))


SHARDED = {
    "standard": {"optimizer": "adam", "lr": 1e-3},
    "madry": {"clip": 0.1, "accumulate": 2},
    "friendly": {"checkpointing": True},
    "trades": {"precision": "bfloat16"},
    "free": {"weight_decay": 0.1},
    "cat": {},
    "dra": {},
}
"""Attacks of fixed length, and others; settings that go with shards."""


def _train_sharded(images: Dataset, only: str = "", **more: object) -> dict[str, tuple[Tensor, list[float], list]]:
    found = {}
    for name, settings in SHARDED.items():
        if only in ("", name):
            model, states = plain(), []
            method = DRAFineTuning(attack_epochs=1, lam_lr=0.1) if name == "dra" else METHODS[name]()
            history = fit(model, method, images, **SGD | {"sharded": True} | settings | more, on_save=states.append)
            assert not [p for p in model.parameters() if type(p) is not nn.Parameter], "the model is whole"
            found[name] = bits(model), figures(history), states
    return found


def _from_a_seed(seed: int, images: Dataset, **more: object) -> Tensor:
    """The weights that training comes to from those of the `seed`."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    fit(model, Standard(), images, **SGD, **more)
    return bits(model)


def _in_shards(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    images = load("fashion-mnist-mini", "train").take(23)
    found = _train_sharded(images)
    states = [None]
    if rank == 0:
        states = [found["standard"][2][0]]
    dist.broadcast_object_list(states)
    found["again"] = _train_sharded(images, "standard", resume=states[0])["standard"]
    found["whole"] = _train_sharded(images, "madry", sharded=False, awp=0.01)["madry"]
    norms = blocky()
    fit(norms, Standard(), images, **SGD, sharded=True)
    found["norms"] = norms.state_dict()
    found["unlike"] = _from_a_seed(rank, images, sharded=True)
    recorder, same = Recorder(), ""
    shards = [Path(folder, f"{place}.tar") for place in range(4)]
    fit(linear(6, 3), recorder, Stream(Shards(shards, rank, of=2), count=20), epochs=1, batch_size=8)
    try:
        fit(linear(6, 3), recorder, Stream(Shards(shards), count=20), epochs=1, batch_size=8)
    except ValueError as error:
        same = str(error)
    found["read"] = numbers(recorder.batches), torch.cat([batch.ids for batch in recorder.batches]).tolist(), same
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.thorough
def test_shards_train_as_one_process(images, shards, tmp_path):
    """Two processes, by FSDP; what they save continues in one, and in two. By DDP, too, with batches in parts."""
    for path in shards:
        shutil.copy(path, tmp_path)
    torch.multiprocessing.spawn(_in_shards, (f"file://{tmp_path}/meeting", str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    one = _train_sharded(images)
    for name, (weights, history, states) in one.items():
        loose = 100 if name == "trades" else 1  # bfloat16
        assert torch.equal(first[name][0], second[name][0]), name
        torch.testing.assert_close(
            first[name][0], weights, rtol=1e-4 * loose, atol=1e-6 * loose, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert first[name][1] == pytest.approx(history, rel=1e-3 * loose, abs=1e-5, nan_ok=True), name
        assert (len(first[name][2]), len(second[name][2])) == (len(states), 0), "one of the processes saves"
    saved, expected = first["standard"][2][0], one["standard"][2][0]
    assert all(type(value) is Tensor for value in saved["state"].values()), "whole"
    for moments, wanted in zip(
        saved["optimizer"]["state"].values(), expected["optimizer"]["state"].values(), strict=True
    ):
        torch.testing.assert_close(moments, wanted, rtol=1e-5, atol=1e-9)
    assert torch.equal(first["again"][0], first["standard"][0]), "to the same bits"
    alone = _train_sharded(images, "standard", resume=saved)["standard"][0]
    torch.testing.assert_close(alone, first["standard"][0], rtol=1e-6, atol=1e-8)
    parts = _train_sharded(images, "madry", sharded=False, awp=0.01)["madry"]
    torch.testing.assert_close(first["whole"][0], parts[0], rtol=1e-5, atol=1e-7)
    assert torch.equal(first["unlike"], second["unlike"]), "all begin from the first process's weights"
    torch.testing.assert_close(first["unlike"], _from_a_seed(0, images), rtol=1e-4, atol=1e-6)
    for name, value in first["norms"].items():
        assert torch.equal(value, second["norms"][name]), name
        assert not torch.equal(value, blocky().state_dict()[name]), f"{name} has moved"
    (read, ids, same), (others, their, _) = first["read"], second["read"]
    assert (read, others) == ([*range(5), *range(10, 15)], [*range(5, 10), *range(15, 20)]), "shards of their own"
    assert sorted(ids + their) == [*range(20)]
    assert "several processes read the same samples: give each shards of its own" in same


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ema": 0.5}, "sharded and ema exclude each other"),
        ({"awp": 0.5}, "sharded and awp exclude each other"),
        ({"precision": "float16"}, "sharded and float16 exclude each other"),
        ({"method": "smd"}, "sharded needs the same passes of all processes, and those of SMD depend"),
        ({"method": "grad_align"}, "networks in shards have no second derivatives, as GradAlign takes"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "sharded needs an optimizer .* by name"),
    ],
)
def test_what_does_not_go_with_shards(more, message, images):
    with pytest.raises(ValueError, match=message):
        fit(plain(), METHODS[more.pop("method", "standard")](), images, sharded=True, **more)


# Data in shards


class Shards(IterableDataset):
    """Samples by their numbers, from tar files, in an order of the epoch; `of` processes share them."""

    def __init__(self, paths: list[Path], rank: int = 0, of: int = 1, length: int | None = None):
        self.paths, self.rank, self.of, self.epoch, self.opened = paths, rank, of, 0, []
        if length is not None:
            self.__class__ = type("Sized", (Shards,), {"__len__": lambda _: length})

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        shift = self.epoch % len(self.paths)
        for path in [*self.paths[shift:], *self.paths[:shift]][self.rank :: self.of]:
            self.opened.append(path.name)
            with tarfile.open(path) as shard:
                for member in shard:
                    number = int(shard.extractfile(member).read())
                    yield samples(1, 6, seed=number)[0], number % 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Path]:
    """Four tar files of five samples."""
    folder = tmp_path_factory.mktemp("shards")
    paths = [folder / f"{place}.tar" for place in range(4)]
    for place, path in enumerate(paths):
        with tarfile.open(path, "w") as shard:
            for number in range(5 * place, 5 * place + 5):
                member = tarfile.TarInfo(f"{number}.txt")
                member.size = len(str(number))
                shard.addfile(member, io.BytesIO(str(number).encode()))
    return paths


def numbers(batches: list[Batch]) -> list[int]:
    """Which samples batches have."""
    known = {samples(1, 6, seed=number)[0].sum().item(): number for number in range(20)}
    return [known[x.sum().item()] for batch in batches for x in batch.x]


def test_shards_are_read_as_an_epoch_asks(shards):
    """Batches over the borders of shards; ids are the order in which samples come."""
    recorder, data = Recorder(), Shards(shards)
    fit(linear(6, 3), recorder, Stream(data, count=20), epochs=2, batch_size=8)
    assert [len(batch.y) for batch in recorder.batches] == [8, 8, 4] * 2
    assert numbers(recorder.batches[:3]) == [*range(20)]
    assert numbers(recorder.batches[3:]) == [*range(5, 20), *range(5)], "the second epoch"
    assert torch.cat([batch.ids for batch in recorder.batches]).tolist() == [*range(40)]
    assert torch.cat([batch.y for batch in recorder.batches[:3]]).tolist() == [number % 3 for number in range(20)]


def test_an_epoch_has_as_many_samples_as_it_is_said_to_have(shards):
    for count, expected in ((12, [*range(12)]), (23, [*range(20), 0, 1, 2])):
        recorder = Recorder()
        fit(linear(6, 3), recorder, Stream(DataLoader(Shards(shards), 3)).counted(count), epochs=1, batch_size=8)
        assert numbers(recorder.batches) == expected
    recorder = Recorder()
    fit(linear(6, 3), recorder, DataLoader(Shards(shards, length=7), 3), epochs=1)
    assert numbers(recorder.batches) == [*range(7)], "a length of its own is such a number"


def test_a_function_of_the_epoch(shards):
    recorder = Recorder()
    stream = Stream(lambda epoch: Shards(shards[2 * epoch : 2 * epoch + 2]), count=10)
    fit(linear(6, 3), recorder, stream, epochs=2, batch_size=10)
    assert numbers(recorder.batches) == [*range(20)]


def test_a_stream_resumes_within_an_epoch(shards):
    def run(**more: object) -> tuple[Tensor, list[dict]]:
        model, states = linear(6, 3), []
        fit(
            model, Madry(attack=PGD(0.1, 0.05, 2)), Stream(Shards(shards), count=20), epochs=2, batch_size=8,
            save_every=1, on_save=states.append, **more,
        )  # fmt: skip
        return bits(model), states

    whole, states = run()
    assert [state["step"] for state in states] == [1, 2, 0] * 2
    for state in states[1:5]:
        assert torch.equal(run(resume=state)[0], whole)


def test_streams_that_cannot_be_trained_on(shards):
    with pytest.raises(ValueError, match="keeps something of every sample, and those of a stream have no places"):
        fit(linear(6, 3), SMD(), Stream(Shards(shards), count=20))
    with pytest.raises(TypeError, match=r"or a fastadv.data.Stream with a count, got Stream"):
        fit(linear(6, 3), Standard(), Stream(Shards(shards)))
    with pytest.raises(TypeError, match=r"where there is no length, fastadv.data.Stream\(loader, count=...\)"):
        fit(linear(6, 3), Standard(), DataLoader(Shards(shards)))
    with pytest.raises(ValueError, match="an epoch needs at least one sample, got 0"):
        Stream(Shards(shards)).counted(0)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files open
def test_webdataset(shards):
    """Its own splitting, decoding and batches, shuffled by the epoch."""
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")

    def epoch(number: int) -> object:
        found = wds.WebDataset([str(path) for path in shards], shardshuffle=4, detshuffle=True, seed=number)
        return found.map(lambda row: (samples(1, 6, seed=int(row["txt"]))[0], int(row["txt"]) % 3)).batched(4)

    def run(**more: object) -> tuple[list[int], Tensor, list[dict]]:
        recorder, model, states = Recorder(), linear(6, 3), []
        settings = {"epochs": 2, "batch_size": 8, "save_every": 1, "on_save": states.append}
        fit(model, recorder, Stream(epoch, count=20), **settings, **more)
        return numbers(recorder.batches), bits(model), states

    order, weights, states = run()
    assert sorted(order[:20]) == sorted(order[20:]) == [*range(20)]
    assert order[:20] != order[20:]
    again, same, _ = run(resume=states[3])
    gc.collect()
    assert again == order[28:]
    assert torch.equal(same, weights)


# On paper


def test_the_page_has_what_the_model_predicts():
    page = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text()
    assert all(part.strip() in page for part in imagenet_model.tables().split("\n\n"))


def test_the_model_counts_what_its_assumptions_say():
    of = imagenet_model.Assumed(parameters=1e6, macs=1e9, peak=18e12, share=0.5, launch=0.0, decode=1e9, hop=0.0)
    assert imagenet_model.moved(2, "DDP", of) == 4e6, "half of the gradients, twice"
    assert imagenet_model.moved(2, "gathered a pass", of) == 9 / 2 * 4e6
    found = imagenet_model.step(16, 16, "DDP", 1e9, of)
    assert found.compute == pytest.approx(9 * 2e9 / 9e12)
    assert found.network == pytest.approx(2 * 15 / 16 * 4e6 / 1e9)
    assert found.seconds == pytest.approx(found.compute + found.network - 2 / 9 * found.compute)
    assert found.bound == "network"
    slow = imagenet_model.Assumed(**{**vars(of), "hop": 1.0})
    for way, rings in (("DDP", 10), ("sharded", 16), ("gathered a pass", 45)):
        later = imagenet_model.step(16, 16, way, 1e9, slow).network - imagenet_model.step(16, 16, way, 1e9, of).network
        assert later == pytest.approx(15 * rings), way
