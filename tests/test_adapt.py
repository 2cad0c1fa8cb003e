"""The front door for models: outputs of every form as logits, losses of the user's own, every precision."""

import copy
import math
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_attacks import assert_equal, every
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from toys import BatchNormNet, Wavy, labels, linear, samples, traces

import fastadv
from fastadv import adapt
from fastadv.attacks import CW, DIFGSM, FGSM, PGD, TPGD, AutoAttack, DeepFool, DynamicPGD, Square, checked_logits
from fastadv.evaluation import corruption_accuracy, features, gradient_norms, landing, swept_curve, transfer
from fastadv.models import Normalize
from fastadv.trainers import DAT, METHODS, Blind, FGSMTraining, Madry, PGDTraining, Standard

pytestmark = pytest.mark.usefixtures("seed_zero")

X, Y = samples(12, 3, 4, 4), labels(12, 5)
Outputs = namedtuple("Outputs", ("logits", "aux"))


class Returning(nn.Module):
    """`form` of the logits of a network."""

    def __init__(self, form, classes: int = 5):
        super().__init__()
        self.net, self.form = Wavy(48, classes), form

    def forward(self, x: Tensor):
        return self.form(self.net(x))


FORMS = {
    "object": lambda z: SimpleNamespace(loss=None, logits=z),
    "named tuple": lambda z: Outputs(z, z + 1),
    "dict": lambda z: OrderedDict(features=z * 2, logits=z),
    "tuple": lambda z: (z, (z, z)),
    "list": lambda z: [z.sum(), z],
}
form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@every
@form
def test_attacks_find_the_logits(attack, form):
    if isinstance(attack, DIFGSM):
        attack = FGSM()
    assert_equal(attack.run(Returning(form), X, Y), attack.run(Returning(lambda z: z), X, Y))


@form
def test_everything_that_takes_a_model_finds_them(form):
    data = fastadv.Dataset(samples(40, 3, 4, 4), labels(40, 5), tuple("abcde"))
    attacks = {"pgd": PGD(0.1), "deepfool": DeepFool()}

    def figures(model: nn.Module) -> list[object]:
        swept = swept_curve(model, data, PGD(0.1), [0.05, 0.1])
        return [
            repr(fastadv.evaluate(model, data, attacks)),
            transfer({"a": model, "b": Wavy(48, 5, seed=3)}, data, {"pgd": PGD(0.1)}),
            corruption_accuracy(model, [("none", 1, data)], data),
            features(model, data, {"pgd": PGD(0.1)}, ["net"]).rows,
            landing(model, data, PGD(0.1)).confusion.tolist(),
            gradient_norms(model, data).squared.tolist() if hasattr(gradient_norms(model, data), "squared") else None,
            swept.flips.tolist(),
        ]

    def timeless(values: list[object]) -> str:
        return repr(values).split("seconds")[0]

    assert timeless(figures(Returning(form))) == timeless(figures(Returning(lambda z: z)))


@form
def test_training_finds_them(form):
    data = fastadv.Dataset(samples(40, 3, 6, 6), labels(40, 5), tuple("abcde"))

    class Trained(nn.Module):
        def __init__(self, form) -> None:
            super().__init__()
            self.net, self.form = BatchNormNet(), form

        def forward(self, x: Tensor):
            return self.form(self.net(x))

    def weights(form) -> list[Tensor]:
        model = Trained(form)
        torch.manual_seed(0)
        fastadv.fit(model, Blind(), data, epochs=1, batch_size=20)
        return list(model.state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(form), weights(lambda z: z), strict=True))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_is_two_classes(shape):
    """z for class 1 against 0: the sigmoid, the binary cross-entropy and DeepFool's distance are those of the logit."""
    net, x, y = linear(48, 1), samples(20, 3, 4, 4), labels(20, 2)
    z = net(x).squeeze(1)

    def one(x: Tensor) -> Tensor:
        return net(x).reshape(shape)

    logits = checked_logits(one, x)
    assert torch.equal(logits, torch.stack((torch.zeros_like(z), z), dim=1))
    assert torch.allclose(logits.softmax(1)[:, 1], z.sigmoid())
    weight = net[1].weight[0].view(3, 4, 4)
    found = FGSM(0.05)(one, x, y)
    assert torch.equal(found, (x + 0.05 * weight.sign() * (1 - 2 * y).view(-1, 1, 1, 1)).clamp(0, 1).detach())
    small = DeepFool(overshoot=0.0, bounds=(-99, 99)).run(one, x)
    assert torch.allclose(small.norm, (z.abs() / weight.norm()).detach(), atol=1e-4)


def test_a_probability_in_place_of_one_logit_is_found():
    net, data = linear(48, 1), fastadv.Dataset(samples(40, 3, 4, 4), labels(40, 2), ("no", "yes"))
    found = {"a logit": net, "a probability": nn.Sequential(net, nn.Sigmoid())}
    kinds = {name: [f.check for f in fastadv.evaluate(m, data, {"fgsm": FGSM()}).findings] for name, m in found.items()}
    assert "probabilities" in kinds["a probability"]
    assert "probabilities" not in kinds["a logit"]


@pytest.mark.parametrize("output", [1, "b", lambda found: found["b"]])
def test_an_output_is_chosen(output):
    class Two(Wavy):
        def forward(self, x: Tensor):
            z = super().forward(x)
            return (z, 2 * z) if output == 1 else {"a": z, "b": 2 * z}

    model = Two(48, 5)
    assert torch.equal(adapt(model, output=output)(X), 2 * Wavy(48, 5)(X))
    with pytest.raises(ValueError, match="say which counts"):
        PGD()(model, X, Y)
    with pytest.raises(ValueError, match="has no output 'c': it returns"):
        adapt(model, output="c")(X)


def test_adapt_of_adapted_is_itself():
    model = adapt(Wavy(48, 5))
    assert adapt(model) is model
    assert torch.equal(model(X), Wavy(48, 5)(X))


# ----------------------------------------------------------------------------------------------- losses of one's own


def several_labels(z: Tensor, y: Tensor) -> Tensor:
    """By how much the worst of several labels is on the wrong side of 0."""
    return (z * (1 - 2 * y)).amax(1)


def test_several_labels_have_closed_forms():
    """On a linear network, FGSM moves by the sign of the worst label's weights, DeepFool to the nearest boundary."""
    net, x = linear(48, 4), samples(30, 3, 4, 4)
    z = net(x).detach()
    y = (z > 0).float()
    model = adapt(net, loss=several_labels)
    worst = several_labels(z, y)
    weights = net[1].weight.detach()[(z * (1 - 2 * y)).argmax(1)].view(30, 3, 4, 4)
    away = (1 - 2 * y).gather(1, (z * (1 - 2 * y)).argmax(1, keepdim=True)).view(30, 1, 1, 1)
    found = FGSM(0.01).run(model, x, y)
    assert torch.equal(found.x_adv, (x + 0.01 * (weights * away).sign()).clamp(0, 1))
    assert torch.equal(found.success, several_labels(net(found.x_adv), y) > 0)
    assert torch.equal(found.target, found.success.long())
    near = DeepFool(steps=1, overshoot=0.0, bounds=(-99, 99)).run(model, x, y)
    assert torch.allclose(near.norm, -worst / weights.flatten(1).norm(dim=1), atol=1e-4)


def within(z: Tensor, y: Tensor) -> Tensor:
    return (z.squeeze(1) - y).abs()


@every
def test_every_attack_raises_the_loss_of_a_regression(attack):
    """Values of one number a sample, right within 1; the same results in batches of any size."""
    if isinstance(attack, TPGD) or getattr(attack, "loss", "") in ("kl", "spat"):
        pytest.skip("of predictions")
    net, x = Wavy(192, 1), samples(16, 3, 8, 8)
    y = net(x).detach().squeeze(1) + samples(16, low=-1, high=1)
    model, ids = adapt(net, loss=within, limit=2.0), torch.arange(16)
    attack = attack.seeded(0)
    found = attack.run(model, x, y, ids)
    loss = within(net(found.x_adv), y)
    assert torch.equal(found.success, (loss <= 2) if attack.targeted else (loss > 2))
    halves = [attack.run(model, x[i], y[i], i) for i in ids.split(5)]
    assert torch.equal(torch.cat([half.x_adv for half in halves]), found.x_adv)


@pytest.mark.parametrize("attack", [PGD(0.1), CW(steps=100), Square(0.2, 200), AutoAttack(0.2)])
def test_strong_attacks_spoil_a_regression(attack):
    net, x = Wavy(48, 1), samples(16, 3, 4, 4)
    y = net(x).detach().squeeze(1) + 0.1  # at the value itself, its distance has no gradient
    assert attack.run(adapt(net, loss=within, limit=1.0), x, y).success.double().mean() > 0.8


def test_far_from_the_limit_the_loss_still_has_a_gradient():
    """A cross-entropy of two logits so far apart has none in float32."""
    net, x = linear(48, 1), samples(8, 3, 4, 4)
    y = net(x).detach().squeeze(1) + 0.01
    found = PGD(0.1, random_start=0.0).run(adapt(net, loss=within, limit=1e6), x, y)
    assert (within(net(found.x_adv), y) > 0.1).all()
    assert not found.success.any()


def test_evaluate_takes_labels_of_any_kind():
    net, x = linear(48, 4), samples(40, 3, 4, 4)
    y = (net(x).detach() > 0).float()
    y[:10, 0] = 1 - y[:10, 0]
    model = adapt(net, loss=several_labels)
    data = fastadv.Dataset(x, y, classes=())
    found = fastadv.evaluate(model, data, {"pgd": PGD(0.02), "deepfool": DeepFool()}, batch_size=7)
    assert found.clean == 0.75
    left = several_labels(net(PGD(0.02, seed=0)(model, x, y)), y) <= 0
    assert torch.equal(found.results["pgd"].right, left & found.natural.right)
    assert found.results["deepfool"].accuracy < 0.1
    assert swept_curve(model, data, PGD(0.02), [0.02]).correct.tolist() == found.natural.right.tolist()
    with pytest.raises(TypeError, match=r"y must be integers, .*adapt\(model, loss="):
        fastadv.evaluate(net, data)


def test_wrong_losses_are_refused():
    net, y = linear(48, 4), torch.zeros(12, 4)

    def mean(z: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, y)

    def each(z: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, y, reduction="none")

    for loss, got in ((mean, r"got \(\)"), (each, r"got \(12, 4\)")):
        with pytest.raises(ValueError, match=r"one floating-point number a sample, \[12\], " + got):
            PGD()(adapt(net, loss=loss), X, y)
    model = adapt(net, loss=several_labels)
    with pytest.raises(ValueError, match="needs labels: give y"):
        PGD()(model, X)
    with pytest.raises(ValueError, match=r"y must have a row a sample, \(12, ...\)"):
        PGD()(model, X, y[:5])
    with pytest.raises(ValueError, match="loss kl compares predictions"):
        TPGD()(model, X, y)
    with pytest.raises(ValueError, match="same loss: adapt both"):
        PGD().run(net, X, y, source=model)
    with pytest.raises(ValueError, match="limit 2 is for a loss"):
        adapt(net, limit=2.0)
    data = fastadv.Dataset(X, torch.zeros(12, 4), classes=())
    with pytest.raises(ValueError, match="landing shows between which classes samples move"):
        landing(model, data, PGD())
    with pytest.raises(ValueError, match="label 'pred' is the class that the model predicts"):
        fastadv.evaluate(model, data, {}, label="pred")
    with pytest.raises(ValueError, match="saved samples have classes for labels"):
        fastadv.evaluate(model, data, {}, save=fastadv.evaluation.SampleFolder("nowhere"))


# ---------------------------------------------------------------------------------------- losses of one's own: training


def squared(z: Tensor, y: Tensor) -> Tensor:
    return (z.squeeze(1) - y).square()


def regression(n: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    x = samples(n, 3, 4, 4)
    return linear(48, 1), x, x.flatten(1).sum(1) / 48


def descent(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_standard_training_descends_the_own_loss():
    """Of a linear regression, the step is ``-lr 2/N X' (X w + b - y)``; label smoothing has no part in it."""
    net, x, y = regression()
    weight, bias = (p.detach().clone() for p in net.parameters())
    rest = net(x).detach().squeeze(1) - y
    model = adapt(net, loss=squared, limit=float(rest.square().median()))
    how = {"epochs": 1, "batch_size": 24, "lr": 0.01, "optimizer": descent(net, 0.01)}
    (row,) = fastadv.fit(model, Standard(0.3), (x, y), **how)
    torch.testing.assert_close(net[1].weight, weight - 0.01 * 2 / 24 * rest @ x.flatten(1))
    torch.testing.assert_close(net[1].bias, bias - 0.01 * 2 * rest.mean())
    assert row["loss"] == pytest.approx(float(rest.square().mean()), rel=1e-5)
    assert row["clean_accuracy"] == 0.5


STEPS = {"eps": 0.1, "alpha": 0.04, "steps": 3, "random_start": 0.0}


@pytest.mark.parametrize(
    ("method", "clean", "steps"),
    [
        (FGSMTraining(attack=FGSM(0.1)), 1.0, [0.1]),
        (PGDTraining(attack=PGD(**STEPS), beta=0.5), 1.0, [0.04] * 3),
        (Madry(attack=PGD(**STEPS)), 0.0, [0.04] * 3),
        (DAT(attack=DynamicPGD(**STEPS), fosc=0.0), 0.0, [0.04] * 3),
    ],
)
@pytest.mark.parametrize("kind", ["several", "numbers"])
def test_adversarial_training_is_what_autograd_finds_by_hand(method, clean, steps, kind):
    if kind == "several":
        net, x = Wavy(48, 4), samples(24, 3, 4, 4)
        y = torch.randint(2, (24, 4), generator=torch.Generator().manual_seed(5)).float()

        def loss(z: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(z, y, reduction="none").mean(1)
    else:
        (_, x, y), net, loss = regression(), Wavy(48, 1), squared
    by_hand = copy.deepcopy(net)
    sgd = descent(by_hand, 0.05)
    for _ in range(2):
        x_adv = x
        for step in steps:
            at = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss(by_hand(at), y).sum(), at)
            x_adv = torch.clamp((x_adv + step * grad.sign()).clamp(x - 0.1, x + 0.1), 0, 1)
        sgd.zero_grad()
        share = getattr(method, "beta", 1.0)
        (clean * loss(by_hand(x), y).mean() + share * loss(by_hand(x_adv), y).mean()).backward()
        sgd.step()
    fastadv.fit(adapt(net, loss=loss), method, (x, y), epochs=2, batch_size=24, lr=0.05, optimizer=descent(net, 0.05))
    for trained, expected in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_an_own_loss_or_says_why_not(name):
    net, x, y = regression()
    model, before = adapt(net, loss=squared, limit=0.1), traces(net)
    options = {"label": "true"} if hasattr(METHODS[name], "label") else {}  # by default that of deepfool is pred
    method = METHODS[name](**options)
    if method.needs_classes:
        message = f"{type(method).__name__} cannot train with a loss of your own: {method.needs_classes}"
        with pytest.raises(ValueError, match=message):
            fastadv.fit(model, method, (x, y))
        assert traces(net) == before
        return
    other, states = adapt(copy.deepcopy(net), loss=squared, limit=0.1), []
    how = {"epochs": 2, "batch_size": 9, "lr": 1e-3, "ema": 0.5}
    (*_, row) = fastadv.fit(model, method, (x, y), **how, on_save=states.append, save_every=2)
    assert 0 < row["loss"] < float("inf")
    assert model.training
    again = fastadv.fit(other, METHODS[name](**options), (x, y), **how, resume=states[0])
    assert again[-1]["loss"] == row["loss"]
    assert_equal_weights(other, model)


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_training_with_an_own_loss_cannot_do_is_said_first():
    net, x, y = regression()
    model = adapt(net, loss=squared)
    for method, settings, message in (
        (Madry(attack=TPGD()), {}, "Madry cannot train.*its attack's loss kl compares predictions"),
        (PGDTraining(label="pred"), {}, "PGDTraining cannot train.*away from the class predicted"),
        (Standard(), {"precision": "bfloat16"}, "precision is for classifiers"),
    ):
        with pytest.raises(ValueError, match=message):
            fastadv.fit(model, method, (x, y), **settings)
    with pytest.raises(ValueError, match=r"one floating-point number a sample, \[24\], got \(\)"):
        fastadv.fit(adapt(net, loss=lambda z, y: squared(z, y).mean()), Standard(), (x, y))


class Tagged(TorchDataset):
    """Samples of three channels with three labels each, by place."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.x[place], self.y[place]


class Flowing(IterableDataset):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self):
        return zip(self.x, self.y, strict=True)


OWN_DATA = {
    "tensors": lambda x, y: (x, y),
    "loader": lambda x, y: DataLoader(Tagged(x, y), batch_size=7),
    "list": lambda x, y: [*zip(x.split(9), y.split(9), strict=True)],
    "generator": lambda x, y: zip(x.split(9), y.split(9), strict=True),
    "places": Tagged,
    "iterable": Flowing,
    "stream": lambda x, y: fastadv.data.Stream(lambda: zip(x.split(9), y.split(9), strict=True), count=len(x)).take(40),
    "indexed": lambda x, y: fastadv.data.Indexed(Tagged(x, y)).take(40),
}


@pytest.mark.parametrize("kind", OWN_DATA)
@pytest.mark.parametrize("numbers", [False, True])
def test_own_labels_come_from_data_of_any_kind(kind, numbers):
    """With the results of the same data in memory; of as many labels as channels, or one number a sample."""
    x = samples(40, 3, 4, 4)
    net, loss = (linear(48, 1), within) if numbers else (linear(48, 3), several_labels)
    z = net(x).detach()
    y = z.squeeze(1) + samples(40, low=-1, high=1) if numbers else (z > 0).float()
    model, attacks = adapt(net, loss=loss, limit=0.5 if numbers else 0.0), {"pgd": PGD(0.02), "deepfool": DeepFool()}
    expected = fastadv.evaluate(model, fastadv.Dataset(x, y, classes=()), attacks, batch_size=16, checks=8)
    found = fastadv.evaluate(model, OWN_DATA[kind](x, y), attacks, batch_size=16, checks=8)
    assert expected.results["pgd"].accuracy < expected.clean
    assert torch.equal(found.natural.right, expected.natural.right)
    for name, result in found.results.items():
        assert torch.equal(result.right, expected.results[name].right)
    if kind in ("tensors", "places", "indexed"):
        nets = [adapt(copy.deepcopy(net), loss=loss) for _ in range(2)]
        for each, data in zip(nets, (fastadv.Dataset(x, y, classes=()), OWN_DATA[kind](x, y)), strict=True):
            fastadv.fit(each, Standard(), data, epochs=2, batch_size=16)
        assert_equal_weights(*nets)
        assert not torch.equal(nets[0].model[1].weight, net[1].weight)
    if kind == "loader":
        fastadv.fit(adapt(net, loss=loss), Standard(), OWN_DATA[kind](x, y), epochs=1)


def test_everything_else_that_takes_an_own_loss():
    net, x = linear(48, 3), samples(40, 3, 4, 4)
    model, y = adapt(net, loss=several_labels), (net(x).detach() > 0).float()
    other = adapt(linear(48, 3, seed=2), loss=several_labels)
    data, right = DataLoader(Tagged(x, y), batch_size=7), several_labels(other(x), y) <= 0
    rows = transfer({"one": model, "other": other}, data, {"pgd": PGD(0.02)})
    assert [row.accuracy for row in rows[:2]] == [1.0, float(right.double().mean())]
    wrong = several_labels(other(PGD(0.02, seed=0)(model, x, y)), y) > 0
    assert rows[3].accuracy == pytest.approx(1 - float(wrong.double().mean()))
    assert corruption_accuracy(other, [("none", 1, data)]).accuracy["none"][1] == float(right.double().mean())
    found = features(model, data, {"pgd": PGD(0.02)}, ["model.1"], batch_size=16)
    assert torch.equal(found.y, y)
    torch.testing.assert_close(found.outputs["model.1"]["natural"], net(x).detach())
    natural, attacked = found.rows
    assert natural.misclassified == 0
    wrong = several_labels(net(PGD(0.02, seed=0)(model, x, y)), y) > 0
    assert attacked.misclassified == float(wrong.double().mean())
    assert math.isnan(natural.mixing)
    assert math.isnan(attacked.cross_over)
    hinge = adapt(net, loss=lambda z, y: F.multi_margin_loss(z, y, reduction="none"))  # whose labels are classes
    classes = labels(40, 3)
    mixed, plain = (
        features(each, (x, classes), {}, [layer]).rows[0].mixing for each, layer in ((hinge, "model.1"), (net, "1"))
    )
    assert mixed == plain


# ------------------------------------------------------------------------------------------------ precision and range


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_precision_are_evaluated(dtype):
    """On float32 samples: perturbations keep their precision, and the figures are about those of float32."""
    net = linear(48, 5)
    data = fastadv.Dataset(samples(200, 3, 4, 4), net(samples(200, 3, 4, 4)).argmax(1), tuple("abcde"))
    other = copy.deepcopy(net).to(dtype)
    attacks = {"fgsm": FGSM(0.02), "pgd": PGD(0.02), "deepfool": DeepFool(), "apgd": fastadv.attacks.APGD(0.02)}
    before = traces(other)
    expected, found = (fastadv.evaluate(model, data, attacks) for model in (net, other))
    assert traces(other) == before
    for name, result in found.results.items():
        assert abs(result.accuracy - expected.results[name].accuracy) <= (0 if dtype == torch.float64 else 0.05)
    x_adv = PGD(0.02, seed=0)(other, data.x, data.y)
    assert x_adv.dtype == torch.float32
    assert (x_adv - data.x).abs().max() <= 0.02 + 1e-6
    assert checked_logits(other, data.x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attacks_on_half_precision_networks_keep_the_precision_of_the_samples(attack, dtype):
    x, model = samples(16, 3, 6, 6), BatchNormNet()
    model[8].weight.data *= 20
    found = attack.run(model.to(dtype), x, labels(16, 5))
    assert found.x_adv.dtype == torch.float32
    assert found.norm.max() > 0
    if hasattr(attack, "eps") and attack.norm == "linf":
        assert (found.x_adv - x).abs().max() <= attack.eps + 1e-6


def test_normalize_takes_numbers_and_channels():
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    assert torch.equal(Normalize(Same(), 0.5, 0.5)(X), (X - 0.5) / 0.5)
    assert torch.equal(Normalize(Same(), 0.5, 0.25)(X.flatten(1)), (X.flatten(1) - 0.5) / 0.25)
    mean = torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(Normalize(Same(), mean.tolist(), 0.5)(X), (X - mean.view(3, 1, 1)) / 0.5)
    assert torch.equal(
        adapt(linear(48, 5), mean=0.5, std=[0.5, 1, 2])(X), Normalize(linear(48, 5), 0.5, [0.5, 1, 2])(X)
    )
    with pytest.raises(ValueError, match=r"of 3 channels, the samples \[1, 4, 4\]"):
        Normalize(Same(), mean.tolist(), 0.5)(X[:, :1])  # which PyTorch would make three of
    with pytest.raises(ValueError, match="every std positive"):
        Normalize(Same(), 0.5, 0)


# ------------------------------------------------------------------------------------------------------ fixed batches


class Remembering(nn.Module):
    """A GRU whose hidden state goes from one call to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.last, self.hidden = nn.GRU(4, 8), nn.Linear(8, 5), None

    def forward(self, x: Tensor) -> Tensor:
        out, hidden = self.gru(x.movedim(1, 0), self.hidden)
        self.hidden = hidden.detach()
        return self.last(out[-1])


def test_states_of_a_fixed_batch_get_a_clear_word():
    x, model = samples(6, 7, 4), Remembering()
    PGD()(model, x, labels(6, 5))
    with pytest.raises(RuntimeError, match=r"takes 6 samples and fails with 4.*hidden state of an RNN"):
        PGD()(model, x[:4], labels(4, 5))


def test_other_errors_of_a_model_are_its_own():
    model = BatchNormNet(fails_at=2)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        PGD()(model, samples(4, 3, 6, 6), labels(4, 5))
