"""fastadv.trainers.fit: schedules, averaging, precision, sources of data, stopping, and several processes."""

import copy
import dataclasses
import gc
import math
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from toys import BatchNormNet, Cliff, InDouble, Slope, halves, linear

import fastadv
from fastadv.attacks import FGSM, PGD, Noise
from fastadv.data import CropFlip, CutMix, Dataset, load
from fastadv.models import LeNet5
from fastadv.trainers import (
    CAT,
    MAILTRADES,
    METHODS,
    MMA,
    SMD,
    SPAT,
    TRADES,
    Batch,
    Bilateral,
    Blind,
    DeepFoolTraining,
    DRAFineTuning,
    Friendly,
    FriendlyTRADES,
    Madry,
    Method,
    Settings,
    Standard,
    Stopped,
    _fit,
    fit,
    processes,
)
from fastadv.trainers._awp import perturbed
from fastadv.trainers._precision import Autocast


def lenet() -> LeNet5:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet5()


def bits(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


@pytest.fixture(scope="module")
def images() -> Dataset:
    return load("fashion-mnist-mini", "train").take(24)


@dataclass
class Recorder(Standard):
    """Keeps every batch, and the learning rate as the gradient of a step of SGD shows it."""

    batches: list[Batch] = field(default_factory=list)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.batches.append(batch)
        return super().loss(model, batch)


# Schedules


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"milestones": [1, 3], "lr_decay": [0.5, 0.1]}, [1, 0.5, 0.5, 0.05]),
        ({"schedule": "cosine"}, [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2]),
        ({"schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"warmup": 2}, [0, 0.5, 1, 1]),
        ({"warmup": 2, "schedule": "linear"}, [0, 0.375, 0.5, 0.25]),
        ({"schedule": "one-cycle"}, [0.04, 0.04 + 0.96 * (1 - math.cos(math.pi * 0.25 / 0.3)) / 2, None, None]),
    ],
)
def test_schedules(settings, expected):
    how = Settings(epochs=4, lr=1.0, **settings)
    for epoch, rate in enumerate(expected):
        if rate is not None:
            assert how.lr_at(epoch) == pytest.approx(rate)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "one-cycle"])
def test_schedules_end_at_nothing(schedule):
    how = Settings(epochs=3, lr=0.2, schedule=schedule)
    assert how.lr_at(3) == pytest.approx(0, abs=1e-12)
    assert max(how.lr_at(step / 100) for step in range(300)) == pytest.approx(0.2, rel=1e-3)


def test_one_cycle_peaks_where_torch_has_it():
    how, weight = Settings(epochs=10, lr=0.1, schedule="one-cycle"), nn.Parameter(torch.zeros(1))
    theirs = torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD([weight]), max_lr=0.1, total_steps=1001)
    for step in range(1000):
        theirs.optimizer.step()
        assert how.lr_at(step / 100) == pytest.approx(theirs.get_last_lr()[0], abs=2e-3)
        theirs.step()


def test_every_step_has_the_rate_of_the_schedule(images):
    """A linear schedule over 6 steps of plain SGD on a loss with a gradient of one."""

    @dataclass
    class Slope(Method):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return model.weight.sum()

    model = nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    descent = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model, Slope(), images, epochs=2, batch_size=10, optimizer=descent, schedule="linear")
    assert start - model.weight.item() == pytest.approx(0.1 * sum(1 - step / 6 for step in range(6)), rel=1e-5)
    assert [row["lr"] for row in history] == pytest.approx([0.1 * 4 / 6, 0.1 * 1 / 6])
    assert descent.param_groups[0]["lr"] == pytest.approx(0.1), "another fit begins where this one began"


def test_adamw(images):
    model, other, recorder = lenet(), lenet(), Recorder(label_smoothing=0)
    fit(model, recorder, images, epochs=1, batch_size=10, optimizer="adamw", weight_decay=0.1)
    groups = [[p for p in other.parameters() if (p.dim() > 1) == weights] for weights in (True, False)]
    theirs = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0}], lr=1e-3, fused=True
    )
    for batch in recorder.batches:
        theirs.zero_grad()
        F.cross_entropy(other(batch.x), batch.y).backward()
        theirs.step()
    assert torch.equal(bits(model), bits(other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "schedule must be one of steps, cosine, linear, one-cycle, got 'cosin'"),
        ({"precision": "fp8"}, "precision must be one of float32, bfloat16, float16, got 'fp8'"),
        ({"schedule": "cosine", "milestones": [1]}, "milestones need the schedule steps, got cosine"),
        ({"warmup": 11}, "warmup must be at most the 10 epochs"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"ema_batch_norm": 3}, "ema_batch_norm is for the average: set ema"),
        ({"clip": -1.0}, "clip must be finite and not negative, got -1.0"),
        ({"awp": math.nan}, "awp must be finite and not negative, got nan"),
        ({"collapse": 0.5}, "collapse 0.5 needs a figure to watch"),
    ],
)
def test_settings_out_of_range(settings, message, images):
    with pytest.raises(ValueError, match=message):
        fit(lenet(), Standard(), images, **settings)


@pytest.mark.parametrize("name", ["sync_batch_norm", "graphs"])
def test_what_is_for_gpus(name, images):
    with pytest.raises(ValueError, match=f"{name} works on GPUs only"):
        fit(lenet(), Standard(), images, **{name: True})


@pytest.mark.parametrize("method", [SMD, MMA])
def test_sync_batch_norm_is_refused_where_passes_depend_on_samples(images, method):
    """A process without a sample to attack would make no pass, and the others would wait for it."""
    with pytest.raises(ValueError, match=f"same passes of all processes, and those of {method.__name__} depend"):
        fit(lenet(), method(), images, sync_batch_norm=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [Madry, Friendly])
def test_graphs_train_alike(kind, precision, images):
    """The weights that graphs read are those of the step, also where samples leave the attack."""
    model, other = lenet().cuda(), lenet().cuda()
    settings = {"epochs": 3, "batch_size": 10, "optimizer": "sgd", "lr": 0.1, "precision": precision}
    history = fit(model, kind(), images, **settings, graphs=True)
    expected = fit(other, kind(), images, **settings)
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in expected], rel=0.01)
    torch.testing.assert_close(bits(model), bits(other), rtol=0.05, atol=5e-3)


# Regularisers


def test_ema_is_an_average_of_weights_and_buffers():
    images = Dataset(torch.rand(24, 3, 6, 6), torch.arange(24) % 5, classes=tuple("abcde"))
    model, seen, states = BatchNormNet(), [], []
    plain = copy.deepcopy(model)
    settings = {"epochs": 1, "batch_size": 8}
    torch.manual_seed(1)  # of dropout
    fit(
        plain,
        Standard(),
        images,
        **settings,
        on_save=lambda state: states.append(state["state"]),
        save_every=1,
    )
    torch.manual_seed(1)
    history = fit(
        model,
        Standard(),
        images,
        **settings,
        ema=0.75,
        validate=lambda network: {"norm": float(seen.append(bits(network)) or seen[-1].norm())},
    )
    average = states[0]
    for state in states[1:]:
        average = {
            name: 0.75 * average[name] + 0.25 * value if value.is_floating_point() else value
            for name, value in state.items()
        }
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[name])
    assert torch.equal(seen[0], bits(model)), "what is validated is what is kept"
    assert history[0]["norm"] == float(bits(model).norm())
    assert not torch.equal(bits(model), bits(plain))


def test_ema_leaves_whole_numbers_as_they_are(images):
    """An index that is averaged with itself and rounded down points elsewhere."""
    model = linear(784, 10)
    model.register_buffer("places", torch.arange(100))
    fit(model, Standard(), images, epochs=4, batch_size=8, ema=0.9)
    assert torch.equal(model.places, torch.arange(100))


def test_batch_norm_of_the_average_has_the_statistics_of_training_batches():
    images = Dataset(torch.rand(24, 3, 6, 6), torch.arange(24) % 5, classes=tuple("abcde"))
    model, method, validated = BatchNormNet(), Recorder(), []
    before = {name: layer.momentum for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    settings = {"epochs": 2, "batch_size": 8, "ema": 0.75, "ema_batch_norm": 2, "memory_format": "preserve"}
    fit(model, method, images, **settings, validate=lambda net: {"norm": float(validated.append(bits(net)) or 0)})
    expected = copy.deepcopy(model)
    for layer in expected.modules():
        layer.momentum = before.get(layer, 0.1)
    torch.optim.swa_utils.update_bn([batch.x for batch in method.batches[3:5]], without_dropout(expected))
    for (name, value), wanted in zip(model.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(value, wanted, msg=lambda text, name=name: f"{name}: {text}")
    assert torch.equal(validated[-1], bits(model))
    assert {name: model.get_submodule(name).momentum for name in before} == before
    assert model.training


def without_dropout(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


@pytest.mark.parametrize("more", [{}, {"ema_batch_norm": 1}], ids=["averaged", "recomputed"])
def test_ema_resumes_to_the_same_bits(more):
    images = Dataset(torch.rand(24, 3, 6, 6), torch.arange(24) % 5, classes=tuple("abcde"))
    settings = {"epochs": 2, "batch_size": 10, "ema": 0.9, "save_every": 2} | more

    def run(**more) -> tuple[Tensor, list[dict]]:
        states = []
        torch.manual_seed(2)
        model = BatchNormNet()
        fit(model, Standard(), images, **settings, on_save=states.append, **more)
        return bits(model), states

    whole, states = run()
    assert torch.equal(run(resume=states[0])[0], whole)
    assert torch.equal(run(resume=states[1])[0], whole)


def test_awp_moves_up_the_loss_by_its_share_of_every_layer():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    x, y = torch.rand(6, 4, dtype=torch.float64), torch.tensor([0, 1] * 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = F.cross_entropy(model(x), y)
    grads = dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, model.parameters()), strict=True))
    was = {name: value.clone() for name, value in model.state_dict().items()}
    with perturbed(model, [F.cross_entropy(model.eval()(x), y)], 0.01):
        pass
    with perturbed(model.train(), [F.cross_entropy(model(x), y)], 0.01):
        for name, value in model.named_parameters():
            if value.dim() == 1:
                assert torch.equal(value, before[name])
            else:
                grad = grads[name]
                expected = before[name] + 0.01 * before[name].norm() * grad / grad.norm()
                torch.testing.assert_close(value.detach(), expected)
    assert all(torch.equal(value, was[name]) for name, value in model.named_parameters())
    with pytest.raises(KeyError), perturbed(model, [F.cross_entropy(model(x), y)], 0.01):
        raise KeyError
    assert all(torch.equal(value, was[name]) for name, value in model.named_parameters())


@pytest.mark.usefixtures("seed_zero")
def test_awp_in_training_attacks_once_and_descends_from_the_perturbed_weights(images):
    @dataclass
    class Counting(Madry):
        crafted: int = 0

        def craft(self, model: nn.Module, batch: Batch, y: Tensor | None):
            self.crafted += 1
            return super().craft(model, batch, y)

    model, other = lenet(), lenet()
    method = Counting(attack=PGD(0.1, 0.03, 3))
    fit(model, method, images, epochs=1, batch_size=24, optimizer="sgd", lr=0.1, awp=0.01)
    assert method.crafted == 1
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    same = images.to("cpu")  # laid out as `fit` has them: other rounding would step another way at a few pixels
    x, y = same.x[order], same.y[order]
    x_adv = PGD(0.1, 0.03, 3)(other, x, y, ids=order)
    with perturbed(other, [F.cross_entropy(other(x_adv), y)], 0.01):
        grads = torch.autograd.grad(F.cross_entropy(other(x_adv), y), other.parameters())
    with torch.no_grad():
        for parameter, grad in zip(other.parameters(), grads, strict=True):
            parameter -= 0.1 * grad
    torch.testing.assert_close(bits(model), bits(other), rtol=1e-5, atol=1e-7)


def test_awp_keeps_adversarial_labels(images):
    """They are made of the network that the images are made of."""
    asked = []

    class Noting(Bilateral):
        def soft_labels(self, logits: Tensor, y: Tensor) -> Tensor:
            asked.append(super().soft_labels(logits, y))
            return asked[-1]

    fit(lenet(), Noting(), images, epochs=1, batch_size=24, awp=0.1)
    assert len(asked) == 2
    assert torch.equal(*asked)


def test_awp_leaves_layers_alone_that_are_not_used(images):
    model = linear(784, 10)
    model.unused = nn.Linear(3, 3)
    model.forward = lambda x: model[1](model[0](x))
    before = model.unused.weight.detach().clone()
    fit(model, Standard(), images, epochs=1, awp=0.01)
    assert torch.equal(model.unused.weight, before)


@pytest.mark.parametrize("method", ["smd", "mma", "cat"])
def test_awp_refuses_methods_that_learn_from_every_call(method, images):
    with pytest.raises(ValueError, match="awp computes the loss twice"):
        fit(lenet(), METHODS[method](), images, awp=0.01)


def test_clipping(images):
    @dataclass
    class Steep(Method):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return 100 * model.weight.sum()

    model = nn.Linear(4, 1, bias=False)
    before = model.weight.detach().clone()
    fit(model, Steep(), images, epochs=1, batch_size=24, optimizer="sgd", lr=1.0, clip=0.5)
    torch.testing.assert_close(before - model.weight.detach(), torch.full((1, 4), 0.25))


def test_clipping_is_of_what_the_optimizer_trains(images):
    """Layers that it leaves alone have gradients, which nobody takes away and no step uses."""

    def head(frozen: bool) -> Tensor:
        body, last = linear(784, 8), linear(8, 10)
        body.requires_grad_(not frozen)
        descent = torch.optim.SGD(last.parameters(), lr=1.0)
        fit(nn.Sequential(body, last), Standard(), images, epochs=3, batch_size=8, optimizer=descent, clip=0.05)
        return bits(last)

    torch.testing.assert_close(head(frozen=False), head(frozen=True))


def test_budgets_rise_while_warming_up():
    method = Madry(attack=PGD(0.1, 0.02, 3), eps_warmup=4)
    assert [method.warm(method.attack, epoch).eps for epoch in range(5)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1]
    )
    assert method.warm(method.attack, 0).alpha == pytest.approx(0.005)
    x, y = torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64)
    batch = Batch(x, y, torch.arange(8), torch.arange(8), epoch=1)
    assert (method.examples(linear(4, 2), batch) - x).abs().max() == pytest.approx(0.05)
    for wrong in (lambda: DeepFoolTraining(eps_warmup=1), lambda: Blind(eps_warmup=1), lambda: SMD(eps_warmup=1)):
        with pytest.raises(ValueError, match="no budget to warm up"):
            wrong()


# Stopping


def test_a_collapse_stops_training(images):
    figures = iter([0.5, 0.6, 0.31, 0.29, 0.9])
    history = fit(
        lenet(), Standard(), images, epochs=9, collapse=0.5, validate=lambda _: {"robust": next(figures)}, batch_size=24
    )
    assert [row["robust"] for row in history] == [0.5, 0.6, 0.31, 0.29]


def test_what_a_method_adds_to_its_row_is_not_watched(images):
    @dataclass
    class Telling(Standard):
        def end_epoch(self, row: dict[str, float]) -> None:
            row["falls"] = -row["epoch"]

    figures = iter([0.1, 0.2, 0.3])
    history = fit(lenet(), Telling(), images, epochs=3, patience=1, validate=lambda _: {"robust": next(figures)})
    assert [row["falls"] for row in history] == [-1, -2, -3]


@pytest.mark.parametrize(
    ("found", "best"),
    [([0.5, 0.6, 0.6, 0.7], [1, 2, 4]), ([math.nan, 0.6, math.nan, 0.5], [1, 2])],
)
def test_the_best_epoch_is_told(found, best, images):
    figures, saved = iter(found), []
    fit(
        lenet(),
        Standard(),
        images,
        epochs=4,
        validate=lambda _: {"robust": next(figures)},
        batch_size=12,
        save_every=1,
        on_save=saved.append,
    )
    assert [state["epoch"] for state in saved if state["best"]] == best
    assert len(saved) == 8


def test_a_run_that_is_asked_to_stop_has_saved_all(images):
    steps, states = [], []

    def run(**more) -> Tensor:
        model = lenet()
        fit(model, Standard(), images, epochs=2, batch_size=10, **more)
        return bits(model)

    with pytest.raises(Stopped):
        run(on_step=lambda *_: steps.append(1), stop=lambda: len(steps) == 4, on_save=states.append)
    assert len(steps) == 4
    assert [(state["epoch"], state["step"]) for state in states] == [(1, 0), (1, 1)]
    assert torch.equal(run(resume=states[-1]), run())


def test_a_budget_of_minutes_ends_at_a_step(images, monkeypatch):
    """Every step takes ten seconds, and 48 are given: five steps, two of them in the second epoch, of 20 samples."""
    clock, steps = [0.0], []
    monkeypatch.setattr(_fit, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(SMD):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            clock[0] += 10
            batch.stats["one"] = torch.ones(())
            return super().loss(model, batch)

    def run(**more) -> tuple[Tensor, list[dict], list[dict]]:
        model, states = lenet(), []
        settings = {"epochs": 1, "minutes": 0.8, "batch_size": 10, "save_every": 1} | more
        return fit(model, Slow(), images, **settings, on_save=states.append), bits(model), states

    history, weights, states = run(on_step=lambda done, in_all, _: steps.append((done, in_all)))
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert [(row["seconds"], row["images_per_second"], round(row["one"], 6)) for row in history] == [
        (30, 0.8, 1),
        (20, 1, 1),
    ]
    assert [(state["epoch"], state["step"]) for state in states] == [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    *_, before_the_last, _ = run(epochs=2, minutes=0)[2]
    assert torch.equal(torch.cat([value.flatten().double() for value in before_the_last["state"].values()]), weights)
    for state in states:  # the time before counts
        resumed, same, _ = run(resume=state)
        assert torch.equal(same, weights)
        assert resumed == history
    with pytest.raises(ValueError, match="leave out minutes, or the schedule cosine"):
        Settings(minutes=2, schedule="cosine")
    with pytest.raises(ValueError, match="leave out minutes, or milestones"):
        Settings(minutes=2, milestones=[1])


def test_nothing_is_saved_of_a_loss_that_is_not_finite(images):
    @dataclass
    class Exploding(Method):
        calls: int = 0

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            self.calls += 1
            return model(batch.x).sum() * (math.nan if self.calls > 4 else 0.0)

    states, method = [], Exploding()
    with pytest.raises(FloatingPointError, match="the loss became nan in epoch 2; try a smaller lr"):
        fit(lenet(), method, images, epochs=9, batch_size=10, save_every=1, on_save=states.append)
    assert all(value.isfinite().all() for state in states for value in state["state"].values())
    assert (states[-1]["epoch"], states[-1]["step"]) == (1, 1)
    assert method.calls == 5


def test_nothing_is_saved_of_a_step_to_nowhere(images):
    """A finite loss whose gradient is not."""

    @dataclass
    class Steep(Method):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return (model[1].weight * 0).sum().sqrt()

    states = []
    with pytest.raises(FloatingPointError, match="weights became NaN or infinite in epoch 1; try a smaller lr"):
        fit(linear(784, 10), Steep(), images, epochs=2, batch_size=24, on_save=states.append)
    assert states == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_denormal_weights_become_0(dtype):
    """In the network, its average and Adam's moments; the smallest normal number stays."""
    least = torch.finfo(dtype).tiny
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).to(dtype)
    with torch.no_grad():
        model[1].weight[:, :3] = torch.tensor([least / 4, -least / 4, least], dtype=dtype)
    x = torch.rand(8, 1, 4, 4, dtype=dtype)
    x[..., 0, :3] = 0  # these weights get no gradient
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    states: list[dict] = []
    fit(model, Standard(), (x.float(), torch.arange(8) % 2), epochs=1, optimizer=adam, ema=0.5, on_save=states.append)
    for weights in (model[1].weight, states[-1]["state"]["1.weight"], states[-1]["trained"]["1.weight"]):
        assert weights[:, :2].eq(0).all()
        assert weights[:, 3:].ne(0).all()
    assert states[-1]["trained"]["1.weight"][:, 2].eq(least).all()
    moments = [value for one in adam.state.values() for value in one.values()]
    assert all(not (value.ne(0) & (value.abs() < least)).any() for value in moments)


@pytest.mark.thorough
def test_memory_does_not_grow(images):
    """Over 500 steps, in an epoch each and all in one: not the tensors alive, nor what Python holds."""
    alive = []

    def count(done: int, _: int, stats: dict[str, Tensor]) -> None:
        assert not any(isinstance(value, Tensor) and value.requires_grad for value in stats.values()), (
            "sums would keep every step's graph"
        )
        if done in (100, 600):
            gc.collect()
            alive.append(sum(issubclass(type(each), Tensor) for each in gc.get_objects()))

    few = images.take(8)
    fit(linear(784, 10), Madry(attack=PGD(0.1, 0.05, 2)), few, epochs=600, batch_size=8, on_step=count)
    many = few.subset([0, 1] * 600)
    fit(linear(784, 10), Madry(attack=PGD(0.1, 0.05, 2)), many, epochs=1, batch_size=2, on_step=count)
    assert alive[1] <= alive[0] + 5
    assert alive[3] <= alive[2] + 5


# Precision


def test_bfloat16_is_autocast_around_the_network_alone(images):
    model, other, recorder = lenet(), lenet(), Recorder(label_smoothing=0)
    history = fit(model, recorder, images, epochs=1, batch_size=24, optimizer="sgd", lr=0.1, precision="bfloat16")
    (batch,) = recorder.batches
    with torch.autocast("cpu", torch.bfloat16):
        logits = other(batch.x)
    loss = F.cross_entropy(logits.float(), batch.y)
    loss.backward()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter -= 0.1 * parameter.grad
    assert history[0]["loss"] == pytest.approx(float(loss.detach()))
    torch.testing.assert_close(bits(model), bits(other), rtol=1e-6, atol=1e-5)  # the first layer's round otherwise
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.equal(bits(model), _after_one_step(images, "float32"))


def _after_one_step(images: Dataset, precision: str) -> Tensor:
    model = lenet()
    fit(
        model,
        Standard(label_smoothing=0),
        images,
        epochs=1,
        batch_size=24,
        optimizer="sgd",
        lr=0.1,
        precision=precision,
    )
    return bits(model)


def test_float16_scales_and_unscales(images):
    torch.testing.assert_close(
        _after_one_step(images, "float16"), _after_one_step(images, "float32"), rtol=0, atol=2e-4
    )


def test_gradients_of_attacks_do_not_vanish_in_float16():
    """A gradient of 1e-6 per logit is nothing in float16 after a weight of 1e-3, unless it is scaled on the way."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    nn.init.constant_(model[0].weight, 1e-3)
    nn.init.constant_(model[1].weight, 1e-2)
    x = torch.rand(3, 4, requires_grad=True)
    (scaled,) = torch.autograd.grad((Autocast(model, torch.float16).eval()(x) * 1e-4).sum(), x)
    (plain,) = torch.autograd.grad((model(x) * 1e-4).sum(), x)
    with torch.autocast("cpu", torch.float16):
        logits = model(x)
    (lost,) = torch.autograd.grad((logits.float() * 1e-4).sum(), x)
    torch.testing.assert_close(scaled, plain, rtol=2e-2, atol=0)
    assert not torch.allclose(lost, plain, rtol=0.2, atol=0)


@pytest.mark.parametrize(("method", "exact"), [(TRADES, True), (SPAT, True), (Madry, False)])
def test_attacks_on_the_divergence_stay_in_float32(images, method, exact):
    """TRADES' samples differ from x by so little at first that bfloat16 would round the divergence away."""
    seen = []

    @dataclass
    class Seeing(method):
        def examples(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.append(super().examples(model, batch))
            return seen[-1]

    for precision in ("float32", "bfloat16"):
        fit(lenet(), Seeing(), images, epochs=1, batch_size=24, precision=precision)
    assert torch.equal(*seen) == exact


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_trains_in_fewer_bits(method, precision, images):
    """To nearly the same loss as in float32."""
    few = images.take(12)
    (row,) = fit(lenet(), method(), few, epochs=1, batch_size=12, precision=precision)
    (exact,) = fit(lenet(), method(), few, epochs=1, batch_size=12)
    assert row["loss"] == pytest.approx(exact["loss"], rel=0.05)
    assert row.keys() == exact.keys()


# Where data come from


def test_tensors_are_a_data_set(images):
    model, other = lenet(), lenet()
    fit(model, Standard(), images, epochs=2, batch_size=10)
    fit(other, Standard(), (images.x, images.y), epochs=2, batch_size=10)
    assert torch.equal(bits(model), bits(other))


@pytest.mark.parametrize("indexed", [False, True])
def test_a_loader_gives_batches_in_its_own_order(indexed, images):
    recorder, places = Recorder(), torch.arange(24).flip(0)
    tensors = (images.x.flip(0), images.y.flip(0), *([places] if indexed else []))
    history = fit(lenet(), recorder, DataLoader(TensorDataset(*tensors), batch_size=10), epochs=2)
    assert [len(batch.y) for batch in recorder.batches] == [10, 10, 4] * 2
    seen = torch.cat([batch.x for batch in recorder.batches[:3]])
    assert torch.equal(seen, images.x.flip(0))
    index = torch.cat([batch.index for batch in recorder.batches[:3]])
    assert torch.equal(index, places if indexed else torch.arange(24))
    assert torch.equal(recorder.batches[3].ids, recorder.batches[0].index + 24)
    assert history[0]["images_per_second"] == pytest.approx(24 / history[0]["seconds"])


@pytest.mark.parametrize("indexed", [False, True])
def test_a_shuffled_loader_resumes_within_an_epoch(indexed, images):
    """The batches that are left, and what the model draws between them."""
    tensors = (images.x, images.y, *([torch.arange(24)] if indexed else []))

    def run(**more) -> tuple[Tensor, list[dict]]:
        recorder, states = Recorder(), []
        model = nn.Sequential(nn.Flatten(), nn.Dropout(), linear(784, 10))
        loader = DataLoader(TensorDataset(*tensors), batch_size=5, shuffle=True)
        fit(model, recorder, loader, epochs=2, save_every=1, on_save=states.append, **more)
        return torch.cat([bits(model), *(batch.x.flatten() for batch in recorder.batches[-2:])]), states

    torch.manual_seed(3)
    whole, states = run()
    assert states[2]["step"] == 3
    for state in (states[2], states[4], states[7]):
        torch.manual_seed(7)
        assert torch.equal(run(resume=state)[0], whole)


def test_means_are_over_the_samples_that_a_loader_gives(images):
    loader = DataLoader(TensorDataset(images.x, images.y), batch_size=10, drop_last=True)
    recorder, model = Recorder(label_smoothing=0), linear(784, 10)
    (row,) = fit(model, recorder, loader, epochs=1, optimizer="sgd", lr=0.0)
    assert row["loss"] == pytest.approx(F.cross_entropy(model(images.x[:20]), images.y[:20]).item())
    assert row["images_per_second"] == pytest.approx(20 / row["seconds"])


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if kind.per_sample])
def test_methods_that_keep_something_of_samples_must_know_them(method, images):
    with pytest.raises(ValueError, match=r"keeps something of every sample: its loader must give \(x, y, index\)"):
        fit(lenet(), METHODS[method](), DataLoader(TensorDataset(images.x, images.y)), epochs=1)


def test_a_loader_trains_as_memory_does(images):
    """Methods that keep something of every sample, too, if the loader tells places."""
    order = [torch.randperm(24, generator=torch.Generator().manual_seed(epoch)) for epoch in range(2)]
    epochs = iter([index for each in order for index in each.split(10)])
    loader = DataLoader(
        TensorDataset(images.x, images.y, torch.arange(24)),
        batch_sampler=[next(epochs).tolist() for _ in range(3)],
    )
    method, other = SMD(), SMD()
    model, twin = lenet(), lenet()
    fit(model, method, loader, epochs=1)
    fit(twin, other, images, epochs=1, batch_size=10)
    assert torch.equal(bits(model), bits(twin))
    assert torch.equal(method.margins, other.margins)


@pytest.mark.parametrize(
    ("third", "got"),
    [
        (torch.arange(24) + 100, "100 to 109"),
        (torch.arange(24) - 1, "-1 to 8"),
        (torch.arange(24.0), r"torch.float32 \[10\]"),
        (["a"] * 24, "tuple"),
    ],
)
def test_a_loader_whose_third_is_no_place(third, got, images):
    loader = DataLoader(list(zip(images.x, images.y, third, strict=True)), batch_size=10)
    with pytest.raises(ValueError, match=f"beside .x, y. must be the sample's place .* from 0 to 23, .*; got {got}"):
        fit(lenet(), Standard(), loader, epochs=1)


def test_what_is_no_data(images):
    class Endless(IterableDataset):
        def __iter__(self):
            yield from ()

    with pytest.raises(TypeError, match=r"train must be .*, tensors \(x, y\) or a DataLoader, or .*, got list"):
        fit(lenet(), Standard(), [images.x, images.y])
    with pytest.raises(TypeError, match="train must be a DataLoader of a data set with a length"):
        fit(lenet(), Standard(), DataLoader(Endless()))


def test_mixed_images_have_the_labels_of_both_parts(images):
    class Seen(TRADES):
        def compare(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
            seen.append((clean, y, loss := self.cross_entropy(clean, y)))
            return loss + 0 * adversarial.sum()

    seen, options = [], {"epochs": 1, "lr": 0.0, "batch_size": 24, "augment": CutMix(), "memory_format": "preserve"}
    attack = PGD(eps=0.1, alpha=0.1, steps=1, loss="kl")
    fit(lenet(), Seen(attack=attack, label_smoothing=0.1), images, **options)
    ((logits, targets, loss),) = seen
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mixed = CutMix()(images.x[order], order, 0)
    losses = [
        F.cross_entropy(logits, y, label_smoothing=0.1, reduction="none") for y in mixed.labels(images.y[order])[:2]
    ]
    share = mixed.labels(images.y[order])[2]
    torch.testing.assert_close(loss, (share * losses[0] + (1 - share) * losses[1]).mean())
    torch.testing.assert_close(targets.sum(1), torch.ones(24))
    before = bits(model := lenet())
    fit(model, Standard(), images, **options | {"lr": 0.1})
    assert not torch.equal(bits(model), before)


@pytest.mark.parametrize(
    "method",
    [Madry(), MAILTRADES(), FriendlyTRADES(), TRADES(attack=PGD(loss="ce")), TRADES(attack=PGD(loss="kl", restarts=2))],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_take_one_label_refuse_mixed_images(method, images):
    with pytest.raises(ValueError, match=f"{type(method).__name__} takes no images with mixed labels: .* one label"):
        fit(model := lenet(), method, images, epochs=1, augment=CutMix())
    assert torch.equal(bits(model), bits(lenet()))
    own = fastadv.adapt(lenet(), loss=lambda output, y: F.cross_entropy(output, y, reduction="none"))
    with pytest.raises(ValueError, match="a loss of your own takes one label a sample"):
        fit(own, Standard(), images, epochs=1, augment=CutMix())


def test_augmentation_reflects(images):
    """Batches are those that the augmentation makes of the samples one by one."""
    recorder, augment = Recorder(), CropFlip(fill="reflect")
    fit(lenet(), recorder, images, epochs=1, batch_size=10, augment=augment, seed=5)
    for batch in recorder.batches:
        for place, (x, own) in enumerate(zip(batch.x, batch.ids, strict=True)):
            index = batch.index[place : place + 1]
            assert torch.equal(augment(images.x[index], own.view(1), 5)[0], x)


MEMORY = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MEMORY |= dict.fromkeys(("preserve", "auto"), torch.channels_last)  # on the CPU, `Dataset.to` lays images out so


@pytest.mark.parametrize("name", MEMORY)
def test_memory_formats(name):
    """Of images, and on GPUs of weights."""
    model, recorder = BatchNormNet(), Recorder()
    data = (torch.rand(12, 3, 6, 6), torch.arange(12) % 5)
    fit(model, recorder, data, epochs=1, batch_size=6, memory_format=name)
    assert all(batch.x.is_contiguous(memory_format=MEMORY[name]) for batch in recorder.batches)
    assert model[0].weight.is_contiguous()


# Compiled


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_a_compiled_network_trains_alike(images):
    model, other = linear(784, 10), linear(784, 10)
    other.load_state_dict(model.state_dict())
    settings = {"epochs": 1, "batch_size": 12}
    fit(model, Madry(attack=FGSM(0.1)), images, **settings, compiled=True)
    fit(other, Madry(attack=FGSM(0.1)), images, **settings)
    torch.testing.assert_close(bits(model), bits(other), rtol=1e-4, atol=1e-6)
    assert list(model.state_dict()) == list(other.state_dict())


# Several processes


@dataclass
class Noisy(Madry):
    """Keeps the noisy samples it has made."""

    attack: Noise = field(default_factory=lambda: Noise(0.1), kw_only=True)
    made: dict[int, Tensor] = field(default_factory=dict)

    def examples(self, model: nn.Module, batch: Batch) -> Tensor:
        x_adv = super().examples(model, batch)
        self.made |= dict(zip(batch.ids.tolist(), x_adv, strict=True))
        return x_adv


def _train_all(images: Dataset) -> dict[str, tuple[Tensor, list[dict[str, float]], dict[str, Tensor]]]:
    """Two epochs of 24 samples by every method, in batches of 9, 9 and 6: 9 do not come in two equal parts."""
    found = {}
    for name, kind in {**METHODS, "cat that mixes": partial(CAT, accuracy=0.0), "noisy": Noisy}.items():
        model, method = InDouble(lenet()), kind()
        settings = {"epochs": 2, "batch_size": 9, "optimizer": "sgd", "lr": 0.01}
        states = []
        history = fit(model, method, images, **settings, on_save=states.append, save_every=2)
        kept = {each: getattr(method, each) for each in method.per_sample}
        found[name] = (bits(model), history, kept, len(states))
        if name == "noisy":
            found["made"] = method.made
    return found


def _train_with_another(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    assert processes() == 2
    images = load("fashion-mnist-mini", "train").take(24)
    torch.save(_train_all(images), f"{folder}/{rank}.pt")
    torch.save(_train_more(images, rank), f"{folder}/{rank}-more.pt")
    dist.destroy_process_group()


def _train_more(images: Dataset, rank: int) -> dict[str, object]:
    """What settings and samplers may upset."""
    few, plain = images.take(23), {"optimizer": "sgd", "lr": 0.1}
    norms = nn.Sequential(nn.BatchNorm2d(1), linear(784, 10))
    fit(norms, Standard(), images, epochs=2, batch_size=8, ema=0.5, **plain)
    weights = InDouble(lenet())
    fit(weights, Madry(attack=PGD(0.1, 0.05, 2)), images, epochs=1, batch_size=9, awp=0.3, **plain)
    data, margins = TensorDataset(few.x, few.y, torch.arange(23)), SMD()
    sampler = DistributedSampler(data, shuffle=False) if processes() > 1 else None  # gives the first sample to both
    fit(linear(784, 10), margins, DataLoader(data, 4, sampler=sampler), epochs=1, optimizer="sgd", lr=0.0)
    held = DRAFineTuning(attack=PGD(0.1, 0.05, 2), attack_epochs=1, lam_lr=5.0)
    fit(linear(784, 10), held, images.take(23), epochs=2, batch_size=9, optimizer="sgd", lr=0.1)
    slope = Slope()
    steep, saved = torch.optim.SGD(slope.parameters(), lr=1 / 8), []
    watching = {"lr": 1 / 8, "guard": True, "save_every": 1, "on_save": saved.append}
    rows = fit(slope, Cliff(), halves(30), optimizer=steep, epochs=6, batch_size=15, **watching)
    figures = iter([0.5, 0.4 if rank else 0.6, 0.7])
    watched = {"validate": lambda _: {"robust": next(figures)}, "patience": 1}
    stopped = fit(lenet(), Standard(), images, epochs=3, **watched)
    try:
        fit(lenet(), Standard(), images, epochs=1, batch_size=1)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    return {
        "norms": bits(norms),
        "awp": bits(weights),
        "margins": margins.margins,
        "lam": held.lam,
        "slope": slope.weight.item(),
        "guarded": [(row["pgd_accuracy"], row["rollbacks"]) for row in rows],
        "guards": [{k: v for k, v in state["guard"].items() if k != "good"} for state in saved],
        "epochs": len(stopped),
        "refused": refused,
    }


@pytest.mark.thorough
def test_two_processes_train_as_one(images, tmp_path):
    """Every method: the same network, history and margins; one of the processes saves."""
    torch.multiprocessing.spawn(_train_with_another, (f"file://{tmp_path}/meeting", str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    one = _train_all(images)
    assert first["made"].keys() | second["made"].keys() == one["made"].keys()
    assert not first["made"].keys() & second["made"].keys()
    for ids, x_adv in one["made"].items():
        assert torch.equal(x_adv, (first["made"] | second["made"])[ids]), "the same random starts"
    for name in one.keys() - {"made"}:
        (weights, history, kept, saved), (again, told, others, none) = first[name], second[name]
        alone, expected, margins, saves = one[name]
        assert torch.equal(weights, again), name
        assert (saved, none) == (saves, 0), name
        torch.testing.assert_close(weights, alone, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
        for row, same, wanted in zip(history, told, expected, strict=True):
            for figure in row.keys() - {"seconds", "images_per_second"}:
                assert same[figure] == pytest.approx(row[figure], nan_ok=True), (name, figure)
                assert row[figure] == pytest.approx(wanted[figure], rel=2e-3, abs=1e-4, nan_ok=True), (name, figure)
        for each, value in kept.items():
            assert torch.equal(value, others[each]), (name, each)
            torch.testing.assert_close(value, margins[each], rtol=1e-3, atol=1e-4)
    more, others = (torch.load(tmp_path / f"{rank}-more.pt") for rank in range(2))
    alone = _train_more(images, 0)
    assert torch.equal(more["norms"], others["norms"]), "averaged buffers, too, are the same"
    torch.testing.assert_close(more["awp"], alone["awp"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(more["margins"], alone["margins"])
    assert more["slope"] == others["slope"] == pytest.approx(alone["slope"]) == 1 / 64 + 0.25
    assert more["guarded"] == others["guarded"] == alone["guarded"]
    assert [rollbacks for _, rollbacks in alone["guarded"]] == [0, 0, 0, 0, 1, 0]
    assert (more["guards"], others["guards"]) == (alone["guards"], [])
    assert more["lam"] == others["lam"] != 1
    torch.testing.assert_close(more["lam"], alone["lam"], rtol=1e-4, atol=1e-5)
    assert (more["epochs"], others["epochs"]) == (2, 2), "where one has enough, both stop"
    assert "a batch needs a sample for each of 2 processes: batch_size is 1" in more["refused"]
    assert alone["refused"] == ""


def test_what_a_normal_epoch_takes_is_asked_without_the_schedule(images):
    """Which may need more than the one epoch that is timed."""
    from fastadv.commands import Training
    from fastadv.commands._plan import plan_training
    from fastadv.commands._train import seconds_of_normal_epoch

    options = Training(epochs=9, warmup=3, patience=2, held_out=4, schedule="cosine", batch_size=8)
    assert seconds_of_normal_epoch(plan_training("standard", Standard(), options, images), "preserve") > 0


def test_settings_are_the_fields_of_the_command_line():
    from fastadv.commands import Training

    assert {each.name for each in dataclasses.fields(Settings)} <= {each.name for each in dataclasses.fields(Training)}
