import torch

from ._case import Case, columns, samples


def usual(x_adv, mean, square, grad, x, threshold, rate, count):
    """As in the authors' sigma_zero.py."""
    rows = (-1, 1, 1, 1)
    delta = x_adv - x
    half = delta.square() + 0.001
    down = 0.002 / x[0].numel() * delta / half.square() - grad
    down = down / down.flatten(1).abs().amax(dim=1).clamp(min=1e-12).view(rows)
    mean.lerp_(down, 0.1)
    square.mul_(0.999).addcmul_(down, down, value=0.001)
    scale = (square / (1 - 0.999**count)).sqrt_().add_(1e-8)
    x_adv.sub_((rate / (1 - 0.9**count)).view(rows) * mean / scale).clamp_(0, 1)
    x_adv.copy_(torch.where((x_adv - x).abs() < threshold.view(rows), x, x_adv))


def arguments(shape: tuple[int, ...]) -> tuple:
    x_adv, grad, x = samples(shape)
    return x_adv, torch.zeros_like(x), torch.zeros_like(x), grad, x, *columns(shape, 0.3, 0.01), 3


CASES = [Case("l0_adam_step", arguments, (5, 3), usual)]
