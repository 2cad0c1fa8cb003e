"""Networks from elsewhere: from hubs by name, with their preprocessing; from files of weights, by their names.

>>> import fastadv
>>> model = fastadv.hub.load("timm:resnet18")  # doctest: +SKIP
>>> fastadv.evaluate(model, imagenet, {"apgd": fastadv.attacks.APGD(eps=4 / 255)})  # doctest: +SKIP
"""

import difflib
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import MODELS, MeanSparse, Normalize, WideResNet, adapt
from .models.mean_sparse import insert

State = dict[str, Tensor]


class Preprocess(nn.Module):
    """`model` behind the preprocessing of its hub, for images [B, C, H, W] in [0, 1] of any size.

    Images of the size `crop` are only normalised. Others are resized and cropped first, which gradients pass through:
    attacks then change the images as they were given.

    Args:
        model: a network that takes images of the size `crop`.
        mean: subtracted from every pixel, a number or one a channel.
        std: divides the result, likewise.
        crop: height and width of what is cut out of the middle. None for images of any size, which are not resized.
        resize: the shorter side before that, or height and width; None for none.
        mode: of the resizing, ``bilinear``, ``bicubic`` or ``nearest-exact``, with antialiasing as PIL has it.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        crop: tuple[int, int] | None = None,
        resize: int | tuple[int, int] | None = None,
        mode: str = "bilinear",
    ):
        super().__init__()
        self.model, self.crop, self.resize, self.mode = Normalize(model, mean, std), crop, resize, mode

    def forward(self, x: Tensor) -> Any:
        if self.crop is not None and tuple(x.shape[-2:]) != self.crop:
            x = self._cropped(x)
        return self.model(x)

    def _cropped(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.resize is not None:
            if isinstance(self.resize, int):  # the longer side is rounded down, as torchvision does
                short = min(height, width)
                height, width = (self.resize * side // short for side in (height, width))
            else:
                height, width = self.resize
            if self.mode not in ("bilinear", "bicubic", "nearest-exact"):
                raise ValueError(
                    f"the network's images are resized by {self.mode}, which PyTorch cannot: give images of "
                    f"{self.crop[0]}x{self.crop[1]}"
                )
            smooth = self.mode != "nearest-exact"
            x = F.interpolate(x, (height, width), mode=self.mode, antialias=smooth)
        top, left = (round((there - wanted) / 2) for there, wanted in zip((height, width), self.crop, strict=True))
        if top < 0 or left < 0:
            raise ValueError(f"images of {height}x{width} are too small to cut {self.crop[0]}x{self.crop[1]} out of")
        return x[..., top : top + self.crop[0], left : left + self.crop[1]]

    def extra_repr(self) -> str:
        return f"crop={self.crop}, resize={self.resize}, mode={self.mode}"


def load(name: str) -> nn.Module:
    """The network that a hub has under `name`, in eval mode, for images [B, C, H, W] in [0, 1].

    | name | is loaded by |
    | --- | --- |
    | ``timm:NAME`` | ``timm.create_model`` |
    | ``torchvision:NAME`` | ``torchvision.models.get_model``, with the default weights |
    | ``hf:NAME`` | ``transformers.AutoModelForImageClassification``; NAME may be a folder |
    | ``robustbench:NAME``, ``robustbench:DATASET/THREAT/NAME`` | ``robustbench.load_model``; by default cifar10/Linf |

    The hub's package downloads the weights, or takes them from its cache. Its preprocessing is a part of the network:
    see `Preprocess`. Networks of RobustBench have theirs inside.

    Raises ImportError where the package is missing, ValueError for an unknown name, and FileNotFoundError where there
    are no weights; it says where they were looked for.
    """
    hub, _, what = name.partition(":")
    if hub not in HUBS or not what:
        raise ValueError(f"unknown hub in {name!r}: write {', '.join(f'{each}:NAME' for each in HUBS)}")
    return HUBS[hub](what).eval()


def _package(name: str, hub: str) -> ModuleType:
    """The module called `name`. Raises ImportError, which says what to install, where it cannot be imported."""
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ImportError as error:
        missing = getattr(error, "name", None) or package
        found = f"{package} is missing" if missing == package else f"{package} cannot be imported: {error}"
        raise ImportError(f"{hub}: {found}. To fix: pip install {package}") from None


def _known(hub: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{hub} has no network called {name!r}{hint}")


def _fetched(given: str, places: Sequence[object], load: Callable[[], Any]) -> Any:
    """What `load` gives. Raises FileNotFoundError, which names `places`, where it fails."""
    try:
        return load()
    except Exception as error:  # of the network, the cache, the package
        where = " and ".join(map(str, places))
        said = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise FileNotFoundError(
            f"no weights for {given}: {said}. They were looked for in {where}, and could not be downloaded. To fix: "
            "load them where there is a network, and copy that folder here"
        ) from error


def _torch_cache() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def _hf_cache() -> str:
    try:
        return importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE
    except ImportError:
        return "the cache of huggingface_hub (HF_HUB_CACHE)"


def _timm(name: str) -> nn.Module:
    timm, data = _package("timm", "timm"), _package("timm.data", "timm")
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        _known("timm", name.partition(".")[0], timm.list_models())
    places = _hf_cache(), _torch_cache()
    model = _fetched(f"timm:{name}", places, lambda: timm.create_model(name, pretrained=True))
    how = data.resolve_model_data_config(model)
    (_, *size), share, mode = how["input_size"], how["crop_pct"], how.get("crop_mode", "center")
    if mode not in ("center", "squash"):
        raise ValueError(f"timm:{name} has crop_mode {mode!r}, which is not known here: it is center or squash")
    large = tuple(int(side / share) for side in size)
    resize = min(large) if mode == "center" and large[0] == large[1] else large
    return Preprocess(model, how["mean"], how["std"], tuple(size), resize, how["interpolation"])


def _torchvision(name: str) -> nn.Module:
    zoo = _package("torchvision.models", "torchvision")
    _known("torchvision", name, zoo.list_models())
    weights = zoo.get_model_weights(name).DEFAULT
    places = [_torch_cache()]
    model = _fetched(f"torchvision:{name}", places, lambda: zoo.get_model(name, weights=weights))
    how = weights.transforms()
    if not hasattr(how, "crop_size"):
        raise ValueError(f"torchvision:{name} is no classifier of images")
    crop, resize = _two(how.crop_size), list(how.resize_size)
    mode = getattr(how.interpolation, "value", how.interpolation)
    return Preprocess(model, how.mean, how.std, crop, resize[0] if len(resize) == 1 else tuple(resize), mode)


_PIL = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def _hf(name: str) -> nn.Module:
    transformers = _package("transformers", "hf")
    classifier, processors = transformers.AutoModelForImageClassification, transformers.AutoImageProcessor
    places = [_hf_cache()] if not Path(name).is_dir() else [Path(name).resolve()]
    model, processor = (
        _fetched(f"hf:{name}", places, partial(kind.from_pretrained, name)) for kind in (classifier, processors)
    )
    how = processor.to_dict()
    # Pixels are 255 x: of x, mean and std are these over the scale.
    scale = 255 * (how["rescale_factor"] if how.get("do_rescale", True) else 1.0)
    mean, std = (how["image_mean"], how["image_std"]) if how.get("do_normalize") else ([0.0], [1.0])
    mean, std = ([value / scale for value in each] for each in (mean, std))
    crop, resize = _sizes_of_hf(name, how)
    return Preprocess(adapt(model), mean, std, crop, resize, _PIL[int(how["resample"])] if resize else "bilinear")


def _sizes_of_hf(name: str, how: Mapping[str, Any]) -> tuple[tuple[int, int] | None, int | tuple[int, int] | None]:
    """`crop` and `resize` of `Preprocess`, from what a processor of images says."""
    size, cut = (how.get(each) or {} if how.get(f"do_{does}") else {} for each, does in _HF_SIZES.items())
    crop = (cut["height"], cut["width"]) if cut else None
    if "height" in size:
        resize = size["height"], size["width"]
        return crop or resize, resize
    short = size.get("shortest_edge")
    if short and how.get("crop_pct"):  # ConvNeXt's: small images are cut out of larger ones, large ones squashed
        return (short, short), int(short / how["crop_pct"]) if short < 384 else (short, short)
    if size and not (short and crop):
        raise ValueError(f"hf:{name} resizes images to {size} and cuts {cut or 'nothing'} out, which is not known here")
    return crop, short


_HF_SIZES = {"size": "resize", "crop_size": "center_crop"}


def _two(size: Sequence[int]) -> tuple[int, int]:
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def _robustbench(name: str) -> nn.Module:
    utils = _package("robustbench.utils", "robustbench")
    data, threat, model = name.split("/") if name.count("/") == 2 else ("cifar10", "Linf", name)
    place = Path("models", data, threat).resolve()
    return _fetched(f"robustbench:{name}", [place], lambda: utils.load_model(model, dataset=data, threat_model=threat))


HUBS: dict[str, Callable[[str], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hf,
    "robustbench": _robustbench,
}
"""The hubs, and what loads a network by its name there."""


# --------------------------------------------------------------------------------------------------- files of weights


def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Writes the parameters and buffers of `model` to a ``.safetensors`` file.

    With a `Normalize`, its mean and std; with `MeanSparse` in it, alpha and backward of that. `load_weights` makes the
    network again, where it is one of `fastadv.models`. Needs safetensors. Raises ImportError without it,
    FileExistsError where there is a file already, and ValueError for `MeanSparse` of several alphas or gradients.
    """
    write = _package("safetensors.torch", "save_weights").save_file
    if Path(path).exists():
        raise FileExistsError(f"{path} exists: choose another name")
    about = {"format": "pt"}
    if isinstance(model, Normalize):
        values = {"mean": model.mean, "std": model.std}
        model = model.model
        about |= {name: json.dumps(value.flatten().tolist()) for name, value in values.items()}
    sparse = {(part.alpha, part.backward) for part in model.modules() if isinstance(part, MeanSparse)}
    if len(sparse) > 1:
        raise ValueError("save_weights: every MeanSparse of a network must have the same alpha and backward")
    if sparse:
        about["mean_sparse"] = json.dumps(sparse.pop())
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write(state, str(path), about | {"sha256": _digest(state)})
    return Path(path)


def load_weights(path: str | Path, shape: Sequence[int], classes: int) -> nn.Module:
    """The network whose weights are in a file, in eval mode: which one it is, the names and shapes of the weights say.

    The file is ``.safetensors``, or what ``torch.save`` wrote of a state dict, also within a checkpoint and with
    prefixes such as ``module.``. Known are the networks of `fastadv.models`, under their own names and under those that
    wide residual networks and CIFAR's ResNets have in TRADES, RobustBench and their descendants. A mean and std among
    the weights become a `Normalize`. Networks with `MeanSparse` are known in files of `save_weights`.

    What a file claims is verified: the start of its SHA-256 in a name like ``resnet-1a2b3c4d.pt``, the whole of it as
    the name of a file in the Hugging Face cache, and the digest that `save_weights` wrote.

    Args:
        path: the file.
        shape: of a sample, (channels, height, width).
        classes: how many there are.

    Raises ValueError for what is no such file, has another hash than it claims, or fits no network.
    """
    path = Path(path)
    _verify(path)
    state, mean, std, sparse = _read(path)
    places = [key.removesuffix(".0.mean") for key in state if key.endswith(".0.mean")]
    moments = {name: [state.pop(f"{name}.0.{part}", None) for part in ("mean", "std")] for name in places}
    if moments and sparse is None:
        raise ValueError(f"{path} has the means of MeanSparse, but not its alpha: write it with hub.save_weights")
    network = _recognised(_as_own(state), tuple(shape), classes, str(path))
    try:
        if sparse is not None and (not moments or any(part is None for pair in moments.values() for part in pair)):
            raise ValueError("it has the alpha of MeanSparse, but not all means and deviations")
        for name, (means, stds) in moments.items():
            insert(network, name, MeanSparse(means, stds, *sparse))
        if moments:
            with torch.no_grad():
                network.eval()(torch.zeros(1, *shape))  # whether they have the channels of their layers
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return (network if mean is None else Normalize(network, mean, std)).eval()


def _verify(path: Path) -> None:
    """Raises ValueError where the name of the file claims another SHA-256 than the content has."""
    claim = re.search(r"-(?!\d+$)([0-9a-f]{8,64})$", path.stem)  # digits alone may be a date
    claimed = claim[1] if claim else path.resolve().name if path.is_symlink() else ""
    if not re.fullmatch(r"[0-9a-f]{8,64}", claimed):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    if not found.hexdigest().startswith(claimed):
        raise ValueError(
            f"{path} is damaged or another file: its name claims the SHA-256 {claimed}, and it has "
            f"{found.hexdigest()[: len(claimed)]}. Download it again"
        )


def _digest(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, types, shapes and values."""
    whole = hashlib.sha256()
    for name in sorted(state):
        value = state[name].contiguous()
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def _read(path: Path) -> tuple[State, list[float] | None, list[float] | None, tuple[float, str] | None]:
    """The weights in a file, without prefixes that all have.

    Also the mean and std that stand with them, and alpha and backward of `MeanSparse`.
    """
    about: Mapping[str, str] = {}
    if path.suffix == ".safetensors":
        safe = _package("safetensors", f"reading {path}")
        try:
            with safe.safe_open(path, "pt") as file:
                about = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
        except Exception as error:  # whatever the bytes lead it to
            raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from None
        if about.get("sha256", _digest(state)) != _digest(state):
            raise ValueError(f"{path} is damaged: its weights are not those that were saved. Give another copy")
    else:
        try:
            whole = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever the bytes lead it to
            raise ValueError(
                f"{path} is damaged, or holds more than tensors and plain values ({type(error).__name__}): load it "
                "where it comes from, and save its state_dict() alone"
            ) from None
        state = _state_within(whole, path)
    try:
        mean, std, sparse = (json.loads(about.get(name, "null")) for name in ("mean", "std", "mean_sparse"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if sparse is not None:  # its buffers have the names of a normalisation's
        return _unwrapped(state), mean, std, sparse
    buffers = {name: _taken(state, names) for name, names in {"mean": ("mean", "mu"), "std": ("std", "sigma")}.items()}
    if None not in buffers.values():
        mean, std = buffers["mean"], buffers["std"]
    return _unwrapped(state), mean, std, None


def _state_within(whole: Any, path: Path) -> State:
    """The state dict that `whole` is, or the one that it holds."""

    def is_state(value: Any) -> bool:
        return isinstance(value, dict) and bool(value) and all(isinstance(each, Tensor) for each in value.values())

    if is_state(whole):
        return dict(whole)
    found = [name for name, value in whole.items() if is_state(value)] if isinstance(whole, dict) else []
    if len(found) != 1:
        several = f"several: {', '.join(map(str, found))}. Save the one you mean" if found else "none. Save one"
        raise ValueError(f"{path} must hold one state dict, it has {several} alone, torch.save(model.state_dict())")
    return dict(whole[found[0]])


def _taken(state: State, names: Sequence[str]) -> list[float] | None:
    """The buffer of one of these names, taken out of `state`."""
    for key in [key for key in state if key.rpartition(".")[2] in names and state[key].numel() in (1, 3)]:
        return state.pop(key).flatten().tolist()
    return None


def _unwrapped(state: State) -> State:
    """`state` without what all of its names begin with: ``module.``, ``model.``, ``1.``."""
    while state and len(starts := {key.partition(".")[0] for key in state}) == 1 and all("." in key for key in state):
        (start,) = starts
        state = {key.removeprefix(f"{start}."): value for key, value in state.items()}
    return state


_WIDE = {
    "bn1": "act.0",
    "conv1": "residual.0",
    "bn2": "residual.1.0",
    "conv2": "residual.2",
    "convShortcut": "shortcut",
}
_RESIDUAL = {f"{kind}{n}": f"residual.{3 * n - 3 + (kind == 'bn')}" for n in (1, 2, 3) for kind in ("conv", "bn")}


def _as_own(state: State) -> State:
    """`state` with the names that `fastadv.models` has, where it is a wide or a CIFAR residual network of others.

    The former are those of the code of TRADES (``block1.layer.0.bn1``), the latter of kuangliu/pytorch-cifar
    (``layer1.0.bn1``). ``sub_block1`` is there without being used.
    """
    state = {key: value for key, value in state.items() if not key.startswith("sub_block1.")}
    wide = any(key.startswith("block1.layer.") for key in state)
    unit = re.compile(r"block(\d)\.layer\.(\d+)\.(\w+)\.(.*)" if wide else r"layer(\d)\.(\d+)\.(\w+)\.(?:(\d)\.)?(.*)")
    places = sorted({(int(found[1]), int(found[2])) for key in state if (found := unit.fullmatch(key))})
    if not places:
        return state
    first = 1 if wide else 3
    number = {place: first + k for k, place in enumerate(places)}
    ends = {"conv1": "features.0", "fc": "classifier", "linear": "classifier"}
    ends["bn1"] = f"features.{first + len(places)}.0" if wide else "features.1"
    own = {}
    for key, value in state.items():
        if found := unit.fullmatch(key):
            start = f"features.{number[int(found[1]), int(found[2])]}"
            part = (_WIDE if wide else _RESIDUAL).get(found[3], found[3])
            own[".".join([start, part, *filter(None, found.groups()[3:])])] = value
        else:
            layer, _, rest = key.partition(".")
            own[f"{ends.get(layer, layer)}.{rest}"] = value
    return own


def _recognised(state: State, shape: tuple[int, ...], classes: int, path: str) -> nn.Module:
    """The network of `fastadv.models` that has weights of these names and shapes, with them."""
    sizes = _sizes(state)
    found: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {}
    for name, build in [*MODELS.items(), *_wide(state)]:
        if "activation" in getattr(build, "keywords", {}):
            continue  # weights do not tell it: they are taken for those of the usual one
        try:
            with torch.device("meta"):
                fits = _sizes(build(shape, classes).state_dict()) == sizes
        except ValueError:  # not for such samples
            continue
        if fits and build not in found.values():
            found[name] = build
    same = {(each.func, *each.keywords.items()) if isinstance(each, partial) else (each,) for each in found.values()}
    if len(same) != 1:
        several = f"fit several networks, {', '.join(found)}" if found else "fit no network of fastadv.models"
        first = ", ".join(f"{name} {list(size)}" for name, size in list(sizes.items())[:3])
        raise ValueError(
            f"the weights in {path} {several} for samples of {list(shape)} in {classes} classes; they begin with "
            f"{first}. Name what builds the network with package.module:function, or a hub, robustbench:NAME"
        )
    model = next(iter(found.values()))(shape, classes)
    model.load_state_dict(state, strict=False)  # all but counts of batches, by the comparison
    return model


def _sizes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shapes of weights by name, but for counts of batches, which files of old versions lack."""
    return {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _wide(state: State) -> list[tuple[str, Callable[[tuple[int, ...], int], nn.Module]]]:
    """The wide residual network of the depth and width that `state` has."""
    units = [key for key in state if re.fullmatch(r"features\.\d+\.residual\.2\.weight", key)]
    if not units or len(units) % 3:
        return []
    depth, widen = 2 * len(units) + 4, state[units[0]].shape[0] // 16
    return [(f"wrn-{depth}-{widen}", partial(WideResNet, depth=depth, widen=widen))] if widen else []
