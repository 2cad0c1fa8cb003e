"""What a network's layers give for natural and for adversarial samples, and how far classes mix there (FAT, 4.2)."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .._frames import frame_of_rows
from ..attacks import Attack, classify, isolated, predicted
from ..data import AnyData
from ..models.adapted import as_input, as_logits, expected, own_loss
from ._common import beside, fitted, measuring

if TYPE_CHECKING:
    import pandas

_ROWS = 1024  # samples whose distances to all others are held at a time


class MixingRow(NamedTuple):
    """How far classes mix in the outputs of one layer on one kind of samples; see `fastadv.evaluation.mixing`.

    `mixing`: among these samples. `cross_over`: between them and the natural ones. Both are NaN where labels are no
    classes. `misclassified`: the share of these samples that the network gets wrong.
    """

    layer: str
    kind: str
    mixing: float
    cross_over: float
    misclassified: float


@dataclass(frozen=True)
class Features:
    """The outputs of layers on natural samples and on what attacks made of them.

    `outputs`: by layer, then by kind (``natural`` or an attack's name), [N, D]. `y` [N]: the true labels. `rows`: a row
    for every layer and kind.
    """

    outputs: dict[str, dict[str, Tensor]]
    y: Tensor
    rows: list[MixingRow]

    def to_dataframe(self) -> "pandas.DataFrame":
        """The `rows`. Raises ImportError without pandas."""
        return frame_of_rows(self.rows)


@measuring()
def features(
    model: nn.Module,
    data: AnyData,
    attacks: Mapping[str, Attack],
    layers: Sequence[str],
    *,
    batch_size: int = 500,
    seed: int = 0,
    on_step: Callable[[int, int | None], None] | None = None,
) -> Features:
    """The outputs of `layers` on `data` and on the samples that `attacks` make of it, away from the true labels.

    With a loss of the user's own, labels that are integers from 0, one a sample, are classes here, and others are not.

    Args:
        model: samples to logits; in eval mode, on the device it is on, and left as it was.
        data: the samples, as `evaluate` takes them; attacks run within their bounds (see `Attack.within`).
        attacks: by the names that the kinds of samples will have.
        layers: names in ``model.named_modules()``.
        batch_size: samples at a time; it decides memory and speed only.
        seed: of random numbers, for attacks that have none of their own.
        on_step: called with (batches done, batches in all, None where that is not known); each kind of samples counts.

    Raises:
        ValueError, TypeError: what `layer_outputs`, `mixing` or the attacks find wrong.
    """
    data = beside(model, data)
    made = {"natural": None, **{name: fitted(attack, data, seed) for name, attack in attacks.items()}}
    in_all = None if data.count is None else len(made) * -(-data.count // batch_size)
    own = own_loss(model)
    names = [*layers] if own else [*layers, ""]  # "" is the model itself
    parts: dict[str, dict[str, list[Tensor]]] = {name: {kind: [] for kind in made} for name in layers}
    wrong: dict[str, list[Tensor]] = {kind: [] for kind in made}
    labels, done = [], 0
    for batch in data.batches(batch_size):
        labels.append(batch.y)
        for kind, attack in made.items():
            x = attack.rows(model, *batch).x_adv if attack else batch.x
            found = layer_outputs(model, x, names, batch_size=batch_size)
            seen = classify(model, x, y=batch.y) if own else predicted(found.pop(""))
            wrong[kind].append(seen != expected(model, batch.y))
            for name, each in found.items():
                parts[name][kind].append(each)
            done += 1
            if on_step:
                on_step(done, in_all)
    y = torch.cat(labels)
    outputs = {name: {kind: torch.cat(found) for kind, found in kinds.items()} for name, kinds in parts.items()}
    classes, rows = not own or (y.dtype == torch.int64 and y.dim() == 1 and int(y.min()) >= 0), []
    for layer, found in outputs.items():
        for kind in made:
            others = None, found["natural"]
            mixed = [mixing(found[kind], y, natural=other) if classes else math.nan for other in others]
            rows.append(MixingRow(layer, kind, *mixed, float(torch.cat(wrong[kind]).double().mean())))
    return Features(outputs, y, rows)


def last_layers(model: nn.Module, count: int = 3) -> list[str]:
    """The names of the last `count` modules that have parameters and no modules of their own."""
    return [name for name, m in model.named_modules() if not [*m.children()] and [*m.parameters()]][-count:]


@measuring()
def layer_outputs(model: nn.Module, x: Tensor, layers: Sequence[str], *, batch_size: int = 500) -> dict[str, Tensor]:
    """The outputs [B, D] of the modules called `layers` on `x` [B, ...], flattened, float32, in eval mode; by name.

    The model is left as it was, also when it raises. Of a module that is called several times, the last output.

    Raises ValueError for a name that is not in ``model.named_modules()``, or a module that is not called; TypeError for
    one whose output is no tensor with a row a sample.
    """
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown layer {name!r}: choose among {', '.join(filter(None, modules))}{hint}")

    def keep(name: str, output: Any) -> None:
        if not name:  # the model itself
            output = as_logits(output, part)
        if not isinstance(output, Tensor) or output.shape[:1] != part.shape[:1]:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(f"layer {name!r} must return a tensor [{len(part)}, ...], got {got}: choose one within it")
        now[name] = output.reshape(len(output), -1).to(torch.float32, copy=True)  # the next layer may work in place

    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as hooks, isolated(model), torch.no_grad():
        for name in layers:
            hook = modules[name].register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            hooks.callback(hook.remove)
        for part in x.split(batch_size):
            now: dict[str, Tensor] = {}
            model(as_input(model, part.clone()))  # which may change it in place
            for name in layers:
                if name not in now:
                    raise ValueError(f"layer {name!r} is not called when the model is: choose another")
                found[name].append(now[name])
    return {name: torch.cat(parts) for name, parts in found.items()}


@measuring()
def mixing(outputs: Tensor, y: Tensor, k: int = 10, natural: Tensor | None = None) -> float:
    """How far the classes `y` [N] are mixed in `outputs` [N, D]: 0 not at all, 1 as if labels had been drawn by lot.

    The mean share of samples of other classes among the `k` nearest of every sample (Euclidean, without itself),
    divided by the share that labels drawn by lot would give.

    With `natural` [N, D], the outputs on the natural samples that `outputs` were made from, the neighbours are looked
    for there (without the sample's own). This is what the FAT paper calls cross-over mixture; it is more than 1 where
    classes have changed places, which leaves them unmixed among themselves.

    Raises ValueError unless there are two classes and more than `k` samples.
    """
    check_mixable(y, k)
    n, counts = len(y), y.bincount()
    others = outputs if natural is None else natural
    centre = others.mean(0)  # near the origin, cdist's squares cancel least
    others, differ = others - centre, 0
    for rows in torch.arange(n, device=y.device).split(_ROWS):
        distance = torch.cdist(outputs[rows] - centre, others)
        distance[torch.arange(len(rows), device=y.device), rows] = torch.inf
        near = distance.topk(k, largest=False).indices
        differ += int((y[near] != y[rows].unsqueeze(1)).sum())
    by_lot = float((counts * (n - counts)).sum()) / (n * (n - 1))
    return differ / (n * k) / by_lot


def check_mixable(y: Tensor, k: int = 10) -> None:
    """Raises ValueError unless `mixing` can be measured with the labels `y` [N]."""
    n = len(y)
    if not 0 < k < n:
        raise ValueError(f"mixing: k must be from 1 to {n - 1}, one fewer than the samples, got {k}")
    if y.bincount().max() == n:
        raise ValueError(f"mixing: at least two classes are needed, got samples of class {int(y[0])} alone")


def project(outputs: Mapping[str, Tensor], method: str, seed: int = 0) -> dict[str, Tensor]:
    """One layer's outputs [N, D] on several kinds of samples in two dimensions, [N, 2], by kind.

    One projection is fitted to all kinds together, so that they can be compared: PCA (``pca``) has one plane for all,
    and t-SNE (``tsne``), which cannot place a sample it was not fitted to, one map, where a sample that hardly moved
    stays beside its natural form. The same `seed` gives the same result. Raises `reducer`'s errors, and ValueError for
    outputs of fewer than two numbers a sample.
    """
    fit = reducer(method, seed)
    joint = torch.cat(list(outputs.values()))
    if joint.shape[1] < 2:
        raise ValueError(f"{method} needs outputs of at least 2 numbers a sample, got {list(joint.shape)}")
    points = torch.from_numpy(fit(joint.numpy(force=True)))
    return dict(zip(outputs, points.split([len(part) for part in outputs.values()]), strict=True))


def reducer(method: str, seed: int = 0) -> Callable[[Any], Any]:
    """The function that reduces an array [N, D] to [N, 2] by scikit-learn's ``pca`` or ``tsne``.

    Raises ValueError for another `method`, ImportError where scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError:
        raise ImportError(f"{method}: scikit-learn is missing. To fix: pip install scikit-learn") from None
    kinds = {"pca": PCA, "tsne": TSNE}
    if method not in kinds:
        raise ValueError(f"method must be one of {', '.join(kinds)}, got {method!r}")
    return kinds[method](n_components=2, random_state=seed).fit_transform
