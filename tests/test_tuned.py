"""fastadv.attacks.tuned: other ways of computing gradients, on the same model."""

import pytest
import torch
from test_attacks import SHAPE
from torch import Tensor, nn
from toys import BatchNormNet, labels, partly_frozen, samples, traces

from fastadv import Dataset, evaluate, fit
from fastadv.attacks import FGSM, PGD, Tuned, tuned
from fastadv.attacks._tuned import chosen_format
from fastadv.trainers import Standard
from fastadv.trainers._precision import Autocast

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("seed_zero")]


class Noted(nn.Module):
    """Notes the dtype and strides that the convolution computes with, and whether gradients are on."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = BatchNormNet(), []
        self.net[0].register_forward_hook(lambda _, given, out: self.seen.append((out.dtype, given[0].stride())))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_gradients_are_computed_in_bf16_and_the_result_is_judged_in_float32():
    model, x, y = Noted(), samples(8, 3, 6, 6), labels(8, 5)
    found = FGSM(0.1).run(Tuned(model, dtype=torch.bfloat16), x, y)
    assert [dtype for dtype, _ in model.seen] == [torch.bfloat16, torch.float32]
    assert found.x_adv.dtype == torch.float32
    assert torch.equal(found.target, model.eval()(found.x_adv).argmax(1))
    plain = FGSM(0.1)(model, x, y)
    assert (plain == found.x_adv).double().mean() > 0.9


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_laid_out_anew(channels):
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.stride())
        return x.flatten(1)

    x = samples(4, channels, 6, 5)
    found = FGSM(0.1)(Tuned(model, memory_format=torch.channels_last), x, labels(4, 5))
    assert set(seen) == {(30 * channels, 1, 5 * channels, channels)}
    assert torch.equal(found, FGSM(0.1)(model, x, labels(4, 5)))
    assert found.stride() == x.stride()
    flat = samples(4, 30)
    assert torch.equal(FGSM(0.1)(Tuned(model, memory_format=torch.channels_last), flat), FGSM(0.1)(model, flat))


def test_compiled_gradients(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or (lambda x: model(x)))
    model, x, y = BatchNormNet(), samples(8, 3, 6, 6), labels(8, 5)
    assert torch.equal(PGD(0.1)(Tuned(model, compiled=True), x, y), PGD(0.1)(model, x, y))
    assert compiled == [model]


def test_training_and_plain_forwards_are_the_models_own():
    model = Noted().eval()
    fast, x = Tuned(model, dtype=torch.bfloat16).eval(), samples(8, 3, 6, 6)
    assert torch.equal(fast(x), model(x))
    with torch.no_grad():
        assert torch.equal(fast(x.clone().requires_grad_()), model(x))
    fast.train()
    model.net[7].p = 0.0
    fast(x.requires_grad_())
    assert {dtype for dtype, _ in model.seen} == {torch.float32}


def test_an_attack_on_a_tuned_model_leaves_no_trace():
    model, x = partly_frozen(BatchNormNet()), samples(8, 3, 6, 6)
    before = traces(model, x)
    PGD(0.1)(tuned(model, x, bf16=True, rounds=1), x)
    assert traces(model, x) == before


def test_the_fastest_way_is_chosen(monkeypatch):
    clock, spent = [0.0], {torch.float32: 2.0, torch.bfloat16: 1.0}
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    model = BatchNormNet()

    def slow(_, given, out: Tensor) -> None:
        clock[0] += spent[out.dtype] + (given[0].stride(1) == 1)  # channels_last costs as much again

    model[0].register_forward_hook(slow)
    x = samples(8, 3, 6, 6)
    assert (tuned(model, x).dtype, tuned(model, x).memory_format) == (None, torch.contiguous_format)
    assert tuned(model, x, bf16=True).dtype == torch.bfloat16
    spent[torch.bfloat16] = 3.0
    assert tuned(model, x, bf16=True).dtype is None
    assert tuned(model, x.flatten(1).view(8, 3, 6, 6).contiguous()).memory_format == torch.contiguous_format


def test_wrong_options():
    with pytest.raises(ValueError, match=r"dtype must be .* or None, got torch.int8"):
        Tuned(BatchNormNet(), dtype=torch.int8)


def test_shape_of_samples_is_free():
    x = samples(4, *SHAPE)
    assert isinstance(tuned(lambda x: x.flatten(1), x, rounds=0), Tuned)


class Slow(nn.Sequential):
    """`BatchNormNet`, whose clock moves on by a second a pass, and by `seconds` where images are channels_last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float):
        super().__init__(*BatchNormNet())
        self.clock = 0.0
        self.passes = 0
        self.seconds = seconds
        monkeypatch.setattr("time.perf_counter", lambda: self.clock)
        monkeypatch.setattr("fastadv.attacks._tuned._timed_before", {})
        monkeypatch.setattr("fastadv.attacks._tuned._WORTH", 50)

    def forward(self, x: Tensor) -> Tensor:
        self.clock += 1e-3
        if x.requires_grad:
            self.clock += self.seconds if x.stride(1) == 1 else 1.0
            self.passes += 1
        return super().forward(x)


WORTH = 50 * 2 * 6 * 128  # fifty times two formats, a warm-up and five rounds of 128 samples
OF = (3, 6, 6), torch.float32, torch.device("cpu")


@pytest.mark.parametrize(("seconds", "found"), [(0.5, "channels_last"), (2.0, "contiguous")])
def test_the_faster_memory_format_is_chosen_once_and_logged(monkeypatch, caplog, seconds, found):
    model = Slow(monkeypatch, seconds)
    state = torch.get_rng_state()
    with caplog.at_level("INFO", logger="fastadv"):
        assert chosen_format(model, *OF, WORTH) == found
        assert model.passes == 12
        assert chosen_format(model, *OF, 10 * WORTH) == found
    assert model.passes == 12, "another network of this kind, or the same, is not timed again"
    assert [record.message for record in caplog.records] == [
        f"images are {found}: gradients take 0.50 of the time that they take in "
        f"{'contiguous' if found == 'channels_last' else 'channels_last'}"
    ]
    assert torch.equal(torch.get_rng_state(), state)
    chosen_format(nn.Sequential(model), *OF, WORTH)
    assert model.passes == 24
    for dtype in (torch.bfloat16, torch.float16):
        chosen_format(Autocast(model, dtype), *OF, WORTH)
    assert model.passes == 48, "another precision is another network"


def test_short_runs_are_not_timed(monkeypatch):
    model = Slow(monkeypatch, 0.5)
    assert chosen_format(model, *OF, WORTH - 1) == "preserve"
    assert chosen_format(model, (30,), *OF[1:], WORTH) == "preserve"
    assert chosen_format(lambda x: x.flatten(1), *OF, WORTH) == "preserve"
    assert model.passes == 0


@pytest.mark.parametrize(("seconds", "found"), [(0.5, "channels_last"), (2.0, "contiguous")])
def test_training_takes_what_is_found_and_resumes_with_it(monkeypatch, seconds, found):
    model, saved = Slow(monkeypatch, seconds), []
    monkeypatch.setattr("fastadv.attacks._tuned._WORTH", 0)
    data = samples(16, 3, 6, 6), labels(16, 5)
    how = {"epochs": 2, "batch_size": 8}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, Standard(), data, on_save=saved.append, **how)
    assert model.passes == 12
    assert [state["memory_format"] for state in saved] == [found, found]
    again = Slow(monkeypatch, 1 / seconds)
    again.load_state_dict(weights)
    fit(again, Standard(), data, resume=saved[0], **how)
    assert again.passes == 0, "it is what it was, whatever a clock says now"
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(("seconds", "found"), [(0.5, "channels_last"), (2.0, "contiguous")])
def test_evaluation_takes_what_is_found_and_goes_on_with_it(monkeypatch, seconds, found):
    model = Slow(monkeypatch, seconds)
    monkeypatch.setattr("fastadv.attacks._tuned._WORTH", 0)
    data, kept = Dataset(samples(12, 3, 6, 6), labels(12, 5), tuple("abcde")), {}
    how = {"batch_size": 6, "checks": 0, "kept": kept}
    first = evaluate(model, data, {"pgd": PGD(0.1, steps=2)}, **how)
    assert first.memory_format == found
    timed = model.passes
    del kept["pgd-6-6"]
    again = Slow(monkeypatch, 1 / seconds)
    again.load_state_dict(model.state_dict())
    found_again = evaluate(again, data, {"pgd": PGD(0.1, steps=2)}, **how)
    assert found_again.memory_format == found
    assert timed == 12 + 4
    assert again.passes == 2
    assert torch.equal(found_again.results["pgd"].right, first.results["pgd"].right)


def test_evaluation_in_a_memory_format():
    seen = set()

    def model(x: Tensor) -> Tensor:
        seen.add(x.stride(1) == 1)
        return x.flatten(1)

    data = Dataset(samples(6, 3, 4, 4), labels(6, 48), tuple(map(str, range(48))))
    for name, expected in {"contiguous": {False}, "channels_last": {True}, "preserve": {True}, "auto": {True}}.items():
        seen.clear()
        evaluate(model, data, {"fgsm": FGSM(0.1)}, checks=0, memory_format=name)
        assert seen == expected, name


def test_wrong_memory_formats():
    with pytest.raises(ValueError, match="memory_format must be one of auto, preserve, contiguous, channels_last, got"):
        fit(BatchNormNet(), Standard(), (samples(4, 3, 6, 6), labels(4, 5)), memory_format="nhwc")
    with pytest.raises(ValueError, match="memory_format must be one of"):
        evaluate(BatchNormNet(), Dataset(samples(4, 3, 6, 6), labels(4, 5), tuple("abcde")), memory_format="nhwc")
