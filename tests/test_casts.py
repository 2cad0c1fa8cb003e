"""Weights under autocast: cast once an attack, to the same bits, and never out of date."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import BatchNormNet, labels, samples

from fastadv.attacks import PGD, AutoAttack, Tuned
from fastadv.models import LeNet5
from fastadv.trainers._precision import Autocast

ATTACK = PGD(0.1, 0.02, 5, seed=0)
WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "trainers": lambda model: Autocast(model, torch.bfloat16).eval(),
    "float16": lambda model: Autocast(model, torch.float16).eval(),
    "tuned": lambda model: Tuned(model, dtype=torch.bfloat16).eval(),
}
wrapped = pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)


class Casts(TorchDispatchMode):
    """Counts how often each parameter of `model` is cast, by name."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {p.data_ptr(): name for name, p in model.named_parameters()}
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.names:
            self.counts[self.names[args[0].data_ptr()]] += 1
        return func(*args, **(kwargs or {}))


class EveryPass(nn.Module):
    """`wrap(model)`, behind a function: whose weights are found and kept by nothing."""

    def __init__(self, model: nn.Module, wrap: Callable[[nn.Module], nn.Module]):
        super().__init__()
        self.model = model
        self.wrapped = [wrap(lambda x: model(x))]

    def forward(self, x: Tensor) -> Tensor:
        return self.wrapped[0](x)


def lenet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet5().eval()


@wrapped
def test_weights_are_cast_once_an_attack(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, x = lenet(), samples(4, 1, 28, 28)
    with Casts(model) as casts:
        ATTACK(wrap(model), x, labels(4, 10))
    assert casts.counts == dict.fromkeys([name for name, _ in model.named_parameters()], 1)


@wrapped
@pytest.mark.parametrize("make", [lenet, lambda: BatchNormNet().eval()], ids=["lenet", "batch norm"])
def test_the_same_bits(make: Callable[[], nn.Module], wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = make()
    x = samples(6, *((1, 28, 28) if make is lenet else (3, 6, 6)))
    for attack in (ATTACK, AutoAttack(0.05, "custom", ("apgd-ce",))):
        kept, plain = (attack.run(each, x, labels(6, 5)) for each in (wrap(model), EveryPass(model, wrap)))
        assert torch.equal(kept.x_adv, plain.x_adv)
    given = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(wrap(model)(given)[:, 0].sum(), given)
    again = x.clone().requires_grad_()
    assert torch.equal(grad, torch.autograd.grad(EveryPass(model, wrap)(again)[:, 0].sum(), again)[0])


class Odd(nn.Module):
    """Weights that are read elsewhere, used outside autocast, or changed in a pass, as `change` says."""

    def __init__(self, change: str):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 5)
        self.change, self.passes = change, 0
        self.drawn = torch.randn(40, 8, 12, generator=torch.Generator().manual_seed(2))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        now = self.drawn[self.passes]
        if self.change == "in place":
            with torch.no_grad():
                self.first.weight.copy_(now)
        elif self.change == "data":
            self.first.weight.data = now.clone()
        elif self.change == "another":
            self.first.weight = nn.Parameter(now, requires_grad=False)
        x = self.first(x.flatten(1))
        if self.change == "float32":
            with torch.autocast("cpu", enabled=False):
                return self.last(x.float())
        return F.linear(x, F.normalize(self.last.weight)) + self.last(x)


@wrapped
@pytest.mark.parametrize("change", ["", "in place", "data", "another", "float32"])
def test_odd_uses_of_weights(change: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    x, y = samples(6, 3, 2, 2), labels(6, 5)
    kept, plain = Odd(change).eval(), Odd(change).eval()
    assert torch.equal(ATTACK(wrap(kept), x, y), ATTACK(EveryPass(plain, wrap), x, y))
    assert kept.passes == plain.passes > 4


@wrapped
def test_nothing_is_kept_between_attacks(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, x, y = lenet(), samples(4, 1, 28, 28), labels(4, 10)
    fast = wrap(model)
    ATTACK(fast, x, y)
    for parameter in model.parameters():
        parameter.data.mul_(-1)  # what no version counter sees
    assert torch.equal(ATTACK(fast, x, y), ATTACK(EveryPass(model, wrap), x, y))


@wrapped
def test_no_trace_also_after_an_error(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = BatchNormNet(fails_at=3)
    before = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(RuntimeError, match="out of memory"):
        ATTACK(wrap(model.eval()), samples(4, 3, 6, 6), labels(4, 5))
    assert [vars(module).keys() for module in model.modules()] == [each.keys() for each in before]


def test_training_is_not_touched() -> None:
    """A pass in train mode casts what the optimiser has changed, and gradients reach every weight."""
    model, x = lenet(), samples(4, 1, 28, 28)
    network = Autocast(model, torch.bfloat16)
    for _ in range(2):
        ATTACK(network.eval(), x, labels(4, 10))
        network.train()
        network(x).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(network(x), model(x).float())
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * p.grad)


def test_compiled_models_are_left_to_their_compiler() -> None:
    model, x = lenet(), samples(4, 1, 28, 28)
    compiled = torch.compile(model, backend="eager")
    with torch.compiler.set_stance("force_eager"), Casts(model) as casts:
        ATTACK(Autocast(compiled, torch.bfloat16).eval(), x, labels(4, 10))
    assert set(casts.counts.values()) == {5}
