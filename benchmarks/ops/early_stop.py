import torch

from ._case import OF_LOGITS, Case, logits


def arguments(shape: tuple[int, ...]) -> tuple:
    scores, labels = logits(shape)
    return scores, labels, torch.ones_like(labels), None


CASES = [Case("early_stop", arguments, (OF_LOGITS, 0))]
