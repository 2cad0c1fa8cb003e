"""The front door for models: logits [B, K] from whatever a network returns, in whatever precision it computes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .normalize import Normalize

Pick = str | int | Callable[[Any], Any]
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Adapted(nn.Module):
    """`model` with its outputs as logits [B, K]; see `adapt`, which makes it."""

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        output: Pick | None = None,
        loss: Callable[[Any, Tensor], Tensor] | None = None,
        limit: float = 0.0,
    ):
        super().__init__()
        self.model, self.output, self.loss, self.limit = model, output, loss, limit

    def forward(self, x: Tensor) -> Any:
        """The logits [B, K] at `x` [B, ...]; with a loss of one's own, what that takes."""
        output = self.model(as_input(self.model, x))
        if self.output is not None:
            output = _chosen(output, self.output)
        if self.loss is None:
            return as_logits(output, x)
        return _logits_among(output, len(x), strict=False)

    def around(self, network: Callable[[Tensor], Any]) -> "Adapted":
        """`network`, another form of this model, with the same loss."""
        return Adapted(network, None, self.loss, self.limit)

    def losses(self, output: Any, y: Tensor) -> Tensor:
        """The loss of the user's own of every sample, [B]. Raises ValueError where it is not one number a sample."""
        loss = self.loss(output, y)
        if not isinstance(loss, Tensor) or loss.shape != y.shape[:1] or not loss.is_floating_point():
            raise ValueError(
                f"adapt: loss must return one floating-point number a sample, [{len(y)}], got {_kind(loss)}: "
                "take the mean over everything but the batch, and reduction='none'"
            )
        return loss

    def judged(self, output: Any, y: Tensor) -> Tensor:
        """Two logits [B, 2], 0 and how far the loss of the user's own is above its limit: above 0, a sample is wrong.

        Raises what `losses` raises.
        """
        return F.pad((self.losses(output, y) - self.limit).unsqueeze(1), (1, 0))

    def extra_repr(self) -> str:
        given = {"output": self.output, "loss": self.loss}
        return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)


def adapt(
    model: Callable[[Tensor], Any],
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    output: Pick | None = None,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    limit: float = 0.0,
) -> Adapted:
    """`model` as attacks, `evaluate` and `fit` take it: from samples [B, ...] in their own range to logits [B, K].

    Everything in fastadv that takes a model reads its outputs like this. You need this function where you have to say
    more: a normalisation, which of several outputs counts, or what an error is.

    | the model returns | logits |
    | --- | --- |
    | a tensor [B, K] | itself |
    | an object with ``.logits``, a mapping with ``"logits"`` | that |
    | a tuple or list in which one tensor alone can be logits | that one |
    | one logit, [B] or [B, 1] | two classes, 0 and that logit: the sigmoid of it is the probability of class 1 |

    Samples are cast to the floating-point type of the model's first parameter, and logits of 16 bits back to that of
    the samples. Budgets and perturbations so keep the precision of the samples.

    With a `loss` of your own, labels are whatever it takes: several labels a sample, numbers to predict, masks. Attacks
    raise that loss, or lower it if they are targeted, and a sample is wrong where it is above `limit`. To attacks this
    is a network with two classes, whose logits are 0 and ``loss - limit``; predictions are 0 for right and 1 for wrong.
    ``evaluate`` takes such labels from data of any kind, and a `Dataset` is made with ``classes=()``. ``fit`` minimises
    the mean loss, by the methods that need no classes.

    Args:
        model: a network or another callable. It is not changed, and shares its parameters with the result.
        mean: subtracted from samples before the model sees them: a number, or one a channel.
        std: divides the result, likewise.
        output: which output counts: a key or attribute, a position, or a function of all that the model returns.
        loss: ``loss(output, y)`` gives one number a sample, [B]. Without it, labels are classes.
        limit: the highest loss of a sample that counts as right.

    Raises ValueError for a `limit` without a `loss`; the result raises it for outputs that are none of the above.
    """
    if limit and loss is None:
        raise ValueError(f"adapt: limit {limit:g} is for a loss of your own: give it as loss")
    if mean is not None or std is not None:
        model = Normalize(model, 0.0 if mean is None else mean, 1.0 if std is None else std)
    if isinstance(model, Adapted) and output is None and loss is None:
        return model
    return Adapted(model, output, loss, limit)


def own_loss(model: object) -> bool:
    """Whether errors of `model` are what a loss of the user's own says."""
    return isinstance(model, Adapted) and model.loss is not None


def expected(model: object, y: Tensor) -> Tensor:
    """What predictions of `model` are where it is right, [B]: the labels `y`, or 0 with a loss of the user's own."""
    return torch.zeros(len(y), dtype=torch.int64, device=y.device) if own_loss(model) else y


def input_dtype(model: object) -> torch.dtype | None:
    """The type of the model's first floating-point parameter; None for what has none."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p.dtype for p in parameters if p.dtype in _DTYPES), None)


def as_input(model: object, x: Tensor) -> Tensor:
    """`x` as `model` computes: itself where the types are the same."""
    dtype = input_dtype(model)
    return x if dtype is None else x.to(dtype)


def logits_of(model: Callable[[Tensor], Any], x: Tensor) -> Any:
    """The logits [B, K] of `model` at `x` [B, ...], with their history; what a loss takes that is the user's own."""
    output = model(as_input(model, x))
    return output if own_loss(model) else as_logits(output, x)


def as_logits(output: Any, x: Tensor) -> Tensor:
    """The logits [B, K] in what a model returned for `x` [B, ...]; see `adapt`. Raises ValueError where there are none.

    Of fewer bits than `x`, they are cast to its type.
    """
    logits = output if isinstance(output, Tensor) else _logits_among(output, len(x))
    shape, same = logits.shape, logits.dtype == x.dtype
    if len(shape) != 2 or shape[0] != len(x) or shape[1] < 2:
        if shape not in ((len(x),), (len(x), 1)):
            raise _no_logits(output, x)
        logits = F.pad(logits.reshape(-1, 1), (1, 0))
    if same:
        return logits
    if not logits.is_floating_point():
        raise _no_logits(output, x)
    return logits.to(x.dtype) if logits.dtype.itemsize < x.dtype.itemsize else logits


def _no_logits(output: Any, x: Tensor) -> ValueError:
    return ValueError(
        f"the model must return logits [{len(x)}, classes] with at least 2 classes, or one logit a sample, got "
        f"{_kind(output)}. Choose an output, or give a loss of your own, with fastadv.adapt"
    )


def _logits_among(output: Any, samples: int, strict: bool = True) -> Any:
    """The one output that can be logits; unless `strict`, all of it where none can."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    found = [each for each in output if _could_be(each, samples)] if isinstance(output, list | tuple) else []
    if len(found) == 1:
        return found[0]
    if not strict:
        return output
    several = f", {len(found)} of which can be logits" if found else ""
    raise ValueError(
        f"the model must return logits [{samples}, classes], got {_kind(output)}{several}: say which counts, with "
        "fastadv.adapt(model, output=...)"
    )


def _could_be(value: Any, samples: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (1, 2) and len(value) == samples


def _chosen(output: Any, which: Pick) -> Any:
    if callable(which):
        return which(output)
    try:
        return getattr(output, which) if isinstance(which, str) and hasattr(output, which) else output[which]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"the model has no output {which!r}: it returns {_kind(output)}") from None


def _kind(value: Any) -> str:
    """What a model returned, in words."""
    if isinstance(value, Tensor):
        name = str(value.dtype).removeprefix("torch.")
        return f"{name} {tuple(value.shape)}" if not value.is_floating_point() else str(tuple(value.shape))
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {', '.join(map(_kind, value))}"
    return type(value).__name__
