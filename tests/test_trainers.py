"""fastadv.trainers: every method against its formula, and the loop around them."""

import dataclasses
import math
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

from fastadv.attacks import FGSM, PGD, DeepFool
from fastadv.data import Dataset, load
from fastadv.evaluation import evaluate
from fastadv.models import LeNet5, TwoCirclesNet
from fastadv.trainers import METHODS, Batch, Blind, DeepFoolTraining, FGSMTraining, Method, PGDTraining, Standard, fit

ADVERSARIAL = {name: method for name, method in METHODS.items() if method is not Standard}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
adversarial = pytest.mark.parametrize("method", ADVERSARIAL.values(), ids=ADVERSARIAL)


def lenet() -> LeNet5:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet5()


@pytest.fixture(scope="module")
def images() -> Dataset:
    return load("fashion-mnist-mini", "train").take(24)


def a_batch(n: int = 16, classes: int = 5, seed: int = 0) -> tuple[Wavy, Batch]:
    """In double precision; half of the labels are what the model predicts."""
    model, x, y = Wavy(48, classes), samples(n, 3, 4, 4, dtype=torch.float64), labels(n, classes)
    y[::2] = model(x[::2]).argmax(1)
    return model, Batch(x, y, torch.arange(n), torch.arange(n) + 1000, epoch=0)


def smoothed(logits: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with the label mixed with the uniform distribution, the true class included."""
    target = (1 - smoothing) * F.one_hot(y, logits.shape[1]) + smoothing / logits.shape[1]
    return -(target * logits.log_softmax(1)).sum(1).mean()


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_same_loss(model: nn.Module, loss: Tensor, expected: Tensor) -> None:
    """In value and in the gradient of every parameter."""
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected))


# ------------------------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_standard_loss(smoothing):
    model, batch = a_batch()
    loss = Standard(label_smoothing=smoothing).loss(model, batch)
    assert_same_loss(model, loss, smoothed(model(batch.x), batch.y, smoothing))
    torch.testing.assert_close(batch.stats["clean_accuracy"], (model(batch.x).argmax(1) == batch.y).float().mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("method", "attack"),
    [
        (FGSMTraining(), FGSM(0.1)),
        (FGSMTraining(attack=FGSM(0.03)), FGSM(0.03)),
        (PGDTraining(), PGD(0.1, alpha=0.01, steps=20, random_start=0.5)),
        (PGDTraining(attack=PGD(0.2, 0.1, 3, loss="margin")), PGD(0.2, 0.1, 3, loss="margin")),
    ],
)
def test_adversarial_loss(method, attack, smoothing):
    model, batch = a_batch()
    x_adv = attack(model, batch.x, batch.y, batch.ids)
    clean, wrong = model(batch.x), model(x_adv)
    expected = smoothed(clean, batch.y, smoothing) + smoothed(wrong, batch.y, smoothing)
    loss = dataclasses.replace(method, label_smoothing=smoothing).loss(model, batch)
    assert_same_loss(model, loss, expected)


@adversarial
def test_accuracies_reported(method):
    model, batch = a_batch()
    method = method()
    method.loss(model, batch)
    x_adv = method.examples(model, batch)
    for name, x in {"clean_accuracy": batch.x, "adversarial_accuracy": x_adv}.items():
        torch.testing.assert_close(batch.stats[name], (model(x).argmax(1) == batch.y).float().mean())


def test_deepfool_training_attacks_the_prediction_and_learns_the_label():
    model, batch = a_batch()
    method = DeepFoolTraining()
    x_adv = DeepFool(steps=10, overshoot=0.02)(model, batch.x)
    assert torch.equal(method.examples(model, batch), x_adv)
    wrong = model(batch.x).argmax(1) != batch.y
    assert wrong.any()
    assert (x_adv != batch.x).flatten(1).any(1).all(), "misclassified samples are attacked as well"
    expected = smoothed(model(batch.x), batch.y, 0.1) + smoothed(model(x_adv), batch.y, 0.1)
    assert_same_loss(model, method.loss(model, batch), expected)


def rms(delta: Tensor) -> Tensor:
    return delta.flatten(1).square().mean(1).sqrt()


def algorithm_1(model: nn.Module, x: Tensor, y: Tensor, rho: float, smoothing: float) -> Tensor:
    """Blind adversarial training as the paper prints it."""
    delta = DeepFool(steps=10, overshoot=0.02)(model, x) - x
    norms = rms(delta)
    cut = norms.mean() / torch.maximum(norms, norms.mean())
    x_cos = x + rho * cut.view(-1, 1, 1, 1) * delta
    return smoothed(model(x), y, smoothing) + smoothed(model(x_cos), y, smoothing)


@pytest.mark.parametrize(("rho", "smoothing"), [(0.9, 0.1), (1.0, 0.0), (0.5, 0.2)])
def test_blind_is_algorithm_1(rho, smoothing):
    model, batch = a_batch()
    loss = Blind(rho=rho, label_smoothing=smoothing).loss(model, batch)
    assert_same_loss(model, loss, algorithm_1(model, batch.x, batch.y, rho, smoothing))
    torch.testing.assert_close(batch.stats["mean_norm"], rms(DeepFool(steps=10)(model, batch.x) - batch.x).mean())


def test_blind_as_in_the_paper_by_default():
    assert Blind() == Blind(rho=0.9, eps=None, label_smoothing=0.1, attack=DeepFool(steps=10, overshoot=0.02))
    model, batch = a_batch()
    assert_same_loss(model, Blind().loss(model, batch), algorithm_1(model, batch.x, batch.y, 0.9, 0.1))


@pytest.mark.parametrize("method", [Blind(rho=0), Blind(eps=0), Blind(rho=0, eps=0)])
def test_blind_with_nothing_left_is_twice_the_clean_loss(method):
    model, batch = a_batch()
    assert torch.equal(method.examples(model, batch), batch.x)
    clean = Standard().loss(model, batch)
    loss = method.loss(model, batch)
    assert loss == 2 * clean
    torch.testing.assert_close(gradients(model, loss), [2 * grad for grad in gradients(model, clean)])


def test_blind_without_cut_and_scale_is_deepfool_training():
    model, batch = a_batch()
    blind, deepfool = Blind(rho=1, eps=math.inf), DeepFoolTraining()
    assert torch.equal(blind.examples(model, batch), deepfool.examples(model, batch))
    losses = blind.loss(model, batch), deepfool.loss(model, batch)
    assert losses[0] == losses[1]
    assert all(torch.equal(*pair) for pair in zip(*(gradients(model, loss) for loss in losses), strict=True))


@pytest.mark.parametrize("eps", [None, 0.003, 1.0])
def test_the_cut_shortens_what_is_too_long(eps):
    model, batch = a_batch()
    before = DeepFool(steps=10)(model, batch.x) - batch.x
    after = Blind(rho=1, eps=eps).examples(model, batch) - batch.x
    budget = rms(before).mean() if eps is None else torch.tensor(eps, dtype=torch.float64)
    assert rms(after).mean() <= budget
    torch.testing.assert_close(rms(after).max(), torch.minimum(rms(before).max(), budget))
    torch.testing.assert_close(rms(after), rms(before).clamp(max=budget))
    torch.testing.assert_close(F.cosine_similarity(after.flatten(1), before.flatten(1)), torch.ones(16).double())
    scaled = Blind(rho=0.5, eps=eps).examples(model, batch) - batch.x
    torch.testing.assert_close(scaled, 0.5 * after)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blind(rho=1.1), r"rho must be in \[0, 1\], got 1.1"),
        (lambda: Blind(rho=-0.1), "rho must be in"),
        (lambda: Blind(rho=math.nan), "rho must be in"),
        (lambda: Blind(eps=-1), "eps must not be negative, got -1"),
        (lambda: Blind(eps=math.nan), "eps must not be negative"),
        *[(lambda kind=kind: kind(label_smoothing=1.0), "label_smoothing must be in") for kind in METHODS.values()],
        *[(lambda kind=kind: kind(label_smoothing=-0.1), "label_smoothing must be in") for kind in METHODS.values()],
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------------------------------------------------- the loop


def bits(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained(method: type[Method], data: Dataset, **options) -> tuple[Tensor, list[dict[str, float]]]:
    model = lenet()
    history = fit(model, method(), data, **{"epochs": 1, "batch_size": 12, **options})
    return bits(model), history


@every
def test_every_method_trains(method, images):
    weights, (row,) = trained(method, images)
    assert weights.isfinite().all()
    assert (weights != bits(lenet())).double().mean() > 0.5
    reported = {"clean_accuracy"} | ({"adversarial_accuracy"} if method is not Standard else set())
    reported |= {"mean_norm"} if method is Blind else set()
    assert row.keys() == {"epoch", "loss", "seconds", "images_per_second"} | reported
    assert row["epoch"] == 1
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in row.values())
    assert row["images_per_second"] == pytest.approx(24 / row["seconds"])


@every
def test_same_seed_same_bits(method, images):
    torch.manual_seed(1)
    first, _ = trained(method, images, seed=5)
    torch.manual_seed(2)
    second, _ = trained(method, images, seed=5)
    other, _ = trained(method, images, seed=6)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@every
def test_global_generators_are_left_alone(method, images):
    model = lenet()
    before = traces(nn.Identity(), images.x, images.y)
    fit(model, method(), images, epochs=1, batch_size=12)
    assert traces(nn.Identity(), images.x, images.y) == before


@every
def test_two_circles(method):
    data, model, method = load("two-circles", "train").take(64), TwoCirclesNet(), method()
    before = bits(model)
    history = fit(model, method, data, epochs=2, batch_size=32, lr=0.01, seed=7)
    assert not torch.equal(bits(model), before)
    assert len(history) == 2
    assert {row["epoch"] for row in history} == {1, 2}
    if not isinstance(method, Standard):
        assert (method.attack.bounds, method.attack.seed) == ((-1.0, 1.0), 7)
        x_adv = method.examples(model, Batch(data.x, data.y, torch.arange(64), torch.arange(64), 0))
        assert -1 <= x_adv.min() < 0


@adversarial
def test_bounds_and_seed_are_those_of_data_and_run(method, images):
    given = method()
    method = dataclasses.replace(given, attack=dataclasses.replace(given.attack, bounds=(0.0, 2.0), seed=3))
    method.begin(images, seed=11)
    assert method.attack == dataclasses.replace(given.attack, bounds=(0.0, 1.0), seed=11)


@every
def test_batch_statistics_see_each_step_once(method):
    data = Dataset(samples(10, 3, 6, 6), labels(10, 5), classes=("a", "b", "c", "d", "e"))
    model = BatchNormNet().eval()
    fit(model, method(), data, epochs=2, batch_size=4)
    assert model.training
    assert all(module.training for module in model.modules())
    assert model[1].num_batches_tracked == model[4].num_batches_tracked == 6


@adversarial
def test_loss_crafts_in_eval_mode_and_leaves_no_gradients(method):
    model = partly_frozen(BatchNormNet())
    x = samples(8, 3, 6, 6)
    before = traces(model, x)
    method().examples(model, Batch(x, labels(8, 5), torch.arange(8), torch.arange(8), 0))
    assert traces(model, x) == before


@dataclass
class Recorder(Standard):
    """Standard training that keeps what it is given."""

    batches: list[Batch] = field(default_factory=list)
    begun: list[tuple[Dataset, int]] = field(default_factory=list)

    def begin(self, train: Dataset, seed: int) -> None:
        self.begun.append((train, seed))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert model.training
        self.batches.append(batch)
        return super().loss(model, batch)


def test_batches(images):
    method = Recorder()
    fit(lenet(), method, images, epochs=3, batch_size=10, seed=4)
    assert [len(batch.y) for batch in method.batches] == [10, 10, 4] * 3
    assert [batch.epoch for batch in method.batches] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for batch in method.batches:
        assert torch.equal(batch.x, images.x[batch.index])
        assert torch.equal(batch.y, images.y[batch.index])
    orders = torch.cat([batch.index for batch in method.batches]).view(3, 24)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(24).expand(3, 24))
    assert len(orders.unique(dim=0)) == 3, "every epoch has an order of its own"
    assert len(torch.cat([batch.ids for batch in method.batches]).unique()) == 72, "ids are new every epoch"
    assert [seed for _, seed in method.begun] == [4]


def test_history_holds_means_over_samples(images):
    """With a last batch that is smaller, and nothing learned."""
    model = lenet()
    (row,) = fit(model, Standard(), images, epochs=1, batch_size=10, lr=0)
    logits = model(images.x).detach()
    assert row["loss"] == pytest.approx(float(F.cross_entropy(logits, images.y, label_smoothing=0.1)), rel=1e-5)
    assert row["clean_accuracy"] == pytest.approx(float((logits.argmax(1) == images.y).float().mean()))
    assert torch.equal(bits(model), bits(lenet()))


def test_fit_is_adam(images):
    model, other, recorder = lenet(), lenet(), Recorder()
    fit(model, recorder, images, epochs=2, batch_size=10, lr=0.01)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    for batch in recorder.batches:
        optimizer.zero_grad()
        F.cross_entropy(other(batch.x), batch.y, label_smoothing=0.1).backward()
        optimizer.step()
    assert torch.equal(bits(model), bits(other))


def test_stale_gradients_are_not_used(images):
    model = lenet()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    fit(model, Standard(), images, epochs=1, batch_size=12)
    assert torch.equal(bits(model), trained(Standard, images)[0])


def test_callbacks(images):
    steps, rows = [], []
    history = fit(
        lenet(), Standard(), images, epochs=2, batch_size=10, on_step=lambda *s: steps.append(s), on_epoch=rows.append
    )
    assert steps == [(step, 6) for step in range(1, 7)]
    assert rows == history
    assert [row["epoch"] for row in history] == [1, 2]


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 0}, {"lr": -0.1}, {"lr": math.nan}, {"lr": math.inf}]
)
def test_fit_refuses(options, images):
    model = lenet()
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        fit(model, Standard(), images, **options)
    assert torch.equal(bits(model), bits(lenet()))


class Diverging(Standard):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * (torch.nan if batch.epoch == 1 else 1)


def test_a_loss_that_is_not_finite_is_an_error(images):
    rows = []
    with pytest.raises(FloatingPointError, match=r"loss became nan in epoch 2; try a smaller lr than 0.001"):
        fit(lenet(), Diverging(), images, epochs=3, batch_size=12, on_epoch=rows.append)
    assert len(rows) == 1


def test_blind_training_makes_a_network_more_robust():
    train, test = load("fashion-mnist-mini", "train").take(1500), load("fashion-mnist-mini", "test").take(200)
    pgd = PGD(0.1, alpha=0.01, steps=20, random_start=0.5)

    def robust_accuracy(method: Method) -> float:
        model = lenet()
        fit(model, method, train, epochs=5, batch_size=64, lr=2e-3)
        return evaluate(model, test, {"pgd": pgd}).results["pgd"].accuracy

    # Fewer steps and candidates than the paper's: a third of the time.
    blind = robust_accuracy(Blind(attack=DeepFool(steps=5, candidates=4)))
    assert blind > robust_accuracy(Standard()) + 0.03
