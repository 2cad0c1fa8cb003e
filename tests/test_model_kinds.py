"""Attacks on every kind of model: half precision, two classes, DataParallel, DistributedDataParallel, torch.compile."""

import copy
import shutil
from contextlib import nullcontext

import pytest
import torch
from test_attacks import CASES, OF_IMAGES, SHAPE, assert_equal, every, linf
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from toys import BatchNormNet, Wavy, labels, quick, samples, traces

from fastadv import ops
from fastadv.attacks import ALMA, DIFGSM, EPGD, PGD, TPGD, Attack, Noise
from fastadv.losses import cross_entropy

pytestmark = pytest.mark.usefixtures("seed_zero")

X, Y = samples(16, 3, 6, 6), labels(16, 5)


class Plain(BatchNormNet):
    """Without the counter, a new value of which would be new code to the compiler."""

    forward = nn.Sequential.forward


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks(attack, dtype):
    x, model = X.to(dtype), BatchNormNet()
    model[8].weight.data *= 20  # so that some attack of several succeeds
    found = attack.run(model.to(dtype), x, Y)
    assert found.x_adv.dtype == dtype
    assert 0 <= found.x_adv.min() < found.x_adv.max() <= 1
    if hasattr(attack, "eps") and attack.norm == "linf":
        assert linf(found.x_adv.double() - x.double()).max() <= attack.eps + torch.finfo(dtype).eps
    assert found.norm.max() > 0


@every
@pytest.mark.parametrize("shape", [(48,), SHAPE])
def test_two_classes(attack, shape):
    if isinstance(attack, OF_IMAGES) and len(shape) == 1:
        pytest.skip("of images")
    if isinstance(attack, ALMA):
        pytest.skip("of three classes")
    model, x, y = Wavy(48, 2), samples(32, *shape), labels(32, 2)
    found = attack.run(model, x, y)
    assert torch.equal(found.success, found.target == 1 - y)
    natural = (model(x).argmax(1) != y).double().mean()
    # TPGD leads away from the prediction, not from y; DI and TI see images of four pixels as still smaller ones.
    assert isinstance(attack, Noise | EPGD | TPGD | DIFGSM) or found.success.double().mean() > natural


@every
def test_data_parallel(attack):
    model = BatchNormNet()
    assert_equal(attack.run(nn.DataParallel(model), X, Y), attack.run(model, X, Y))


# ----------------------------------------------------------------------------------------- DistributedDataParallel


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """This process alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("PyTorch is built without gloo")
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def trained(model: nn.Module, attack: Attack, steps: int = 3) -> list[Tensor]:
    """The state of `model` after training on what `attack` makes of the samples, beside the samples."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for step in range(steps):
        torch.manual_seed(step)  # dropout
        x_adv = attack(model, X, Y)
        optimiser.zero_grad()
        (cross_entropy(model(x_adv), Y) + cross_entropy(model(X), Y)).mean().backward()
        optimiser.step()
    return list(model.state_dict().values())


@every
def test_training_in_parallel_goes_on_after_an_attack(attack, process_group):
    model = BatchNormNet()
    before = [value.clone() for value in model.state_dict().values()]
    expected = trained(copy.deepcopy(model), attack)
    found = trained(nn.parallel.DistributedDataParallel(model), attack)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(found, before, strict=True))


@pytest.mark.parametrize("options", [{"find_unused_parameters": True}, {"static_graph": True}])
def test_kinds_of_parallel_training(options, process_group):
    attack, model = PGD(0.1), BatchNormNet()
    expected = trained(copy.deepcopy(model), attack)
    found = trained(nn.parallel.DistributedDataParallel(model, **options), attack)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Unused(nn.parallel.DistributedDataParallel):
    """One that may not be called itself: it would send buffers to processes whose attacks take fewer steps."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the attack talks to other processes")


@every
def test_an_attack_talks_to_no_other_process(attack, process_group):
    model = BatchNormNet()
    assert_equal(attack.run(Unused(model), X, Y), attack.run(model, X, Y))


def test_a_parallel_model_is_as_it_was(process_group):
    class Twice(PGD):
        """An attack within an attack."""

        def perturb(self, rows):
            PGD()(rows.model, rows.x)
            super().perturb(rows)

    for fails_at in (None, 15):
        model = Unused(BatchNormNet(fails_at=fails_at))
        inside = nn.Sequential(model)
        before, names = traces(inside, X, Y), set(vars(model))
        with pytest.raises(RuntimeError, match="out of memory") if fails_at else nullcontext():
            assert torch.equal(Twice()(inside, X, Y), PGD()(BatchNormNet(), X, Y))
        assert traces(inside, X, Y) == before
        assert set(vars(model)) == names


# ------------------------------------------------------------------------------------------------------ torch.compile


@pytest.fixture
def compiler():
    """Without what earlier tests compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@every
@pytest.mark.parametrize("backend", quick(["eager", "aot_eager"], "eager"))
def test_compiled_models(attack, backend, compiler, monkeypatch):
    monkeypatch.setitem(ops.MISSING, "cpu", "gradients are to be PyTorch's on both sides, to the bit")
    model = Plain().train()
    compiled = torch.compile(model, backend=backend)
    before = traces(compiled, X, Y)
    assert_equal(attack.run(compiled, X, Y), attack.run(model, X, Y))
    assert traces(compiled, X, Y) == before


@pytest.mark.parametrize("name", quick(CASES, "pgd", "apgdt", "deepfool", "square"))
def test_a_model_is_compiled_a_few_times_only(name, compiler):
    """For gradients and without, for one sample, for the first number of samples and for any."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(Plain(), backend=counter)
    for size in (16, 11, 7, 3, 2, 1):
        CASES[name].run(compiled, X[:size], Y[:size])
    assert 1 <= counter.frame_count <= 6


@pytest.mark.thorough
@pytest.mark.filterwarnings("default")  # those of PyTorch's own on loading its compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor(compiler):
    attack, model = PGD(0.1, 0.03, steps=5), Plain()
    found = attack.run(torch.compile(model), X, Y)
    torch.testing.assert_close(found.x_adv, attack.run(model, X, Y).x_adv, atol=1e-4, rtol=0)
