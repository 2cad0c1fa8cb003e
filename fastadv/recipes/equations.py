"""Equations and theorems of the papers in numbers, each side by code of its own; some of them do not hold.

Bilateral AT (Wang and Zhang), equations 7 to 34; friendly AT (Zhang et al., 2020), Theorem 1; SMD (Ma and Liang),
Theorem 3.1 and equations 5 to 18; Hou's thesis, Lemma 1 and equations 2.11 and 4.2 to 4.6. In float64, on samples and
networks that are small enough for closed forms.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..attacks import EPGD, FGSM, PGD, FriendlyPGD
from ..runs import make_folder
from ..trainers import SMD, Batch, DRAFineTuning, FGSMTraining
from ..trainers.bilateral import nearest_label
from ._files import write_rows
from .propositions import bisect


class Row(NamedTuple):
    """``left relation right``, and whether it `holds`: ``=`` to 1e-9 of the larger, ``~`` to the digits printed."""

    paper: str
    equation: str
    what: str
    left: float
    relation: str
    right: float
    holds: bool


def holds(left: float, relation: str, right: float, digits: int = 2) -> bool:
    """Whether ``left relation right``; ``~`` to half a unit of the last of `digits` after the point."""
    compare: dict[str, Callable[[], bool]] = {
        "=": lambda: math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12),
        "~": lambda: abs(left - right) <= 0.5 * 10.0**-digits,
        "<": lambda: left < right,
        "<=": lambda: left <= right * (1 + 1e-12),
    }
    return compare[relation]()


class Paper:
    """Collects the rows of one paper."""

    def __init__(self, name: str):
        self.name, self.rows = name, list[Row]()

    def row(
        self, equation: str, what: str, left: float | Tensor, relation: str, right: float | Tensor, digits: int = 2
    ) -> None:
        left, right = (float(side.detach()) if isinstance(side, Tensor) else side for side in (left, right))
        sides = left, relation, right
        self.rows.append(Row(self.name, equation, what, *sides, holds(*sides, digits)))


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --------------------------------------------------------------------------------------------------------- bilateral


def alternating(point: Tensor, y: Tensor, eps: Tensor, rounds: int = 500) -> Tensor:
    """The nearest point to `point` [B, K] in S_y (equation 9): probabilities within `eps` [B] of the one-hot `y`.

    By Dykstra's projections onto the box and the plane in turn.
    """
    low, high = (y - eps.unsqueeze(1)).clamp_min(0), (y + eps.unsqueeze(1)).clamp_max(1)
    correction = torch.zeros_like(point)
    for _ in range(rounds):
        boxed = torch.minimum(torch.maximum(point + correction, low), high)
        correction = point + correction - boxed
        point = boxed - (boxed.sum(1, keepdim=True) - 1) / boxed.shape[1]
    return point


def bilateral(beta: float = 9.0, gamma: float = 0.01) -> list[Row]:
    """Adversarial labels of 10 classes."""
    paper = Paper("Bilateral AT")
    logits, labels = 3 * draw(64, 10), torch.arange(64) % 10
    y = F.one_hot(labels, 10).double()
    n, wrong = 10, y == 0
    v = -logits.log_softmax(1)
    least, most = (v.masked_fill(~wrong, fill) for fill in (math.inf, -math.inf))
    v_mc, v_ll = least.amin(1), most.amax(1)
    total = (v * wrong).sum(1)

    soft = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, soft, reduction="sum"), soft)
    paper.row("13", "norm of the gradient in the label, and of -log p", slope.norm(), "=", v.norm())

    main = ops.adversarial_labels(logits, labels, beta, gamma)
    sup = ops.adversarial_labels(logits, labels, beta, gamma, "sup")
    eps = 1 - (main * y).sum(1)
    spread = (v_ll - v_mc + gamma) / (total / (n - 1) - v_mc + gamma)
    paper.row("18", "mean eps_y", eps.mean(), "=", (1 / (1 + beta / (n - 1) * spread)).mean())
    share = (eps / (n - 1)).unsqueeze(1) * (v - v_mc.unsqueeze(1) + gamma)
    share = share / (total / (n - 1) - v_mc + gamma).unsqueeze(1) * wrong
    paper.row("14", "norm of the wrong shares", (main * wrong).norm(), "=", share.norm())
    paper.row("16", "the true share, and beta times the largest wrong one, means", (main * y).sum(1).mean(), "=",
              beta * (main * wrong).amax(1).mean())  # fmt: skip

    equal = torch.zeros(1, n, dtype=torch.float64)
    for multiplier, printed in ((81, 0.1), (9, 0.5), (1, 0.9)):
        smooth = ops.adversarial_labels(equal, labels[:1], float(multiplier), gamma)
        paper.row("19", f"eps_y of equal gradients, beta {multiplier}", 1 - smooth[0, 0], "=", printed)
        paper.row("15", f"a wrong share, beta {multiplier}", smooth[0, 1], "=", printed / (n - 1))
    one = equal.clone()
    one[0, 1] = -1000.0
    true = ops.adversarial_labels(one, labels[:1], beta, gamma)[0, 0]
    paper.row("20", "eps_y where one class has all the gradient", 1 - true, "~", 1 / (1 + beta), 3)
    paper.row("21", "1 / (1 + beta), and the least eps_y", 1 / (1 + beta), "<", eps.min())
    paper.row("21", "the largest eps_y, and 1 / (1 + beta / (n - 1))", eps.max(), "<=", 1 / (1 + beta / (n - 1)))

    step = 1 / (total + beta * v_ll)
    moved = y + step.unsqueeze(1) * v

    def projected(point: Tensor) -> Tensor:
        return nearest_label(point, y - eps.unsqueeze(1), y + eps.unsqueeze(1))

    paper.row("12", "norm of the projection in one pass, and by Dykstra's algorithm", projected(moved).norm(), "~",
              alternating(moved, y, eps).norm(), 8)  # fmt: skip
    right = v.argmin(1) == labels
    kept, given = (projected(y + 1e3 * v) * y).sum(1), 1 - eps
    for name, those in (("correctly classified", right), ("misclassified", ~right)):
        what = f"mean true share with a long step, and 1 - eps_y, of {name} samples"
        paper.row("12", what, kept[those].mean(), "=", given[those].mean())
    paper.row("29, 30", "norm of the wrong shares of (26), and of alpha times the gradient", (sup * wrong).norm(), "=",
              (step.unsqueeze(1) * v * wrong).norm())  # fmt: skip

    def loss(shares: Tensor) -> Tensor:
        """(25) at the eps_y of (18), of wrong shares in proportion to `shares`."""
        shares = shares * wrong
        label = (1 - eps).unsqueeze(1) * y + eps.unsqueeze(1) * shares / shares.sum(1, keepdim=True)
        return F.cross_entropy(logits, label)

    paper.row("25", "the loss at labels of (26), and of (14), at equal eps_y", loss(sup), "<", loss(main))
    paper.row("25", "the loss at labels of (14), and of (12) with a long step", loss(main), "<",
              F.cross_entropy(logits, projected(y + 1e3 * v)))  # fmt: skip
    confusing = F.one_hot(least.argmin(1), n).double()
    for small in (gamma, 1e-9):
        confusing = F.one_hot(least.argmin(1), n).double()
        more = ((ops.adversarial_labels(logits, labels, beta, small) - sup) * confusing).sum(1).max()
        paper.row(
            "33", f"largest excess of (14) over (26) in the most confusing class, gamma {small:g}", more, "<", 0.0
        )

    network = nn.Linear(20, n).double()
    network.weight.data, network.bias.data = draw(n, 20, seed=1), draw(n, seed=2)
    x = 0.5 + 0.1 * draw(64, 20, seed=3).tanh()
    natural, eps_x = x.clone().requires_grad_(), 8 / 255
    at = F.cross_entropy(network(natural), labels, reduction="sum")
    (grad,) = torch.autograd.grad(at, natural)
    x_adv = FGSM(eps_x)(network, x, labels)
    along = (grad * (x_adv - x)).sum()
    paper.row("7", "gradient times the step of FGSM, and eps_x times its L1 norm", along, "=", eps_x * grad.abs().sum())
    scores = network(x).detach()
    y_adv = ops.adversarial_labels(scores, labels, beta, gamma)
    u = -scores.log_softmax(1)
    budgets = (y_adv - y).abs().amax(1)
    paper.row("5, 7", "the expansion at x' and y', and its bound", at + along + (u * (y_adv - y)).sum(), "<=",
              at + eps_x * grad.abs().sum() + (budgets * u.abs().sum(1)).sum())  # fmt: skip
    return paper.rows


# ---------------------------------------------------------------------------------------------------------- friendly


class Line(nn.Module):
    """Logits (0, w . x + b) of samples [B, D]."""

    def __init__(self, w: Tensor, b: float):
        super().__init__()
        self.w, self.b = nn.Parameter(w), b

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.w + self.b
        return torch.stack((torch.zeros_like(score), score), dim=1)


def friendly(eps: float = 0.1, rho: float = 0.1) -> list[Row]:
    """Theorem 1 for two classes and a line, where inner problems have closed forms; the loss is binary logarithmic."""
    paper = Paper("Friendly AT")
    w = torch.tensor([4.0, -3.0], dtype=torch.float64)
    model, x = Line(w, -0.5), 0.5 + 0.3 * draw(500, 2).tanh()
    y = (x @ w - 0.5 + 0.5 * draw(500, seed=1) > 0).long()
    sign, reach = 2.0 * y - 1, eps * float(w.abs().sum())
    margin = sign * (x @ w - 0.5)

    def loss(margin: Tensor) -> Tensor:
        """-log2 of the probability of the label, which is 1 on the boundary and bounds the 0/1 loss."""
        return F.softplus(-margin) / math.log(2)

    def margin_at(x: Tensor) -> Tensor:
        return sign * (x @ w - 0.5)

    fooled, right = margin - reach < 0, margin > 0
    pgd = PGD(eps, eps / 4, 20, random_start=0)
    errors = model(pgd(model, x, y)).argmax(1) != y
    robust = fooled.double().mean()
    paper.row("Lemma 1", "errors under PGD, and natural ones with those next to the boundary",
              errors.double().mean(), "=", (~right).double().mean() + (fooled & right).double().mean())  # fmt: skip
    # The loss of the label above that of the other class is the margin turned round, in units of log 2.
    confident = rho * math.log(2)
    best = torch.minimum(margin + reach, torch.full_like(margin, -confident))
    wrong = margin - reach <= -confident
    star = torch.where(wrong, loss(best) + rho, loss(margin - reach))
    paper.row("Theorem 1", "adversarial risk, and its bound", robust, "<=", loss(margin).mean() + star.mean())
    paper.row("Theorem 1", "the second term, and that of TRADES, the largest loss", star.mean(), "<",
              loss(margin - reach).mean())  # fmt: skip
    attack = FriendlyPGD(eps, alpha=5e-4, steps=201, tau=0, random_start=0)
    near = attack(model, x, y)
    stopped = fooled & right
    paper.row("Section 3.1", "loss at friendly samples that were right and can be fooled, and the least of a wrong one",
              loss(margin_at(near))[stopped].mean(), "~", loss(torch.zeros(1)))  # fmt: skip
    least = loss((margin + reach).clamp_max(0))[~right].mean()
    paper.row("Section 3.1", "loss at friendly samples that were wrong, and the least within the ball while wrong",
              loss(margin_at(near))[~right].mean(), "~", least)  # fmt: skip
    firm = FriendlyPGD(eps, alpha=5e-4, steps=201, tau=0, random_start=0, rho=confident)(model, x, y)
    least = (loss(margin_at(firm)) - loss(-margin_at(firm)))[wrong & right].min()
    paper.row(
        "Section 3.1", "rho, and the least margin of losses of friendly samples that can have it", rho, "<=", least
    )
    return paper.rows


# --------------------------------------------------------------------------------------------------------------- smd


def smd() -> list[Row]:
    """The optimal state, on EPGD's samples of three classes, and what rho is derived from."""
    paper = Paper("SMD")
    model = nn.Linear(2, 3).double()
    angle = torch.arange(3) * (2 * math.pi / 3)
    model.weight.data = 8 * torch.stack((angle.cos(), angle.sin()), dim=1).double()
    model.bias.data = -0.5 * model.weight.data.sum(1)
    x = 0.5 + 0.15 * draw(600, 2).tanh()
    y = model(x).argmax(1)
    x_adv = EPGD(eps=0.4)(model, x, y)
    p = model(x_adv).softmax(1).detach()
    own = p.gather(1, y.unsqueeze(1)).squeeze(1)
    rival, other = p.scatter(1, y.unsqueeze(1), 0).max(1)
    by_class = sum(-own[y == i].log().sum() for i in range(3))
    by_side = sum(-own[(y == i) & (other == j)].log().sum() for i in range(3) for j in range(3) if i != j)
    paper.row("5 to 8", "loss by class, and by class and boundary", by_class, "=", by_side)
    both, bound = -(own * rival).log().mean(), -2 * ((own + rival) / 2).log().mean()
    paper.row("9", "the bound, and the loss on either side of a boundary", bound, "<=", both)
    paper.row("9", "the same where samples are just before the boundary", bound, "~", both)
    for q_i, q_j in ((0.5, 0.5), (0.7, 0.3)):

        def slope(p: Tensor, q_i: float = q_i, q_j: float = q_j) -> Tensor:
            return torch.func.grad(lambda p: (-q_i * p.log() - q_j * (1 - p).log()).sum())(p)

        ends = torch.tensor([1e-9], dtype=torch.float64)
        least = bisect(slope, ends, 1 - ends)
        name = f"p_i where F_i + F_j is least, and q_i / (q_i + q_j), q_i {q_i:g}, q_j {q_j:g}"
        paper.row("10, 11", name, least, "=", q_i / (q_i + q_j))

    def push(denser: float) -> Tensor:
        """How E pulls at a boundary from equal probabilities: its gradient in a shift and in a tilt, of samples all
        along the boundary; those of the second class are more to one end where `denser` is above 1.
        """
        place = torch.linspace(0, 1, 1001, dtype=torch.float64)
        moved = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        first, second = (moved[0] + moved[1] * t for t in (place, place.flip(0) ** denser))
        expected = F.softplus(-first).mean() + F.softplus(second).mean()
        return torch.autograd.grad(expected, moved)[0].norm()

    for alike, denser in (("alike", 1), ("differently, against its premise", 2)):
        what = f"pull of E at a boundary on which both classes' samples are spread {alike}, and 0"
        paper.row("Theorem 3.1", what, push(denser), "<=", 0.0)

    step, largest = 2 / 255, 128 / 255

    def rho(mean: float, unit: float = 1.0) -> float:
        """(16) for a mean margin, counted in `unit`."""
        return math.exp(math.log(1 - step / largest) / (mean / unit))

    def series(rho: float, mean: float) -> float:
        """(15), 100,000 terms of it."""
        return sum(step * rho ** (mean * k) for k in range(100_000))

    paper.row("15, 16", "the sum of all steps at the rho of (16), and the largest margin",
              series(rho(largest / 2), largest / 2), "=", largest)  # fmt: skip
    paper.row(
        "15", "the sum of all steps at rho 0.9, and the largest margin", series(SMD().rho, largest / 2), "~", largest
    )
    paper.row("17", "the rho in use, and (16), to one digit", SMD().rho, "~", rho(largest / 2), 1)
    paper.row("17", "the same with the mean margin in grey levels, as rho is used in (13)", SMD().rho, "~",
              rho(largest / 2, 1 / 255), 1)  # fmt: skip
    paper.row("18", "rho of a mean margin of a quarter, and of a half, of the largest", rho(largest / 4), "<",
              rho(largest / 2))  # fmt: skip
    paper.row("18", "rho of a mean margin just below a half of the largest, and 0.9", rho(0.49 * largest), "<", 0.9)
    return paper.rows


# ------------------------------------------------------------------------------------------------------------ thesis


def thesis() -> list[Row]:
    """The gradient of untargeted attacks, weights of the losses, and the multiplier of the constraint."""
    paper = Paper("Hou's thesis")
    w, a = draw(10, 8), draw(8, 20, seed=1) / 4
    for doubt in (0.1, 1e-6):
        x = draw(20, seed=2).requires_grad_()
        z = (a @ x).tanh()
        label = int((w @ z).argmax())
        gap = torch.zeros(10, dtype=torch.float64)
        gap[label] = 1.0
        logits = w @ z  # and a bias for the label that makes its probability 1 - doubt
        rest = logits.masked_fill(gap.bool(), -math.inf).logsumexp(0)
        logits = logits + gap * (rest - logits[label] + math.log(1 / doubt - 1)).detach()
        (slope,) = torch.autograd.grad(-logits.log_softmax(0)[label], x)
        sigma, inner = logits.softmax(0).detach(), ((1 - z**2).unsqueeze(1) * a).detach()
        kept = (sigma * (1 - gap)) @ w @ inner
        left_out = (1 - sigma[label]) * (w[label] @ inner)
        about = f"a label of probability 1 - {doubt:g}"
        paper.row(
            "Lemma 1, 3.7",
            f"norm of the gradient, and of (3.7), {about}, relative",
            1.0,
            "~",
            kept.norm() / slope.norm(),
        )
        paper.row("Lemma 1, proof", f"norm of the gradient, and with the label's own term, {about}", slope.norm(), "=",
                  (kept - left_out).norm())  # fmt: skip
        paper.row("Lemma 1, proof", f"norm of the term left out in shares of (3.7), and 0, {about}",
                  left_out.norm() / kept.norm(), "~", 0.0)  # fmt: skip

    network = nn.Linear(20, 10).double()
    network.weight.data, network.bias.data = draw(10, 20, seed=3), draw(10, seed=4)
    x, y = 0.5 + 0.1 * draw(32, 20, seed=5).tanh(), torch.arange(32) % 10
    x_adv = FGSM(0.1)(network, x, y)
    clean, adversarial = (F.cross_entropy(network(each), y).detach() for each in (x, x_adv))

    def trained(method: FGSMTraining | DRAFineTuning) -> Tensor:
        method.attack = FGSM(0.1)
        return method.loss(network, Batch(x, y, torch.arange(32))).detach()

    for alpha in (0.5, 0.8):
        method = FGSMTraining(attack=FGSM(0.1), label_smoothing=0, beta=(1 - alpha) / alpha)
        paper.row("2.11", f"alpha times the loss of fgsm with beta (1 - alpha) / alpha, alpha {alpha:g}",
                  alpha * trained(method), "=", alpha * clean + (1 - alpha) * adversarial)  # fmt: skip
    for beta in (1.0, 3.0):
        method = DRAFineTuning(attack=FGSM(0.1), last_eps=None, beta=beta)
        paper.row("4.2", f"the loss of dra times 1 + beta, beta {beta:g}", (1 + beta) * trained(method), "=",
                  clean + beta * adversarial)  # fmt: skip
        paper.row("4.5", f"the same times lambda = 1 / beta, without the constant, lambda {1 / beta:g}",
                  (1 + beta) / beta * trained(method), "=", adversarial + clean / beta)  # fmt: skip

    # One parameter t: the standard loss t^2 is least at 0, the adversarial one (t - 1)^2 at 1. What (4.4) allows is
    # t = 0 alone.
    def at(lam: float) -> Tensor:
        """The t that minimises (4.5)."""
        ends = torch.tensor([-2.0], dtype=torch.float64)
        return bisect(torch.func.grad(lambda t: ((t - 1) ** 2 + lam * t**2).sum()), ends, -ends)

    paper.row("4.6", "minimised over theta and lambda > 0, and what (4.4) allows", at(1e-12), "~", 0.0)
    paper.row("4.6", "the same at the largest over lambda, here 1e6, and what (4.4) allows", at(1e6), "~", 0.0)
    paper.row("4.4", "the standard loss at lambda 1e6, and at theta_std", at(1e6) ** 2, "<=", 0.0)
    return paper.rows


def findings() -> list[Row]:
    """All rows."""
    with torch.enable_grad():
        return [*bilateral(), *friendly(), *smd(), *thesis()]


def reproduce(folder: Path, *, epochs: int | None = None, on_step: object = None) -> list[Row]:
    """Writes ``equations.csv`` to `folder`, and returns what it says.

    Raises ValueError where `epochs` are given: nothing is trained, and `on_step` is never called.
    """
    if epochs is not None:
        raise ValueError(f"equations train nothing: leave epochs out, got {epochs}")
    make_folder(folder)
    rows = findings()
    write_rows(rows, folder / "equations.csv")
    return rows
