import torch

from ..timing import DEVICE
from ._case import Case, samples


def arguments(shape: tuple[int, ...]) -> tuple:
    outer, _, inner = samples(shape)
    return inner, outer, (inner + outer) / 2, torch.arange(shape[0], device=DEVICE) % 2 == 0, None


CASES = [Case("bisect_step", arguments, (2, 2))]
