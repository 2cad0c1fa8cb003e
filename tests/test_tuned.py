"""fastadv.attacks.tuned: other ways of computing gradients, on the same model."""

import pytest
import torch
from test_attacks import SHAPE
from torch import Tensor, nn
from toys import BatchNormNet, labels, partly_frozen, samples, traces

from fastadv.attacks import FAB, FGSM, PGD, Attack, AutoAttack, DeepFool, Tuned, tuned

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


def test_batches_are_filled_up_to_the_next_bucket(monkeypatch):
    """The graph is the function itself, with the memory that a graph has: one for inputs of one size."""
    sizes = []

    def graphed(run, given):
        sizes.append(len(given[0]))
        return lambda x: run(x) if x.shape == given[0].shape else pytest.fail("another size")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    model = Tuned(BatchNormNet().eval(), buckets=(4, 8))
    for count in (1, 3, 4, 5, 8, 2):
        x = samples(count, 3, 6, 6).requires_grad_()
        size = next(size for size in model.buckets if size >= count)
        logits = model._replayed(x, size)
        torch.testing.assert_close(logits, model.model(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*(torch.autograd.grad(out.sum(), x)[0] for out in (logits, model.model(x))))
    assert sizes == [4, 8]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_replay_the_same_attack():
    model, x, y = BatchNormNet().cuda().eval(), samples(23, 3, 6, 6).cuda(), labels(23, 5).cuda()
    graphed = Tuned(model, buckets=(8, 32))

    def assert_alike(attack: Attack, count: int) -> None:
        """But for the samples that rounding decides about: a batch that is filled up may take other kernels."""
        found, expected = (attack(each, x[:count], y[:count]) for each in (graphed, model))
        assert torch.isclose(found, expected, atol=1e-4).double().mean() > 0.9

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for attack in (PGD(0.1, 0.02), AutoAttack(0.02, "custom", ("apgd-ce",)), DeepFool(steps=3)):
            for count in (23, 5):
                assert_alike(attack, count)
        with torch.no_grad():
            model[8].weight.neg_()  # in place: the graphs see it
        assert_alike(PGD(0.1, 0.02), 23)


def test_a_graph_is_for_one_backward_pass(monkeypatch):
    """A second one would find what the first has overwritten."""
    replayed = []
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(Tuned, "_replayed", lambda self, x, size: replayed.append(size) or self.model(x))
    model, x, y = BatchNormNet().eval(), samples(8, 3, 6, 6), labels(8, 5)
    graphed = Tuned(model, buckets=(8,))
    for attack in (DeepFool(steps=2), FAB(steps=2)):
        assert torch.equal(attack(graphed, x, y), attack(model, x, y))
    assert replayed == []
    FGSM(0.1)(graphed, x, y)
    assert replayed == [8]


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
    assert (tuned(model, x).dtype, tuned(model, x).memory_format) == (None, None)
    assert tuned(model, x, bf16=True).dtype == torch.bfloat16
    spent[torch.bfloat16] = 3.0
    assert tuned(model, x, bf16=True).dtype is None
    assert tuned(model, x.flatten(1).view(8, 3, 6, 6).contiguous()).memory_format is None


def test_wrong_options():
    with pytest.raises(ValueError, match=r"dtype must be .* or None, got torch.int8"):
        Tuned(BatchNormNet(), dtype=torch.int8)
    for buckets in ((8, 4), (4, 4), (0, 4)):
        with pytest.raises(ValueError, match="buckets must be batch sizes from small to large"):
            Tuned(BatchNormNet(), buckets=buckets)


def test_shape_of_samples_is_free():
    x = samples(4, *SHAPE)
    assert isinstance(tuned(lambda x: x.flatten(1), x, rounds=0), Tuned)
