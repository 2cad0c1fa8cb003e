"""Adversarial weight perturbation (Wu et al., 2020: AWP)."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ._parallel import total
from ._precision import SCALE


@contextmanager
def perturbed(model: nn.Module, losses: Iterable[Tensor], size: float) -> Iterator[None]:
    """Within it, the weights of `model` are where one step up the `losses` leads, `size` times their norm, by layer.

    Losses are of the parts of a batch, and are summed up.

    Of gradients only directions count: they are scaled as those of attacks are, for float16 networks. What has one
    dimension, biases and normalisation, stays. On leaving, weights are what they were, to the bit.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    of_parts = (torch.autograd.grad(loss * SCALE, weights, materialize_grads=True) for loss in losses)
    grads = [total(grad) for grad in functools.reduce(lambda sums, more: torch._foreach_add(sums, more), of_parts)]
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight.add_(grad * (size * weight.norm() / (grad.norm() + 1e-20)))
        yield
    finally:
        with torch.no_grad():
            for weight, was in zip(weights, before, strict=True):
                weight.copy_(was)
