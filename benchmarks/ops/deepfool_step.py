import torch

from ..timing import DEVICE
from ._case import CLASSES, Case, logits, samples


def arguments(shape: tuple[int, ...]) -> tuple:
    x_adv, _, x = samples(shape)
    scores, labels = logits(shape)
    grads = torch.randn(shape[0], CLASSES, *shape[1:], device=DEVICE)
    return x_adv, torch.zeros_like(x), x, scores, grads, labels, 0.02, 0.0, "l2", 0.0, 1.0, None


CASES = [Case("deepfool_step", arguments, (CLASSES + 2, 2))]
