"""Interval bounds of a network's logits (Gowal et al., 2018), over all perturbations of a size, rounding included.

A network is called with an `Interval` in place of a tensor: PyTorch asks it what each function makes of it. So any
forward works that is made of the functions in `_RULES`. Two things make bounds tighter than layer by layer: the last
linear layer is joined with the difference of two logits (section 3 there), and in L2 and L1 the first layer has the
dual norm of its weights.

Bounds are of the network in exact arithmetic. They are computed in float64 and widened after every layer: a sum of n
products is off by at most ``n u / (1 - n u)`` times the sum of their absolute values, in whatever order, u being 2^-53
(Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..attacks import Model, isolated
from ..models.adapted import Adapted, input_dtype

DUALS = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
"""The norms of perturbations, and the order of the dual norm of each."""


class Ball(NamedTuple):
    """Inputs ``center + scale * delta`` with a norm of delta up to `size`, each off by at most `error`.

    `center`, `error` [B, ...], `size` [B], `scale` [1, ...]; `dual`: the order of the dual norm, 2 or infinity.
    """

    center: Tensor
    size: Tensor
    scale: Tensor
    error: Tensor
    dual: float

    def map(self, change: Callable[[Tensor], Tensor]) -> "Ball":
        """With the elements of samples in another shape."""
        return self._replace(center=change(self.center), scale=change(self.scale), error=change(self.error))


class Last(NamedTuple):
    """The linear layer that made an interval, and of what."""

    x: "Interval"
    weight: Tensor
    bias: Tensor


class Interval:
    """All tensors between `low` and `high` [B, ...], float64. Stands in for a tensor in a network's forward.

    `ball`: the inputs as they are, until the first layer; `last`: set where a linear layer made it.
    """

    def __init__(self, low: Tensor, high: Tensor, ball: Ball | None = None, last: Last | None = None):
        self.low, self.high, self.ball, self.last = low, high, ball, last
        self.shared = False  # whether another has its elements in another shape

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if name.removesuffix("_") not in _RULES:
            raise NotImplementedError(f"there is no rule for {name}")
        kwargs = dict(kwargs or {})
        in_place = kwargs.pop("inplace", False) or name.endswith("_")
        found = _RULES[name.removesuffix("_")](*args, **kwargs)
        return args[0]._become(found) if in_place else found

    def _become(self, other: "Interval") -> "Interval":
        """What an operation in place does: whoever has this one, has the other."""
        if self.shared:
            raise NotImplementedError("there is no rule for operations in place on a tensor of another shape")
        self.__dict__.update(other.__dict__)
        return self

    def _moved(self, change: Callable[[Tensor], Tensor]) -> "Interval":
        """With its elements in another shape, which rounds nothing."""
        ball = None if self.ball is None else self.ball.map(change)
        found = Interval(change(self.low), change(self.high), ball)
        self.shared = found.shared = True
        return found

    def rows(self, index: Tensor) -> "Interval":
        """The samples at `index`."""
        ball = self.ball
        if ball is not None:
            ball = ball._replace(center=ball.center[index], size=ball.size[index], error=ball.error[index])
        return Interval(self.low[index], self.high[index], ball)

    # What forwards ask of a tensor.

    @property
    def shape(self) -> torch.Size:
        return self.low.shape

    @property
    def ndim(self) -> int:
        return self.low.dim()

    @property
    def device(self) -> torch.device:
        return self.low.device

    def size(self, dim: int | None = None) -> Any:
        return self.low.shape if dim is None else self.low.shape[dim]

    def dim(self) -> int:
        return self.low.dim()

    def __len__(self) -> int:
        return len(self.low)

    def to(self, *where: Any, **how: Any) -> "Interval":
        for each in (*where, *how.values()):
            if isinstance(each, torch.dtype) and each not in (torch.float32, torch.float64):
                raise NotImplementedError(f"there is no rule for rounding to {each}")
        return self

    def float(self) -> "Interval":
        return self

    double = float

    def contiguous(self, **_: Any) -> "Interval":
        return self

    def view(self, *shape: Any) -> "Interval":
        return _reshape(self, *shape)

    reshape = view

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Interval":
        return _flatten(self, start_dim, end_dim)

    def squeeze(self, dim: int) -> "Interval":
        return self._moved(lambda values: values.squeeze(dim))

    def __add__(self, other: Any) -> "Interval":
        return _add(self, other)

    __radd__ = __add__

    def __iadd__(self, other: Any) -> "Interval":
        return self._become(_add(self, other))

    def __sub__(self, other: Any) -> "Interval":
        return _sub(self, other)

    def __rsub__(self, other: Any) -> "Interval":
        return _sub(other, self)

    def __mul__(self, other: Any) -> "Interval":
        return _mul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Interval":
        return _div(self, other)

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no rule for {name}")


def _gamma(terms: int) -> float:
    """What a sum of so many products is off by in float64, as a share of the sum of their absolute values; in fact four
    times that, which covers the operations around it.
    """
    share = 4 * (terms + 2) * 2.0**-53
    return share / (1 - share)


def _widened(low: Tensor, high: Tensor, terms: int, more: Tensor | float = 0.0) -> Interval:
    """For the rounding of sums of so many terms that are as large as the ends and `more`."""
    error = _gamma(terms) * (torch.maximum(low.abs(), high.abs()) + more)
    return Interval(low - error, high + error)


# -------------------------------------------------------------------------------------------------- layers with weights


def _affine(x: Interval, weight: Tensor, bias: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> Interval:
    """``apply(x, weight) + bias``, apply being bilinear."""
    center, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
    gamma = _gamma(weight[0].numel())
    rounding = gamma * (center.abs() + radius)
    reach = apply(radius + rounding, weight.abs()) + gamma * bias.abs()
    middle = apply(center, weight) + bias
    low, high = middle - reach, middle + reach
    if x.ball is not None:
        ball = x.ball
        error = apply(rounding + ball.error, weight.abs()) + gamma * bias.abs()
        reach = (1 + gamma) * ops.as_rows(ball.size, low) * _dual(ball, weight, apply) + error
        middle = apply(ball.center, weight) + bias
        low, high = torch.maximum(low, middle - reach), torch.minimum(high, middle + reach)
    return Interval(low, high)


def _dual(ball: Ball, weight: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The dual norm of what every output multiplies the perturbation by, [1, ...].

    Of convolutions in L1, at most that: of each channel, the largest scale.
    """
    if ball.dual == 2:
        return apply(ball.scale**2, weight**2).sqrt()
    if weight.dim() == 2:
        return (weight.abs() * ball.scale).amax(1).unsqueeze(0)
    across = range(2, ball.scale.dim())
    same_channels = weight.shape[1] == ball.scale.shape[1]
    scale = ball.scale.amax(tuple(across), keepdim=True) if same_channels else ball.scale.max()
    largest = (weight.abs() * scale).flatten(1).amax(1)
    return largest.view(1, -1, *[1] * len(across))


def _linear(x: Interval, weight: Tensor, bias: Tensor | None = None) -> Interval:
    weight = weight.double()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
    x = Interval(x.low, x.high, x.ball if x.dim() == 2 else None)  # which no operation in place reaches
    found = _affine(x, weight, bias, F.linear)
    found.last = Last(x, weight, bias)
    return found


def _convolution(convolve: Callable[..., Tensor]) -> Callable[..., Interval]:
    def rule(x: Interval, weight: Tensor, bias: Tensor | None = None, *how: Any, **more: Any) -> Interval:
        weight = weight.double()
        bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
        shift = bias.view(-1, *[1] * (weight.dim() - 2))
        return _affine(x, weight, shift, lambda values, kernel: convolve(values, kernel, None, *how, **more))

    return rule


def _batch_norm(
    x: Interval,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Interval:
    if training or mean is None or var is None:
        raise NotImplementedError("there is no rule for batch norm by the statistics of the batch")
    columns = (1, -1, *[1] * (x.dim() - 2))
    mean, var = mean.double().view(columns), var.double().view(columns)
    scale = (var + eps).rsqrt() * (1.0 if weight is None else weight.double().view(columns))
    shift = 0.0 if bias is None else bias.double().view(columns)
    ends = (x.low - mean) * scale + shift, (x.high - mean) * scale + shift
    size = torch.maximum(x.low.abs(), x.high.abs()) * scale.abs() + (mean * scale).abs() + abs(shift)
    return _widened(torch.minimum(*ends), torch.maximum(*ends), 8, size)


# ----------------------------------------------------------------------------------------------------------- arithmetic


def _constant(x: Interval, value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=x.device)


def _shifted(x: Interval, value: Tensor) -> Interval:
    found = _widened(x.low + value, x.high + value, 1, value.abs())
    if x.ball is not None and found.shape == x.shape:  # copies of an element are perturbed together
        error = x.ball.error + (found.high - found.low - (x.high - x.low)) / 2
        found.ball = x.ball._replace(center=x.ball.center + value, error=error)
    return found


def _scaled(x: Interval, value: Tensor) -> Interval:
    ends = x.low * value, x.high * value
    found = _widened(torch.minimum(*ends), torch.maximum(*ends), 1)
    if x.ball is not None and found.shape == x.shape:  # copies of an element are perturbed together
        wide = _gamma(1) * torch.maximum(found.low.abs(), found.high.abs())
        ball = x.ball._replace(error=x.ball.error * value.abs() + wide)
        found.ball = ball._replace(center=ball.center * value, scale=ball.scale * value.abs())
    return found


def _add(x: Any, y: Any, *, alpha: float = 1) -> Interval:
    if alpha != 1:
        raise NotImplementedError("there is no rule for add with alpha")
    if not isinstance(x, Interval):
        x, y = y, x
    if not isinstance(y, Interval):
        return _shifted(x, _constant(x, y))
    return _widened(x.low + y.low, x.high + y.high, 1)


def _sub(x: Any, y: Any) -> Interval:
    if isinstance(x, Interval) and not isinstance(y, Interval):
        return _shifted(x, -_constant(x, y))
    return _add(-y, x)


def _mul(x: Any, y: Any) -> Interval:
    x, y = (x, y) if isinstance(x, Interval) else (y, x)
    if isinstance(y, Interval):
        raise NotImplementedError("there is no rule for products of what depends on the input")
    return _scaled(x, _constant(x, y))


def _div(x: Any, y: Any) -> Interval:
    if isinstance(y, Interval):
        raise NotImplementedError("there is no rule for a quotient by what depends on the input")
    return _scaled(x, 1 / _constant(x, y))


# --------------------------------------------------------------------------------------------- layers that are monotone


def _monotone(function: Callable[..., Tensor]) -> Callable[..., Interval]:
    """A function that does not fall in any element of its input, and does not round."""

    def rule(x: Interval, *how: Any, **more: Any) -> Interval:
        return Interval(function(x.low, *how, **more), function(x.high, *how, **more))

    return rule


def _mean(function: Callable[..., Tensor], terms: Callable[..., int]) -> Callable[..., Interval]:
    """A pooling by means of so many elements."""

    def rule(x: Interval, *how: Any, **more: Any) -> Interval:
        size = function(torch.maximum(x.low.abs(), x.high.abs()), *how, **more)
        low, high = function(x.low, *how, **more), function(x.high, *how, **more)
        return _widened(low, high, terms(x, *how), size)

    return rule


def _leaky_relu(x: Interval, negative_slope: float = 0.01) -> Interval:
    if negative_slope < 0:
        raise NotImplementedError("there is no rule for leaky ReLU with a negative slope")
    return _widened(F.leaky_relu(x.low, negative_slope), F.leaky_relu(x.high, negative_slope), 1)


def _dropout(x: Interval, p: float = 0.5, training: bool = True) -> Interval:
    if training:
        raise NotImplementedError("there is no rule for dropout in training")
    return x


def _reshape(x: Interval, *shape: Any) -> Interval:
    shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if shape[0] not in (len(x), -1):
        raise NotImplementedError("there is no rule for a shape without a row a sample")
    found = x.low.reshape(shape)
    if len(found) != len(x):
        raise NotImplementedError("there is no rule for a shape without a row a sample")
    return x._moved(lambda values: values.reshape(len(values), *found.shape[1:]))


def _flatten(x: Interval, start_dim: int = 0, end_dim: int = -1) -> Interval:
    if start_dim == 0:
        raise NotImplementedError("there is no rule for a shape without a row a sample")
    return x._moved(lambda values: values.flatten(start_dim, end_dim))


def _window(x: Interval, kernel: int | tuple[int, ...], *_: Any) -> int:
    return math.prod(kernel) if isinstance(kernel, tuple) else kernel ** (x.dim() - 2)


def _whole(x: Interval, *_: Any) -> int:
    return math.prod(x.shape[2:])


def _stack(parts: Sequence[Interval], dim: int = 0) -> Interval:
    """Of intervals alone."""
    low, high = (torch.stack([getattr(part, end) for part in parts], dim) for end in ("low", "high"))
    return Interval(low, high)


def _zeros_like(x: Interval) -> Interval:
    return Interval(torch.zeros_like(x.low), torch.zeros_like(x.high))


_RULES: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "conv1d": _convolution(F.conv1d),
    "conv2d": _convolution(F.conv2d),
    "batch_norm": _batch_norm,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "relu": _monotone(F.relu),
    "hardtanh": _monotone(F.hardtanh),
    "pad": _monotone(F.pad),
    "max_pool1d": _monotone(F.max_pool1d),
    "max_pool2d": _monotone(F.max_pool2d),
    "adaptive_max_pool2d": _monotone(F.adaptive_max_pool2d),
    "leaky_relu": _leaky_relu,
    "avg_pool2d": _mean(F.avg_pool2d, _window),
    "adaptive_avg_pool2d": _mean(F.adaptive_avg_pool2d, _whole),
    "dropout": _dropout,
    "dropout2d": _dropout,
    "reshape": _reshape,
    "flatten": _flatten,
    "stack": _stack,
    "zeros_like": _zeros_like,
}

# -------------------------------------------------------------------------------------------------------------- margins


def enclosed(model: Model, x: Tensor, low: Tensor, high: Tensor, size: Tensor, norm: str = "linf") -> Interval:
    """The logits of `model` at every tensor between `low` and `high` whose distance to `x` is at most `size` [B].

    All of `x`, `low` and `high` are [B, ...]. Raises ValueError for a model with a layer that there is no rule for,
    with outputs that `fastadv.adapt` chooses, or with 16 bits.
    """
    name = type(model).__name__
    while isinstance(model, Adapted):
        if model.loss is not None or model.output is not None:
            raise ValueError("interval bounds are of logits: they know no loss of your own, and no chosen output")
        model = model.model
    dtype = input_dtype(model) or x.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"interval bounds are for networks in float32 or float64, {name} computes in {dtype}")
    low, high, size = low.double(), high.double(), size.double()
    ball = None
    if norm != "linf":
        one = torch.ones_like(low[:1])
        ball = Ball(x.double(), size, one, torch.zeros_like(low), DUALS[norm])
    try:
        with isolated(model), torch.no_grad():
            found = model(Interval(low, high, ball))
    except (NotImplementedError, AttributeError, TypeError) as error:
        raise ValueError(
            f"no interval bounds of {name}: {error}. They go through linear and convolutional layers, batch norm, "
            "ReLU, ReLU6, hardtanh and leaky ReLU, and poolings. For any other network, take randomised smoothing"
        ) from error
    if not isinstance(found, Interval) or found.dim() not in (1, 2):
        raise ValueError(f"no interval bounds of {name}: it does not return logits [B, K], but {type(found).__name__}")
    return found


def margins(logits: Interval, y: Tensor) -> Tensor:
    """By how much, at least, the logit of `y` [B] is above each of the others, [B, K]; infinite at y itself.

    One logit, [B] or [B, 1], is that of class 1, and that of class 0 is 0.
    """
    if logits.dim() == 1 or logits.shape[1] == 1:
        low, high = logits.low.view(len(y)), logits.high.view(len(y))
        least = torch.where(y == 1, low, -high).unsqueeze(1).repeat(1, 2)
    elif logits.last is None:
        least = logits.low.gather(1, y.unsqueeze(1)) - logits.high
    else:
        least = torch.empty_like(logits.low)
        x, weight, bias = logits.last
        for label in y.unique().tolist():
            rows = (y == label).nonzero().squeeze(1)
            least[rows] = _affine(x.rows(rows), weight[label] - weight, bias[label] - bias, F.linear).low
    return least.scatter(1, y.unsqueeze(1), torch.inf)
