"""The perceptron of the two-circles problem (Blind AT, section 3.1 and Appendix B)."""

import torch
from torch import Tensor, nn


class TwoCirclesNet(nn.Module):
    """2-6-1 perceptron with ReLU, as a two-class network: points [B, 2] to logits [B, 2] ``(0, score)``.

    The paper's output is ``sigmoid(score)``, which is the softmax probability of class 1 here. 25 parameters. Raises
    ValueError for a `shape` other than (2,) or `classes` other than 2.
    """

    def __init__(self, shape: tuple[int, ...] = (2,), classes: int = 2, hidden: int = 6):
        super().__init__()
        if tuple(shape) != (2,) or classes != 2:
            raise ValueError(
                f"TwoCirclesNet separates two classes of points in the plane, got {tuple(shape)}, {classes}"
            )
        self.layers = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def score(self, x: Tensor) -> Tensor:
        """The output before the sigmoid, [B]; positive is class 1."""
        return self.layers(x).squeeze(1)

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        return torch.stack((torch.zeros_like(score), score), dim=1)
