"""The front door for models: outputs of every form as logits, losses of the user's own, every precision."""

import copy
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_attacks import assert_equal, every
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, linear, samples, traces

import fastadv
from fastadv import adapt
from fastadv.attacks import CW, DIFGSM, FGSM, PGD, TPGD, AutoAttack, DeepFool, Square, checked_logits
from fastadv.evaluation import corruption_accuracy, features, gradient_norms, landing, swept_curve, transfer
from fastadv.models import Normalize
from fastadv.trainers import Blind, Standard

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
    with pytest.raises(ValueError, match="needs labels"):
        landing(model, data, PGD())


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
    with pytest.raises(ValueError, match="fit trains classifiers"):
        fastadv.fit(model, Standard(), (X, Y))


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
