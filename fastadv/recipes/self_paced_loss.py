"""The self-paced accuracy loss over the cosine, beside the losses that it starts from (Hou: thesis, Figure 3.4).

Two classes whose weights point opposite ways: the cosine to the label's is c, that to the other's is -c. On a head of
cosines the logits are these times the scale (NCE), on another last layer times the norms of weights and features (CE).
Slopes are what training feels, with the factors detached. The curves are those of equations 3.10 and 3.11. Of the
printed figure it is said that beyond a cosine of 0.6 losses are reduced: the factor of the label is, the loss of these
equations is not. From beta on it is above the loss without factors.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..losses import cross_entropy
from ..runs import make_folder
from ..trainers import SPAT
from ._files import save_figure, write_rows

BETAS = (0.0, 0.2, 0.4, 0.6)
"""Those of Table 3.6b."""
SCALES = {5.0: "NCE", 10.0: "CE"}
"""What multiplies the cosines, and the loss without factors: SPAT's scale, and what may be |w| |z| elsewhere."""


class Point(NamedTuple):
    """`loss` and `slope`, its derivative in the `cosine`, of SPAT's accuracy loss, or without `beta` of NCE or CE."""

    scale: float
    beta: float | None
    cosine: float
    loss: float
    slope: float


def curve(cosine: Tensor, scale: float, beta: float | None) -> tuple[Tensor, Tensor]:
    """Loss and slope at every `cosine` [N] to the label's weights, in [-1, 1]."""
    cosine = cosine.clone().requires_grad_()
    cosines, y = torch.stack((cosine, -cosine), dim=1), torch.zeros(len(cosine), dtype=torch.int64)
    if beta is None:
        loss = cross_entropy(scale * cosines, y)
    else:
        spat = SPAT(beta=beta)
        loss = torch.stack([spat.accuracy_loss(scale * row, row, y[:1]) for row in cosines.split(1)])
    (slope,) = torch.autograd.grad(loss.sum(), cosine)
    return loss.detach(), slope


def reproduce(folder: Path, *, epochs: int | None = None, on_step: object = None) -> list[Point]:
    """Writes ``losses.csv`` and ``losses.png`` to `folder`, and returns what the former says of every half.

    Raises ValueError where `epochs` are given: nothing is trained, and `on_step` is never called.
    """
    if epochs is not None:
        raise ValueError(f"the self-paced loss is only drawn: leave epochs out, got {epochs}")
    make_folder(folder)
    cosine = torch.arange(-40, 41, dtype=torch.float64) / 40
    figure = Figure(figsize=(8, 6), layout="constrained")
    grid = figure.subplots(2, len(SCALES), sharex=True)
    points = []
    for (above, below), (scale, plain) in zip(grid.T, SCALES.items(), strict=True):
        for i, beta in enumerate((None, *BETAS)):
            loss, slope = curve(cosine, scale, beta)
            style = {"label": plain, "color": "0.3", "linestyle": "--"} if beta is None else {"label": f"beta {beta:g}"}
            above.plot(cosine.numpy(), loss.numpy(), **{"color": f"C{i}"} | style)
            below.plot(cosine.numpy(), slope.numpy(), **{"color": f"C{i}"} | style)
            columns = (cosine.tolist(), loss.tolist(), slope.tolist())
            points += [Point(scale, beta, *values) for values in zip(*columns, strict=True)]
        above.set(title=f"{plain}, logits {scale:g} times the cosines")
        below.set(xlabel="cosine to the label's weights")
        above.legend(fontsize="small")
        for axes in (above, below):
            axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("its slope")
    write_rows(points, folder / "losses.csv")
    save_figure(figure, folder / "losses.png")
    return [point for point in points if 2 * point.cosine == round(2 * point.cosine)]
