"""Self-paced adversarial training (Hou: thesis, chapter 3)."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import PGD
from ..losses import kl, self_paced_consistency
from ._adversarial import AttackMethod, both, report
from ._method import Batch, check_weight


@dataclass
class SPAT(AttackMethod):
    """Self-paced AT, on a head that compares by cosine.

    The loss is ``L_acc(x, y) + lam L_rob(x, x_adv)`` (equation 3.9). `L_acc` is cross-entropy on logits that are
    multiplied by how far their cosines are from where they should be: ``1 - cos_y + beta`` for the label and ``cos_j +
    beta`` for the other classes (3.10, 3.11). `L_rob` is ``alpha KL(p || q) + sum_j (p_j log(p_j / q_j))^2`` (3.14,
    3.15) of the predictions p at x and q at x_adv, and PGD maximises the same. The network ends in a
    `fastadv.models.CosineHead`; where it is another linear layer, the cosines are those of its input and rows, and the
    logits its own (Table 3.8, CE).

    Printed and chosen: the factors of (3.11) can be negative, and a negative factor rewards a class that is far away
    for coming nearer. By default they are clamped at 0, because their text says that far classes count less. Whether a
    gradient flows through them is not printed; `detach` has it either way.

    Args:
        attack: PGD with the loss ``spat``. It has the loss ``kl`` where `pace_robustness` is off. Its `kl_weight` is
            set to `alpha`. By default it starts from noise that is not clipped to the bounds (Algorithm 1, line 6).
        alpha: weight of the divergence in the robust loss.
        beta: what is left of the factors at ideal cosines.
        lam: weight of the robust loss.
        pace_accuracy: pace the clean loss. Without it, `L_acc` is cross-entropy.
        pace_robustness: pace the robust loss. Without it, `L_rob` is the divergence.
        clamp: clamp the factors at 0. Without it, they are as printed.
        detach: let no gradient flow through the factors.
    """

    attack: PGD = field(
        default_factory=lambda: PGD(
            eps=8 / 255, alpha=2 / 255, steps=10, random_start="gaussian-unclipped", loss="spat"
        ),
        kw_only=True,
    )
    alpha: float = 0.2
    beta: float = 0.2
    lam: float = 6.0
    pace_accuracy: bool = True
    pace_robustness: bool = True
    clamp: bool = True
    detach: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "lam"):
            check_weight(name, getattr(self, name))
        loss = "spat" if self.pace_robustness else "kl"
        self.attack = dataclasses.replace(self.attack, loss=loss, kl_weight=self.alpha)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x_adv = self.examples(model, batch)
        with cosines_of(model) as seen:
            clean, adversarial = both(model, batch.x, x_adv)
        report(batch, clean, adversarial)
        cosines = seen[0][: len(clean)] if seen else clean[:, :0]  # of the natural samples, which come first
        if cosines.shape != clean.shape:
            raise ValueError(
                f"SPAT needs a network that ends in a linear layer with a row for each of {clean.shape[1]} classes, or "
                "better in cosines: fastadv.models.with_cosine_head(network, scale=5)"
            )
        return self.accuracy_loss(clean, cosines, batch.y) + self.lam * self.robustness_loss(clean, adversarial)

    def accuracy_loss(self, logits: Tensor, cosines: Tensor, y: Tensor) -> Tensor:
        """`L_acc` of logits and cosines [B, K] at the natural samples."""
        if not self.pace_accuracy:
            return self.cross_entropy(logits, y)
        label = F.one_hot(y, cosines.shape[1]).to(cosines.dtype)
        pace = cosines + self.beta + label * (1 - 2 * cosines)  # at the label, 1 - cos + beta
        pace = pace.clamp_min(0) if self.clamp else pace
        return self.cross_entropy((pace.detach() if self.detach else pace) * logits, y)

    def robustness_loss(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """`L_rob` of the logits [B, K] at natural and adversarial samples."""
        if not self.pace_robustness:
            return kl(adversarial, clean).mean()
        return self_paced_consistency(adversarial, clean, self.alpha).mean()


@contextmanager
def cosines_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that receives, at every forward pass, the cosines between the last linear layer's input and its rows."""

    def see(layer: nn.Linear, inputs: tuple[Tensor], _: Tensor) -> None:
        seen.append(F.linear(F.normalize(inputs[0]), F.normalize(layer.weight)))

    seen: list[Tensor] = []
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(see) for module in linear[-1:]]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
