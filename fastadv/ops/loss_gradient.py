"""The loss that an attack maximises, with its gradient."""

import torch
from torch import Tensor

from ._op import Op, op
from ._reference import column, compute
from .predictions import predictions

KINDS = ("ce", "margin", "slm", "dlr", "pm", "kl", "spat")


def _check(op: Op, given: dict) -> None:
    loss, classes = given.get("loss", "ce"), given["logits"].shape[1]
    least = 2 if loss != "dlr" else 3 if given.get("goal") is None else 4
    if classes < least:
        targeted = "targeted " if least == 4 else ""
        raise ValueError(
            f"the {targeted}DLR loss needs at least {least} classes, the model has {classes}; use ce or margin"
        )
    if (loss in ("kl", "spat")) != (given.get("natural") is not None):
        raise ValueError(f"{op.name}: kl and spat, and no other loss, compare with natural logits; loss is {loss}")
    if given.get("goal") is not None and loss != "dlr":
        raise ValueError(f"{op.name}: a goal is for dlr; loss is {loss}")
    if not 0 <= given.get("smoothing", 0.0) < 1:
        raise ValueError(f"{op.name}: smoothing must be at least 0 and below 1, got {given['smoothing']}")


@op(
    "(Tensor logits, Tensor labels, Tensor sign, str loss='ce', Tensor? natural=None, Tensor? goal=None, "
    "float kappa=50., float kl_weight=0.2, float smoothing=0., "
    "Tensor(a!)? nonfinite=None) -> (Tensor, Tensor, Tensor)",
    samples=("logits", "natural"),
    budgets=("sign",),
    choices={"loss": KINDS},
    classes=2,
    check=_check,
    fake=lambda logits, *args, **kwargs: (
        torch.empty_like(logits, memory_format=torch.contiguous_format),
        column(logits),
        column(logits, torch.bool),
    ),
)
def loss_gradient(
    logits: Tensor,
    labels: Tensor,
    sign: float | Tensor,
    loss: str = "ce",
    natural: Tensor | None = None,
    goal: Tensor | None = None,
    kappa: float = 50.0,
    kl_weight: float = 0.2,
    smoothing: float = 0.0,
    nonfinite: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What an attack maximises at `logits` [B, K], its gradient with respect to them, and who is fooled.

    The losses are those of `fastadv.losses`, a sample: ``ce``, with the labels smoothed by `smoothing`; ``margin`` with
    `kappa`; ``slm`` (soft margin); ``dlr``, towards a class `goal` [B] where that is given (targeted DLR); ``pm``
    (probability margin); ``kl`` and ``spat``, with `kl_weight`, against the logits `natural` [B, K]. `sign` is 1 to
    leave the label, or -1 to reach it: the loss is then the negative of these, and for ``margin`` it is
    ``-max(max_{j != y} z_j - z_y + kappa, 0)``. With an infinite `kappa`, the margin is the lead itself,
    ``max_{j != y} z_j - z_y`` or its negative.

    The gradient is the closed form in double precision, rounded once: where a class is all but certain it is small and
    not 0. A sample with a NaN logit or a label that is no class has NaN for gradient and loss, and its
    `nonfinite` [B] is set.

    Returns ``(gradient, loss, fooled)``: [B, K] as the logits; [B] float32 (float64 for float64 logits); [B] bool,
    whether the predicted class, which is none where a logit is NaN, differs from the label, or is it for sign -1.
    """
    z, classes = logits.double(), logits.shape[1]
    known = (labels >= 0) & (labels < classes)
    y = torch.where(known, labels, 0).unsqueeze(1)
    own = torch.arange(classes, device=z.device) == y
    s = torch.where(sign < 0, -1.0, 1.0).double().unsqueeze(1)
    if loss == "ce":
        value, slope = _cross_entropy(z, y, own, smoothing)
    elif loss == "margin":
        value, slope = _margin(z, own, s, kappa)
    elif loss == "slm":
        value, slope = _soft_margin(z, own)
    elif loss == "dlr":
        value, slope = _ratio(z, y, own, goal)
    elif loss == "pm":
        value, slope = _probability_margin(z, y, own)
    else:
        value, slope = _divergence(z, natural.double(), kl_weight, squared=loss == "spat")
    if loss != "margin":
        value, slope = s * value, s * slope
    broken = z.isnan().any(dim=1) | ~known
    if goal is not None:
        broken |= (goal < 0) | (goal >= classes)
    if nonfinite is not None:
        nonfinite |= broken
    right = predictions.reference(logits) == labels
    fooled = torch.where(sign < 0, right, ~right)
    slope = slope.masked_fill(broken.unsqueeze(1), torch.nan).to(logits.dtype)
    return slope.contiguous(), value.squeeze(1).masked_fill(broken, torch.nan).to(compute(logits).dtype), fooled


def _cross_entropy(z: Tensor, y: Tensor, own: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    top = z.amax(dim=1, keepdim=True)
    e = (z - top).exp()
    others = e.masked_fill(own, 0).sum(dim=1, keepdim=True)
    label = e.masked_fill(~own, 0).sum(dim=1, keepdim=True)
    total, each = label + others, smoothing / z.shape[1]
    log_total = torch.where(z.argmax(dim=1, keepdim=True) == y, others.log1p(), total.log())
    minus_log_q = log_total + (top - z)
    value = (1 - smoothing) * minus_log_q.masked_fill(~own, 0).sum(dim=1, keepdim=True)
    if each:
        value = value + each * minus_log_q.sum(dim=1, keepdim=True)
    return value, torch.where(own, smoothing - others / total, e / total) - each


def _margin(z: Tensor, own: Tensor, s: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    level = z.masked_fill(own, -torch.inf).amax(dim=1, keepdim=True)
    whole = kappa == torch.inf
    lead = s * (z.masked_fill(~own, 0).sum(dim=1, keepdim=True) - level) + (0 if whole else kappa)
    rivals = ~own & (z == level)
    slope = s if whole else torch.where(lead >= 0, s, 0.0)
    part = slope / rivals.sum(dim=1, keepdim=True)
    return -(lead if whole else lead.clamp(min=0)), torch.where(own, -slope, torch.where(rivals, part, 0.0))


def _soft_margin(z: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    others = z.masked_fill(own, -torch.inf)
    top = others.amax(dim=1, keepdim=True)
    e = (others - top).exp()
    total = e.sum(dim=1, keepdim=True)
    value = total.log() + (top - z.masked_fill(~own, 0).sum(dim=1, keepdim=True))
    return value, torch.where(own, -1.0, e / total)


def _ratio(z: Tensor, y: Tensor, own: Tensor, goal: Tensor | None) -> tuple[Tensor, Tensor]:
    order = z.argsort(dim=1, descending=True, stable=True)
    best, third = order[:, :1], order[:, 2:3]
    if goal is None:
        fourth, rival = third, torch.where(best == y, order[:, 1:2], best)
    else:
        fourth, rival = order[:, 3:4], goal.clamp(0, z.shape[1] - 1).unsqueeze(1)
    span = z.gather(1, best) - (z.gather(1, third) + z.gather(1, fourth)) / 2 + 1e-12
    value = (z.gather(1, rival) - z.gather(1, y)) / span
    classes = torch.arange(z.shape[1], device=z.device)
    ahead = (classes == rival).double() - own.double()
    apart = (classes == best).double() - 0.5 * (classes == third).double() - 0.5 * (classes == fourth).double()
    return value, (ahead - value * apart) / span


def _probability_margin(z: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    others = z.masked_fill(own, -torch.inf)
    level, rival = others.amax(dim=1, keepdim=True), others.argmax(dim=1, keepdim=True)
    top = z.amax(dim=1, keepdim=True)
    e, rest = (others - level).exp(), (others - top).exp().sum(dim=1, keepdim=True)
    ahead, label = 1 + e.sum(dim=1, keepdim=True), z.gather(1, y)
    total = (label - top).exp() + rest
    log_total = torch.where(z.argmax(dim=1, keepdim=True) == y, rest.log1p(), total.log())
    p = (z - top).exp() / total
    e = e + (torch.arange(z.shape[1], device=z.device) == rival)
    return (level - top) + ahead.log() - log_total, torch.where(own, -p, e / ahead - p)


def _divergence(z: Tensor, natural: Tensor, kl_weight: float, squared: bool) -> tuple[Tensor, Tensor]:
    log_q, log_p = z.log_softmax(dim=1), natural.log_softmax(dim=1)
    p, weight = log_p.exp(), kl_weight if squared else 1.0
    term = torch.where(p == 0, 0.0, p * (log_p - log_q))
    value = weight * term + (term.square() if squared else 0.0)
    pull = p * (weight + (2 * term if squared else 0.0))
    slope = log_q.exp() * pull.sum(dim=1, keepdim=True) - pull
    return value.sum(dim=1, keepdim=True), slope
