"""The self-paced accuracy loss over the cosine, beside the losses that it starts from (Hou: thesis, Figure 3.4).

Two classes whose weights point opposite ways: the cosine to the label's is c, that to the other's is -c. On a head of
cosines the logits are these times the scale (NCE), on another last layer times the norms of weights and features (CE).
Slopes are what training feels, with the factors detached. Every curve of equations 3.10 and 3.11 is there twice: as
printed, and with factors clamped at 0, as SPAT trains by default; from a cosine of beta on, where the other class's
factor is negative, they differ. Of the printed figure it is said that beyond a cosine of 0.6 losses are reduced: the
factor of the label is, the loss of these equations is not. From beta on either is above the loss without factors.
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
    """`loss` and `slope`, its derivative in the `cosine`, of SPAT's accuracy loss, or without `beta` of NCE or CE.

    `clamped`: whether the factors are; None without any.
    """

    scale: float
    beta: float | None
    clamped: bool | None
    cosine: float
    loss: float
    slope: float


def curve(cosine: Tensor, scale: float, beta: float | None, clamped: bool | None = False) -> tuple[Tensor, Tensor]:
    """Loss and slope at every `cosine` [N] to the label's weights, in [-1, 1]; as printed unless `clamped`."""
    cosine = cosine.clone().requires_grad_()
    cosines, y = torch.stack((cosine, -cosine), dim=1), torch.zeros(len(cosine), dtype=torch.int64)
    if beta is None:
        loss = cross_entropy(scale * cosines, y)
    else:
        spat = SPAT(beta=beta, clamp=bool(clamped))
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
    columns = [(scale, clamped) for scale in SCALES for clamped in (False, True)]
    figure = Figure(figsize=(4 * len(columns), 6), layout="constrained")
    grid = figure.subplots(2, len(columns), sharex=True, sharey="row")
    points = []
    for (above, below), (scale, clamped) in zip(grid.T, columns, strict=True):
        plain = SCALES[scale]
        for i, beta in enumerate((None, *BETAS)):
            loss, slope = curve(cosine, scale, beta, clamped)
            style = {"label": plain, "color": "0.3", "linestyle": "--"} if beta is None else {"label": f"beta {beta:g}"}
            above.plot(cosine.numpy(), loss.numpy(), **{"color": f"C{i}"} | style)
            below.plot(cosine.numpy(), slope.numpy(), **{"color": f"C{i}"} | style)
            if beta is not None or not clamped:  # without factors there is nothing to clamp
                values = zip(cosine.tolist(), loss.tolist(), slope.tolist(), strict=True)
                points += [Point(scale, beta, None if beta is None else clamped, *row) for row in values]
        above.set(title=f"{plain}, {'clamped' if clamped else 'as printed'}, logits {scale:g} times the cosines")
        below.set(xlabel="cosine to the label's weights")
        above.legend(fontsize="small")
        for axes in (above, below):
            axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("its slope")
    write_rows(points, folder / "losses.csv")
    save_figure(figure, folder / "losses.png")
    return [point for point in points if 2 * point.cosine == round(2 * point.cosine)]
