"""Adversarial samples in files: written while they are measured, and checked again against what was claimed of them."""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from .. import ops
from .._version import __version__
from ..attacks import Attack, Model, classify
from ..attacks._grid import LEVELS, from_levels, rounded, to_levels
from ..data import Batch, Dataset, Samples
from ..models.adapted import own_loss
from ..runs import make_folder, replace_file, write_text
from ._common import device_of, leeway, measuring

Encoding = Literal["npz", "png", "safetensors"]
FORMAT = "fastadv adversarial samples, version 1"
MANIFEST, CLEAN = "manifest.json", "clean"


class SampleFolder:
    """A new folder for the clean and the adversarial samples of an evaluation.

    Every attack has a folder in it, and so have the clean samples: with an ``.npz`` or ``.safetensors`` file a batch,
    float32, or a PNG file a sample, 8 bits. Beside them, a ``.json`` file a batch says of each sample its id, its
    label, the class predicted, the size of the perturbation, and whether it is within the budget. ``manifest.json``
    comes last, when all is there. No file holds code, and each appears complete or not at all.

    Everything is claimed of the samples as they are stored. For PNG clean samples are rounded to the nearest of 256
    levels, and adversarial ones to the nearest within their budget, if there are some. The manifest says how many
    adversarial samples that cost, how many left the budget, and how far clean samples moved: nowhere, if they had 8
    bits.

    Args:
        folder: it must not exist, or be empty; with `resume`, it may hold the beginning of the same evaluation.
        encoding: npz, png or safetensors. PNG is for images of one or three channels.

    Raises FileExistsError for a folder that holds something, ValueError for an unknown encoding, and ImportError where
    safetensors is missing.
    """

    def __init__(self, folder: str | Path, encoding: Encoding = "npz", *, resume: bool = False):
        if encoding not in get_args(Encoding):
            raise ValueError(f"samples are saved as {', '.join(get_args(Encoding))}, got {encoding!r}")
        if encoding == "safetensors":
            _safetensors()
        self.folder, self.encoding = Path(folder), encoding
        if self.folder.exists() and (not self.folder.is_dir() or (not resume and any(self.folder.iterdir()))):
            raise FileExistsError(
                f"{folder} exists, and saved samples are never overwritten: choose another or remove it"
            )

    def check(self, data: Samples, model: Model) -> None:
        """Raises ValueError where samples of this kind, or what is claimed of them, cannot be written."""
        if own_loss(model):
            raise ValueError("saved samples have classes for labels: with a loss of your own, leave save out")
        shape = data.sample_shape
        if self.encoding == "png" and (len(shape) != 3 or shape[0] not in (1, 3)):
            raise ValueError(
                f"PNG is for images of 1 or 3 channels, not for samples of shape {[*shape]}: save them as npz"
            )

    def has(self, name: str, start: int, stamp: str) -> bool:
        """Whether the batch is there, of the samples with this `stamp`."""
        try:
            return _read_json(self._file(name, start, ".json"))["stamp"] == stamp
        except (ValueError, KeyError, TypeError):
            return False

    def write(
        self,
        name: str,
        start: int,
        stamp: str,
        clean: Batch,
        x_adv: Tensor,
        attack: Attack | None,
        bounds: tuple[float, float],
        classes: Callable[[Tensor], Tensor],
    ) -> None:
        """Saves `x_adv` [B, ...], made by `attack` of the samples `clean`; ``classes(x)`` are predicted."""
        make_folder(self.folder / quote(name, safe=""))
        x, stored = clean.x, x_adv
        if self.encoding == "png":
            x = _rounded(x, bounds)
            stored = x if attack is None else _rounded(x_adv, bounds, x, attack)
        target = classes(stored)
        about = {
            "start": start,
            "ids": clean.ids.tolist(),
            "labels": clean.y.tolist(),
            "predicted": target.tolist(),
            "stamp": stamp,
        }
        if attack is not None:
            sizes, within = _sizes(stored, x, attack.norm, _eps(attack), bounds)
            about |= {"sizes": sizes.tolist(), "within": within.tolist()}
            if self.encoding == "png":
                lost = (classes(x_adv) != clean.y) & (target == clean.y)
                was = _sizes(x_adv, clean.x, attack.norm, _eps(attack), bounds)[1]
                about["rounding"] = {"successes_lost": int(lost.sum()), "left_the_budget": int((was & ~within).sum())}
        elif self.encoding == "png":
            about["rounding"] = {"largest_change": float((x - clean.x).abs().max())}
        about["files"] = self._encode(name, start, stored, bounds)
        write_text(self._file(name, start, ".json"), json.dumps(about) + "\n")  # last: with it, the batch is there

    def finish(self, data: Samples, label: str, plan: Mapping[str, Attack | None], starts: Sequence[int]) -> None:
        """Writes the manifest of all batches."""
        sets = {}
        for name, attack in plan.items():
            batches = [_read_json(self._file(name, start, ".json")) for start in starts]
            about = {} if attack is None else {"settings": _settings(attack), "norm": attack.norm, "eps": _eps(attack)}
            rounding: dict[str, float] = {}
            for batch in batches:
                for key, value in batch.pop("rounding", {}).items():
                    before = rounding.get(key, 0)
                    rounding[key] = max(before, value) if key == "largest_change" else before + value
                del batch["stamp"]
            sets[name] = about | ({"rounding": rounding} if rounding else {}) | {"batches": batches}
        whole = {
            "format": FORMAT,
            "fastadv": __version__,
            "data": data.name,
            "classes": list(data.classes),
            "bounds": list(data.bounds),
            "shape": list(data.sample_shape),
            "attacked": label,
            "encoding": self.encoding,
            "sets": sets,
        }
        write_text(self.folder / MANIFEST, json.dumps(whole) + "\n")

    def _file(self, name: str, start: int, suffix: str) -> Path:
        return self.folder / quote(name, safe="") / f"{start:07d}{suffix}"

    def _encode(self, name: str, start: int, x: Tensor, bounds: tuple[float, float]) -> dict[str, str]:
        """Writes samples; the SHA-256 of the content of each file, by its name."""
        written = {}
        for row, content in _encoded(x, self.encoding, bounds):
            path = self._file(name, start + row, f".{self.encoding}")
            replace_file(path, lambda file, content=content: file.write(content))
            written[path.name] = hashlib.sha256(content).hexdigest()
        return written


class Claims(NamedTuple):
    """What `verify` found of one attack's samples: how many of the claims hold, that were made of `samples`.

    `fooled`: samples that were claimed to be misclassified, and `still_fooled`, which are. `within`: samples that were
    claimed to be within the budget and the bounds, and `still_within`, which are. `damaged`: samples whose files are
    missing, changed or unreadable, of which nothing holds.
    """

    attack: str
    samples: int
    fooled: int
    still_fooled: int
    within: int
    still_within: int
    damaged: int

    @property
    def hold(self) -> bool:
        """Whether all claims hold."""
        return (self.fooled, self.within, self.damaged) == (self.still_fooled, self.still_within, 0)


@dataclass(frozen=True)
class SavedSamples:
    """Samples that a `SampleFolder` holds. See `open_saved`."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def attacks(self) -> list[str]:
        return [name for name in self.manifest["sets"] if name != CLEAN]

    def batches(self, name: str) -> Iterator[tuple[dict[str, Any], Tensor | None]]:
        """The claims of every batch, and its samples; None where a file of it is missing, changed or unreadable."""
        for claims in self.manifest["sets"][name]["batches"]:
            yield claims, self._samples(name, claims)

    def dataset(self, name: str = CLEAN) -> Dataset:
        """The samples of an attack, or the clean ones, in memory. Raises ValueError where a file is damaged."""
        parts = list(self.batches(name))
        if any(x is None for _, x in parts):
            raise ValueError(
                f"{self.folder / quote(name, safe='')} has files that are missing or damaged: save them again"
            )
        y = torch.tensor([label for claims, _ in parts for label in claims["labels"]])
        x = torch.cat([x for _, x in parts])
        about = tuple(self.manifest["classes"]), tuple(self.manifest["bounds"]), f"{self.manifest['data']}, {name}"
        return Dataset(x, y, *about)

    def first(self) -> Dataset:
        """The clean samples of the first batch."""
        first = {**self.manifest["sets"][CLEAN]}
        first["batches"] = first["batches"][:1]
        return SavedSamples(self.folder, {**self.manifest, "sets": {CLEAN: first}}).dataset()

    def _samples(self, name: str, claims: Mapping[str, Any]) -> Tensor | None:
        place, contents = self.folder / quote(name, safe=""), []
        for file, digest in claims["files"].items():
            try:
                content = (place / file).read_bytes()
            except OSError:
                return None
            if hashlib.sha256(content).hexdigest() != digest:
                return None
            contents.append(content)
        shape = len(claims["labels"]), *self.manifest["shape"]
        try:
            x = _decoded(contents, self.manifest["encoding"], tuple(self.manifest["bounds"]))
        except Exception:  # decoders raise whatever the bytes lead them to
            return None
        return x if x.shape == shape and x.dtype == torch.float32 and bool(x.isfinite().all()) else None


def open_saved(folder: str | Path) -> SavedSamples:
    """The samples in a folder that `SampleFolder` wrote; only the manifest is read yet.

    Raises FileNotFoundError without a manifest, ValueError for one that is damaged or of another format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MANIFEST}: give a folder of fastadv evaluate --save-samples that is done"
        )
    manifest = _read_json(path)
    try:
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}, not {FORMAT!r}")
        if CLEAN not in manifest["sets"] or any({*name} <= {"."} for name in manifest["sets"]):
            raise ValueError("it lacks the clean samples, or names a folder elsewhere")
        for name, about in manifest["sets"].items():
            for batch in about["batches"]:
                columns = ("ids", "labels", "predicted", *(("sizes", "within") if name != CLEAN else ()))
                if {len(batch[column]) for column in columns} != {len(batch["labels"])}:
                    raise ValueError(f"{name} has columns of different lengths")
                if any(not each.rpartition(".")[0].isdecimal() for each in batch["files"]):
                    raise ValueError(f"{name} has files of other names than it writes")  # nor paths elsewhere
        _ = [manifest[key] for key in ("classes", "bounds", "shape", "encoding", "data")]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or was not written by fastadv: {type(error).__name__}: {error}") from None
    return SavedSamples(folder, manifest)


@measuring()
def verify(
    folder: str | Path,
    model: Model,
    *,
    batch_size: int = 500,
    on_step: Callable[[int, int | None], None] | None = None,
) -> list[Claims]:
    """Tries all claims of the samples in `folder` on `model`: that they are misclassified, and within the budget.

    A row an attack. Sizes are computed anew, from the samples as stored, and the budget is that of the manifest.
    Classes are those that `model` predicts here: on another processor, the last bits of logits may differ. Checksums
    show damage, not forgery: who changes a file can change its checksum.

    Raises the errors of `open_saved`.
    """
    saved = open_saved(folder)
    device, bounds = device_of(model) or torch.device("cpu"), tuple(saved.manifest["bounds"])
    found = []
    done, in_all = 0, sum(len(saved.manifest["sets"][name]["batches"]) for name in saved.attacks)
    for name in saved.attacks:
        about, counts = saved.manifest["sets"][name], dict.fromkeys(Claims._fields[1:], 0)
        for (_, x), (claims, x_adv) in zip(saved.batches(CLEAN), saved.batches(name), strict=True):
            y, within = torch.tensor(claims["labels"]), torch.tensor(claims["within"])
            fooled = torch.tensor(claims["predicted"]) != y
            counts["samples"] += len(y)
            counts["fooled"] += int(fooled.sum())
            counts["within"] += int(within.sum())
            if x is None or x_adv is None:
                counts["damaged"] += len(y)
            else:
                target = torch.cat([classify(model, part.to(device)).cpu() for part in x_adv.split(batch_size)])
                here = _sizes(x_adv, x, about["norm"], about["eps"], bounds)[1]
                counts["still_fooled"] += int((fooled & (target != y)).sum())
                counts["still_within"] += int((within & here).sum())
            done += 1
            if on_step:
                on_step(done, in_all)
        found.append(Claims(name, **counts))
    return found


def _sizes(
    x_adv: Tensor, x: Tensor, norm: str, eps: float | None, bounds: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The sizes of perturbations [B], and which are within `eps`, if there is one, and `bounds`, but for rounding."""
    sizes = ops.row_norms(x_adv, norm, x).double()
    most = math.inf if eps is None else eps + leeway(norm, eps, bounds, x[0].numel())
    rows = x_adv.flatten(1)
    low, high = x_adv.new_tensor(bounds).tolist()
    return sizes, (sizes <= most) & (rows >= low).all(1) & (rows <= high).all(1)


def _rounded(
    x_adv: Tensor, bounds: tuple[float, float], x: Tensor | None = None, attack: Attack | None = None
) -> Tensor:
    """`x_adv` on the nearest of 256 levels; within the budget of `attack` around `x` where some are."""
    grid = bounds[0], bounds[1] - bounds[0]
    eps = None if attack is None else _eps(attack)
    budget = None if eps is None else eps / grid[1] * LEVELS
    clean = None if x is None else to_levels(x, *grid)
    levels = rounded(to_levels(x_adv, *grid), clean, "" if attack is None else attack.norm, budget)
    return from_levels(levels.clamp(0, LEVELS), *grid).to(x_adv.dtype)


def _encoded(x: Tensor, encoding: Encoding, bounds: tuple[float, float]) -> Iterator[tuple[int, bytes]]:
    """The content of files, and the row of `x` that each begins with."""
    values = np.ascontiguousarray(x.to(torch.float32).numpy(force=True))
    if encoding == "safetensors":
        yield 0, _safetensors().save({"x": values})
    elif encoding == "npz":
        file = io.BytesIO()
        np.savez_compressed(file, x=values)
        yield 0, file.getvalue()
    else:
        from PIL import Image

        levels = to_levels(x, bounds[0], bounds[1] - bounds[0]).round().to(torch.uint8)
        for row, image in enumerate(levels.numpy(force=True)):
            file = io.BytesIO()
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "png")
            yield row, file.getvalue()


def _decoded(contents: Sequence[bytes], encoding: Encoding, bounds: tuple[float, float]) -> Tensor:
    if encoding == "safetensors":
        return torch.from_numpy(_safetensors().load(contents[0])["x"])
    if encoding == "npz":
        with np.load(io.BytesIO(contents[0]), allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["x"])
    from PIL import Image

    images = [np.array(Image.open(io.BytesIO(content), formats=["PNG"])) for content in contents]
    images = [image[None] if image.ndim == 2 else image.transpose(2, 0, 1) for image in images]
    return from_levels(torch.from_numpy(np.stack(images)), bounds[0], bounds[1] - bounds[0]).to(torch.float32)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("safetensors is missing. To fix: pip install safetensors, or save as npz") from None
    return safetensors.numpy


def _eps(attack: Attack) -> float | None:
    """The budget in the units of the samples; None for an attack that has none."""
    return float(attack.eps) if attack.has_budget and isinstance(attack.eps, int | float) else None


def _settings(attack: Attack) -> dict[str, Any]:
    values = {each.name: getattr(attack, each.name) for each in dataclasses.fields(attack)}
    return {"class": type(attack).__name__} | json.loads(json.dumps(values, default=str))


def _read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that is missing or holds no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no object")
    return found
