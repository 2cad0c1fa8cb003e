"""Losses of single samples, [B], from logits [B, K] and labels `y` [B], in float32 at least. Attacks maximise them.

Sums over a batch of per-sample losses give per-sample gradients, whatever the batch; means would not.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy ``-log softmax(logits)[y]``, [B], from logits [B, K] and labels `y` [B]."""
    return F.cross_entropy(wide(logits), y, reduction="none")


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """How far class `y` [B] leads the best other, ``z_y - max_{j != y} z_j``, [B]; positive where logits are right."""
    logits = wide(logits)
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return true - logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(dim=1)


def margin(logits: Tensor, y: Tensor, kappa: float = 50.0) -> Tensor:
    """The margin loss ``-max(z_y - max_{j != y} z_j + kappa, 0)``, [B], of Carlini and Wagner (2017).

    `kappa` is the confidence in another class at which the loss stops growing. 0 stops at the decision boundary; 50,
    the usual value, is not reached in practice.
    """
    ahead = lead(logits, y) + kappa
    return -torch.where(ahead < 0, 0.0, ahead)  # the slope of clamp at its bound changed in PyTorch 2.14


def soft_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The soft margin ``log sum_{j != y} exp z_j - z_y``, [B], of MMA training (Ding et al., 2020)."""
    logits = wide(logits)
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).logsumexp(dim=1) - true


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio ``-(z_y - max_{j != y} z_j) / (z_1st - z_3rd + 1e-12)``, [B] (Croce and Hein, 2020).

    Shifted and scaled logits give the same value. Raises ValueError for fewer than three classes.
    """
    logits = wide(logits)
    if logits.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, the model has {logits.shape[1]}; use ce or margin")
    best = logits.topk(3, dim=1).values
    return -lead(logits, y) / (best[:, 0] - best[:, 2] + 1e-12)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The probability margin as ``log(1 + max_{j != y} p_j - p_y)``, [B] (Xie et al., 2024: PMA).

    The logarithm orders points as the margin itself does, and still tells them apart where p_y is all but 1.
    """
    z = wide(logits)
    others = z.scatter(1, y.unsqueeze(1), -torch.inf)
    rival = others.gather(1, others.argmax(dim=1, keepdim=True))
    ahead = torch.cat([others, rival], dim=1)  # the likeliest of them counts twice
    return ahead.logsumexp(dim=1) - z.logsumexp(dim=1)


def dlr_targeted(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """The DLR loss of an attack from `y` to `goal`, ``-(z_y - z_goal) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12)``.

    [B], from labels `y` and `goal` [B] (Croce and Hein, 2020). Raises ValueError for fewer than four classes.
    """
    logits = wide(logits)
    if logits.shape[1] < 4:
        raise ValueError(
            f"the targeted DLR loss needs at least 4 classes, the model has {logits.shape[1]}; use ce or margin"
        )
    best = logits.topk(4, dim=1).values
    lead = (logits.gather(1, goal.unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))).squeeze(1)
    return lead / (best[:, 0] - (best[:, 2] + best[:, 3]) / 2 + 1e-12)


def kl(logits: Tensor, natural: Tensor) -> Tensor:
    """``KL(softmax(natural) || softmax(logits))``, [B], from two sets of logits [B, K] (Zhang et al., 2019: TRADES)."""
    log_p, log_q = wide(natural).log_softmax(dim=1), wide(logits).log_softmax(dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def boosted_cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-log p_y - log(1.0001 - max_{j != y} p_j)``, [B]: the BCE of MART (Wang et al., 2020).

    The second term is a margin; 1.0001 bounds it, as in the published code. The first is a cross-entropy, in which
    `label_smoothing` is the share of the label spread over all classes.
    """
    p = wide(logits).softmax(dim=1)
    rival = p.scatter(1, y.unsqueeze(1), 0).amax(dim=1)
    surprise = F.cross_entropy(wide(logits), y, reduction="none", label_smoothing=label_smoothing)
    return surprise - (1.0001 - rival).log()


def self_paced_consistency(logits: Tensor, natural: Tensor, kl_weight: float = 0.2) -> Tensor:
    """``kl_weight KL(p || q) + sum_j (p_j log(p_j / q_j))^2``, [B], with p of `natural` and q of `logits`.

    From two sets of logits [B, K] (Hou, 2022: SPAT, equations 3.14 and 3.15).
    """
    log_p, log_q = wide(natural).log_softmax(dim=1), wide(logits).log_softmax(dim=1)
    terms = log_p.exp() * (log_p - log_q)
    return kl_weight * terms.sum(dim=1) + terms.square().sum(dim=1)


def wide(logits: Tensor) -> Tensor:
    """`logits`, at least in float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "margin": margin,
    "slm": soft_margin,
    "dlr": dlr,
    "pm": probability_margin,
}
"""The losses that compare logits with labels."""
