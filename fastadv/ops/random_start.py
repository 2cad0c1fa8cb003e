"""Where attacks start: a sample and noise that is its own."""

import torch
from torch import Tensor

from ._op import op
from ._reference import as_rows, compute, norm_of

LAWS = ("uniform", "sign", "gaussian", "l2", "l1")


@op(
    "(Tensor x, Tensor ids, Tensor eps, int seed, int restart=0, str law='uniform', "
    "float lo=0., float hi=1., Tensor? active=None) -> Tensor",
    samples=("x",),
    budgets=("eps",),
    choices={"law": LAWS},
    fake=lambda x, *args, **kwargs: torch.empty_like(x),
)
def random_start(
    x: Tensor,
    ids: Tensor,
    eps: float | Tensor,
    seed: int,
    restart: int = 0,
    law: str = "uniform",
    lo: float = 0.0,
    hi: float = 1.0,
    active: Tensor | None = None,
) -> Tensor:
    """`x` [B, ...] plus noise of size `eps`, clipped to [lo, hi]; a new tensor.

    `law`: ``uniform`` in the L-infinity ball of radius `eps`, or ``sign``, its corners with equal chance; ``gaussian``
    of standard deviation `eps`; ``l2`` or ``l1``, uniform in that ball. The noise of a sample is a function of (`seed`,
    `ids`, `restart`) and of nothing else: neither batch, order, device, dtype nor memory format. `ids` is int64 [B].
    Generator: Philox4x32-10 (Salmon et al., SC 2011), 24 bits an element.
    """
    cols = x[0].numel() if x.shape[0] else 0
    bits = _philox(ids, seed, restart, range(-(-cols // 4))).flatten(1)[:, :cols].reshape(x.shape)
    here = compute(x)
    unit = _uniform(bits)  # in (-1, 1)
    if law == "uniform":
        noise = unit
    elif law == "sign":
        noise = unit.sign()
    elif law == "gaussian":
        noise = _normal(unit)
    else:
        noise = _normal(unit) if law == "l2" else -unit.sign() * unit.abs().log()
        radius = _philox(ids, seed, restart, range(0xFFFFFFFF, 0x100000000))[:, 0, 0]  # beyond any sample's elements
        radius = (0.5 + 0.5 * _uniform(radius)) ** (1 / max(1, cols))
        noise = as_rows(radius / norm_of(noise, 2 if law == "l2" else 1), noise) * noise
    noisy = (here + as_rows(eps, x) * noise.to(here.dtype)).clamp(lo, hi).to(x.dtype)
    out = torch.empty_like(x)
    return out.copy_(noisy if active is None else torch.where(as_rows(active, x), noisy, x))


def _uniform(bits: Tensor) -> Tensor:
    """24 of 32 bits as an odd multiple of 2^-24 in (-1, 1), float64."""
    return (2 * (bits >> 8) + 1 - (1 << 24)).double() * 2.0**-24


def _normal(unit: Tensor) -> Tensor:
    return torch.erfinv(unit) * 2**0.5


def _philox(ids: Tensor, seed: int, restart: int, blocks: range) -> Tensor:
    """Philox4x32-10 at counters (block, restart, id): [B, blocks, 4] of 32 random bits in int64."""
    low = 0xFFFFFFFF
    shape = (ids.shape[0], len(blocks))
    c0 = torch.arange(blocks.start, blocks.stop, device=ids.device).expand(shape)
    c1 = torch.full((), restart & low, device=ids.device).expand(shape)
    c2, c3 = (ids & low).unsqueeze(1).expand(shape), ((ids >> 32) & low).unsqueeze(1).expand(shape)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # Products of two 32-bit numbers wrap in int64, but keep all 64 bits.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & low) ^ c1 ^ k0, p1 & low, ((p0 >> 32) & low) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack((c0, c1, c2, c3), dim=-1)
