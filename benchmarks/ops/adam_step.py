import torch

from ._case import Case, columns, samples


def usual(x_adv, mean, square, grad, slope, weight, rate, count):
    rows = (-1, 1, 1, 1)
    direction = slope + weight.view(rows) * grad
    mean.lerp_(direction, 0.1)
    square.mul_(0.999).addcmul_(direction, direction, value=0.001)
    scale = (square / (1 - 0.999**count)).sqrt_().add_(1e-8)
    x_adv.sub_((rate / (1 - 0.9**count)).view(rows) * mean / scale).clamp_(0, 1)


def arguments(shape: tuple[int, ...]) -> tuple:
    x_adv, grad, x = samples(shape)
    return x_adv, torch.zeros_like(x), torch.zeros_like(x), grad, x_adv - x, *columns(shape, 10.0, 0.01), 3


CASES = [Case("adam_step", arguments, (5, 3), usual)]
