"""One step of DeepFool."""

import torch
from torch import Tensor

from ._op import Op, op
from ._reference import as_rows, column, compute, norm_of, note, wide_type, write


def _check(op: Op, given: dict) -> None:
    x = given["x_adv"]
    wide = wide_type(x)
    op.like("delta", given["delta"], x.shape, wide, x)
    logits = given["logits"]
    if logits.dim() != 2 or logits.shape[0] != x.shape[0] or logits.shape[1] < 2:
        raise ValueError(f"{op.name}: logits must be [{x.shape[0]}, classes], got {tuple(logits.shape)}")
    given["logits"] = logits.to(wide)
    op.like("logits", given["logits"], logits.shape, wide, x)
    op.like("grads", given["grads"], (*logits.shape, *x.shape[1:]), x.dtype, x)


@op(
    "(Tensor(a!) x_adv, Tensor(b!) delta, Tensor x, Tensor logits, Tensor grads, Tensor labels, float overshoot=0., "
    "float beyond=0., str norm='l2', float lo=0., float hi=1., Tensor? active=None, "
    "Tensor(c!)? nonfinite=None) -> (Tensor, Tensor)",
    samples=("x_adv", "x"),
    choices={"norm": ("l2", "linf")},
    check=_check,
    fake=lambda x_adv, *args, **kwargs: (column(x_adv, torch.int64), column(x_adv)),
)
def deepfool_step(
    x_adv: Tensor,
    delta: Tensor,
    x: Tensor,
    logits: Tensor,
    grads: Tensor,
    labels: Tensor,
    overshoot: float = 0.0,
    beyond: float = 0.0,
    norm: str = "l2",
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
    nonfinite: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of DeepFool (Moosavi-Dezfooli et al., 2016), in place on `delta` and `x_adv` [B, ...].

    From the `logits` [B, K] of K classes and their gradients `grads` [B, K, ...] at the current point, with the label's
    place among them in `labels` [B]: the boundary to class k is ``(|z_k - z_y| + 1e-5) / |w_k|`` away, where ``w_k =
    grads_k - grads_y`` and the norm is dual to `norm` (``l2`` or ``linf``). `delta`, float32 (float64 for float64
    samples), moves to the nearest one and `beyond` further, and ``x_adv <- clip(x + (1 + overshoot) * delta, lo, hi)``.
    A class whose gradient is the label's, or not finite, is no candidate; without one, and for a label out of range,
    `delta` stays.

    Returns ``(target, distance)``, [B] each: the class and how far it was; the label and 0 where nothing moved.
    """
    classes = torch.arange(logits.shape[1], device=x.device)
    known = (labels >= 0) & (labels < len(classes))
    place = torch.where(known, labels, 0)
    w = compute(grads) - compute(grads[torch.arange(len(x), device=x.device), place]).unsqueeze(1)
    rows = w.flatten(0, 1)
    size = norm_of(rows, 2 if norm == "l2" else 1).to(w.dtype).view(logits.shape)
    gap = (logits - logits.gather(1, place.unsqueeze(1))).abs()
    distance = (gap + 1e-5) / size
    candidate = (size > 1e-8) & size.isfinite() & distance.isfinite() & known.unsqueeze(1)
    candidate = candidate & (classes != labels.unsqueeze(1))
    note(grads, active, nonfinite)
    moves = candidate.any(dim=1)
    if active is not None:
        moves = moves & active
    distance, nearest = distance.masked_fill(~candidate, torch.inf).min(dim=1)
    chosen = torch.arange(len(x), device=x.device) * logits.shape[1] + nearest
    w, size = rows[chosen], as_rows(size.flatten()[chosen], x)
    direction = w / size if norm == "l2" else w.sign().masked_fill(~w.isfinite(), 0)
    write(delta, delta + as_rows(distance + beyond, x) * direction, moves)
    write(x_adv, (compute(x) + (1 + overshoot) * delta).clamp(lo, hi), active)
    return torch.where(moves, nearest, labels), torch.where(moves, distance, 0)
