"""Models that give NaN or infinite logits, and models that change their input in place."""

import dataclasses
import warnings

import pytest
import torch
from test_attacks import SHAPE, every
from torch import Tensor, nn
from toys import Wavy, labels, linear, samples

from fastadv import evaluate
from fastadv.attacks import FGSM, PGD, SINIFGSM, Noise, Square, classify, predicted
from fastadv.compat import autoattack, torchattacks
from fastadv.data import Dataset
from fastadv.evaluation import (
    corruption_accuracy,
    features,
    gradient_norms,
    landing,
    layer_outputs,
    radial_curve,
    swept_curve,
    transfer,
)
from fastadv.report._plots import draw_examples
from fastadv.trainers import METHODS, Batch
from fastadv.trainers._source import Shuffled

pytestmark = pytest.mark.usefixtures("seed_zero")

NAN, INF = torch.nan, torch.inf
X = samples(12, *SHAPE)
quietly = pytest.mark.filterwarnings("ignore:.*(had NaN or infinite gradients|logits are NaN):RuntimeWarning")


class Dead(nn.Sequential):
    """A diverged network: all its weights are NaN."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(48, 5))
        for parameter in self.parameters():
            nn.init.constant_(parameter, NAN)


class Partly(Wavy):
    """NaN at samples whose first element is above 0.9."""

    def forward(self, x: Tensor) -> Tensor:
        bad = x.flatten(1)[:, :1] > 0.9
        return torch.where(bad, NAN, super().forward(x))


def part() -> tuple[Partly, Tensor, Tensor]:
    """The model, samples of which every third is NaN, and which."""
    x = samples(12, *SHAPE, low=0.2, high=0.7)
    x[::3, 0, 0, 0] = 0.95
    x[1::3, 0, 0, 0] = x[2::3, 0, 0, 0] = 0.5
    return Partly(48, 5), x, torch.arange(12) % 3 == 0


# ------------------------------------------------------------------------------------------------------- predictions


def test_nan_is_no_class():
    logits = torch.tensor([[0.0, 1.0], [NAN, 1.0], [1.0, NAN], [NAN, NAN], [INF, 0.0], [-INF, -INF], [INF, NAN]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert predicted(logits.to(dtype)).tolist() == [1, -1, -1, -1, 0, 0, -1]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_otherwise_a_prediction_is_the_argmax_of_the_logits(classes):
    """Ties included: whole numbers, of which many are equal, and infinite ones."""
    logits = torch.randint(3, (500, classes), generator=torch.Generator().manual_seed(0)).float()
    logits[::7] = logits[::7].where(logits[::7] < 2, INF)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(predicted(logits.to(dtype)), logits.to(dtype).argmax(1))


# --------------------------------------------------------------------------------------------------------------- NaN


@every
def test_a_dead_network_is_refused(attack):
    for y in (None, torch.zeros(12, dtype=torch.int64)):
        with pytest.raises(ValueError, match=f"{type(attack).__name__}: .* NaN at all 12 samples.*smaller learning"):
            attack.run(Dead(), X, y)
        if not isinstance(attack, Noise) or y is None:  # which asks no model
            with pytest.raises(ValueError, match="NaN at all 12 samples"):
                attack(Dead(), X, y)


@every
def test_samples_without_a_prediction_are_never_right(attack):
    model, x, bad = part()
    y = torch.zeros(12, dtype=torch.int64)  # what argmax says of NaN
    with pytest.warns(RuntimeWarning, match=r"\d of 12 samples had .*NaN logits"):
        found = attack.run(model, x, y)
    still = bad & (found.x_adv[:, 0, 0, 0] > 0.9)  # others have moved to where there is a prediction
    assert found.success[still].all()
    assert (found.target[still] == -1).all()
    assert still.any() or isinstance(attack, SINIFGSM)  # whose darker copies have a prediction, away from which it goes


@every
def test_without_labels_samples_without_a_prediction_stay_as_they_are(attack):
    model, x, bad = part()
    attack = dataclasses.replace(attack, seed=0)
    with pytest.warns(RuntimeWarning, match=r"[45] of 12 samples had .*NaN logits"):
        found = attack.run(model, x, ids=torch.arange(12))
    assert torch.equal(found.x_adv[bad], x[bad])
    assert found.target[bad].tolist() == [-1] * 4
    assert found.grads[bad].tolist() == [0] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of them may end where there is no prediction
        sound = attack.run(model, x[~bad], ids=torch.arange(12)[~bad])
    assert torch.equal(found.x_adv[~bad], sound.x_adv)
    assert torch.equal(found.target[~bad], sound.target)


@quietly
def test_budgets_follow_the_samples_that_have_a_prediction():
    model, x, bad = part()
    eps = torch.linspace(0.01, 0.12, 12)
    found = PGD(eps, eps / 4, random_start=0.0)(model, x)
    assert torch.equal(found[~bad], PGD(eps[~bad], eps[~bad] / 4, random_start=0.0)(model, x[~bad]))


@quietly
def test_an_attack_into_nan_is_a_success():
    model, x = Partly(48, 5), samples(12, *SHAPE, low=0.2, high=0.7)
    x[:, 0, 0, 0] = 0.85
    y = model(x).argmax(1)
    found = Noise(0.1, seed=0).run(model, x, y)
    beyond = found.x_adv[:, 0, 0, 0] > 0.9
    assert beyond.any()
    assert found.success[beyond].all()
    assert found.target[beyond].eq(-1).all()
    assert radial_curve(model, x, found.x_adv, y)(1.0) == (~found.success).double().mean()


def dead_data() -> Dataset:
    return Dataset(X, torch.zeros(12, dtype=torch.int64), classes=tuple("abcde"))


@quietly
def test_a_dead_network_is_right_about_nothing():
    data, model, suite = dead_data(), Dead(), {"noise": Noise(0.1), "pgd": PGD(0.1), "square": Square(0.1, 20)}
    for batch_size in (1, 500):
        found = evaluate(model, data, suite, batch_size=batch_size)
        assert found.clean == 0
        assert [result.accuracy for result in found.results.values()] == [0, 0, 0]
        assert [finding.check for finding in found.findings] == ["nan"]
        assert "100.0% of the samples (clean)" in found.findings[0].text
    assert swept_curve(model, data, PGD(0.1), [0.05, 0.1])(0.05) == 0
    assert corruption_accuracy(model, [("noise", 1, data)], data).clean == 0
    assert corruption_accuracy(model, [("noise", 1, data)]).mean() == 0
    assert {row.accuracy for row in transfer({"a": model, "b": Dead()}, data, suite)} == {0}
    assert not gradient_norms(model, data).correct.any()
    lost = landing(model, data, suite["pgd"])
    assert (lost.confusion.sum(), lost.rows[-1].right) == (0, 0)
    assert features(model, dataclasses.replace(data, y=torch.arange(12) % 2), {}, ["0"]).rows[0].misclassified == 1
    adversary = autoattack.AutoAttack(model, eps=0.1, version="custom", attacks_to_run=["apgd-ce"])
    assert adversary.clean_accuracy(data.x, data.y) == 0
    assert torchattacks.PGD(linear(48, 5)).forward_return_target_labels(X, data.y)[1].min() >= 0


@quietly
def test_the_share_of_samples_with_nan_is_a_finding():
    model, x, bad = part()
    data = Dataset(x, model(x).argmax(1), classes=tuple("abcde"))
    found = evaluate(model, data, {"fgsm": FGSM(0.01)}, batch_size=5)
    assert found.clean == pytest.approx(2 / 3)
    assert "33.3% of the samples (clean), 33.3% of the samples (fgsm)" in found.findings[0].text
    assert evaluate(model, data, {"fgsm": FGSM(0.01)}, checks=0).findings == found.findings[:1]
    assert not [f for f in evaluate(Wavy(48, 5), data, {"fgsm": FGSM(0.01)}).findings if f.check == "nan"]
    assert not evaluate(model, data, {"fgsm": FGSM(0.01)}, label="pred").results["fgsm"].right[bad].any()


@quietly
def test_where_a_network_without_predictions_lands():
    """Samples that are right, and NaN under attack, are fooled, and land in no class."""
    x = torch.full((4, *SHAPE), 0.2)
    x[:, 0, 0, 0] = torch.tensor([0.85, 0.85, 0.2, 0.2])

    def model(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.where(first > 0.9, NAN, torch.cat((0.5 + 0 * first, first - 0.4, 0 * first), 1))

    data = Dataset(x, torch.tensor([0, 0, 1, 1]), classes=tuple("abc"))
    found = landing(model, data, FGSM(0.1))
    assert found.confusion.tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 0]]
    assert found.rows[0] == ("a", 2, 2, None, None, None)
    assert found.rows[-1] == ("all", 2, 2, None, None, None)


@quietly
def test_examples_of_a_dead_network_say_so():
    figure = draw_examples({"dead": (Dead(), PGD(0.1))}, dead_data(), "dead", 1)
    assert [axes.get_title() for axes in figure.axes][-1] == "clean: NaN\nhere: NaN"


@quietly
@pytest.mark.parametrize("name", METHODS)
def test_training_counts_no_nan_as_right(name):
    model, y = Dead(), torch.zeros(12, dtype=torch.int64)
    method, batch = METHODS[name](), Batch(X, y, torch.arange(12))
    method.begin(Shuffled(dead_data(), 12), 0, 1)
    method.loss(model, batch)
    figures = {key: float(value) for key, value in batch.stats.items() if key.endswith("accuracy")}
    assert figures
    assert set(figures.values()) == {0.0}


# ---------------------------------------------------------------------------------------------------------- in place


class Normalising(nn.Module):
    """Normalises its input, in place if `changes` says so."""

    def __init__(self, changes: bool = True) -> None:
        super().__init__()
        self.net, self.changes = linear(48, 5), changes

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x if self.changes else x.clone()).sub_(0.3).div_(0.35))


@every
def test_a_model_that_changes_its_input_is_attacked_as_one_that_does_not(attack):
    x, attack = X.clone(), dataclasses.replace(attack, seed=3)
    for y in (None, labels(12, 5)):
        found, expected = (attack.run(Normalising(changes), x, y) for changes in (True, False))
        assert torch.equal(found.x_adv, expected.x_adv)
        assert torch.equal(found.success, expected.success)
    assert torch.equal(x, X)


def test_a_model_that_begins_to_change_its_input_is_refused():
    model = Normalising(changes=False)
    FGSM()(model, X)
    model.changes = True
    with pytest.raises(ValueError, match=r"changes its input in place, .*x = x\.clone\(\)"):
        Noise()(model, X.clone())


def test_a_model_that_cannot_be_remembered_gets_copies():
    class Unhashable(list):
        def __call__(self, x: Tensor) -> Tensor:
            return Normalising()(x)

    x = X.clone()
    Noise()(Unhashable(), x)
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, data: evaluate(model, data, {"noise": Noise(0.1)}),
        lambda model, data: swept_curve(model, data, Noise(0.1), [0.1]),
        lambda model, data: transfer({"a": model, "b": model}, data, {"noise": Noise(0.1)}),
        lambda model, data: corruption_accuracy(model, [("noise", 1, data)]),
        lambda model, data: landing(model, data, Noise(0.1)),
        lambda model, data: gradient_norms(model, data),
        lambda model, data: classify(model, data.x),
        lambda model, data: torchattacks.Square(model, eps=0.1, n_queries=3)(data.x, data.y),
        lambda model, data: torchattacks.PGD(model).get_logits(data.x),
    ],
)
def test_samples_outlive_a_model_that_changes_its_input(call):
    data = Dataset(X.clone(), labels(12, 5), classes=tuple("abcde"))
    call(Normalising(), data)
    assert torch.equal(data.x, X)


def test_layers_of_a_model_that_changes_its_input():
    x = X.clone()
    found = layer_outputs(Normalising(), x, ["net.0"])["net.0"]
    torch.testing.assert_close(found, ((X - 0.3) / 0.35).flatten(1))
    assert torch.equal(x, X)


class ThroughData(Normalising):
    """Normalises the memory of its input, of which autograd counts no change."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x.data if self.changes else x.clone()).sub_(0.3).div_(0.35))


def test_samples_outlive_a_model_that_changes_their_memory():
    data = Dataset(X.clone(), labels(12, 5), classes=tuple("abcde"))
    attacks = {"square": Square(0.1, 20)}
    found, expected = (evaluate(ThroughData(changes), data, attacks, seed=1) for changes in (True, False))
    assert torch.equal(data.x, X)
    assert torch.equal(found.results["square"].right, expected.results["square"].right)
    assert [finding.check for finding in found.findings] == ["zero gradients"]  # the graph is detached, too


def test_other_errors_of_a_model_are_its_own():
    def model(x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        FGSM()(model, X)
