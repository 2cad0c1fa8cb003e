"""Adversarial weight perturbation (Wu et al., 2020: AWP)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ._parallel import total
from ._precision import SCALE


@contextmanager
def perturbed(model: nn.Module, loss: Tensor, size: float) -> Iterator[None]:
    """Within it, the weights of `model` are where one step up the `loss` leads, `size` times their norm, by layer.

    Of gradients only directions count: they are scaled as those of attacks are, for float16 networks. What has one
    dimension, biases and normalisation, stays. On leaving, weights are what they were, to the bit.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    grads = [total(grad) for grad in torch.autograd.grad(loss * SCALE, weights, materialize_grads=True)]
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
