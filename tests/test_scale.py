"""Batches in parts, networks computed twice, sharded networks, and data that come in shards."""

import pytest
import torch
import torch.distributed as dist
from test_engine import bits
from torch import Tensor, nn
from toys import BatchNormNet, InDouble, quick, samples

from fastadv.attacks import PGD
from fastadv.data import Dataset, load
from fastadv.trainers import MAIL, METHODS, Blind, DRAFineTuning, Madry, Standard, fit
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


@pytest.mark.parametrize("more", [{"awp": 0.01}, {"clip": 0.1, "ema": 0.5}])
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
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.thorough
def test_shards_train_as_one_process(images, tmp_path):
    """Two processes, by FSDP; what they save continues in one, and what one saves in two."""
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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ema": 0.5}, "sharded and ema exclude each other"),
        ({"awp": 0.5}, "sharded and awp exclude each other"),
        ({"precision": "float16"}, "sharded and float16 exclude each other"),
        ({"method": "smd"}, "sharded needs the same passes of all processes, and those of SMD depend"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "sharded needs an optimizer .* by name"),
    ],
)
def test_what_does_not_go_with_shards(more, message, images):
    with pytest.raises(ValueError, match=message):
        fit(plain(), METHODS[more.pop("method", "standard")](), images, sharded=True, **more)
