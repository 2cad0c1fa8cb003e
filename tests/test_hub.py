"""Networks from hubs, with small stand-ins for the hubs' packages, and from files of weights."""

import hashlib
import importlib.machinery
import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from test_evaluate_command import place  # noqa: F401 - a fixture
from torch import Tensor, nn
from toys import linear, samples

from fastadv import Dataset, adapt, evaluate, hub
from fastadv.__main__ import main
from fastadv.attacks import PGD, checked_logits
from fastadv.hub import Preprocess, load_weights, save_weights
from fastadv.losses import cross_entropy
from fastadv.models import MODELS, MeanSparse, Normalize, build, mean_sparse

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.5, 0.125]
IMAGES = samples(2, 3, 20, 30)


class Seen(nn.Module):
    """Three logits, and in `at` the images that came."""

    def forward(self, x: Tensor) -> Tensor:
        self.at = x
        return x.mean((2, 3))


def module(monkeypatch: pytest.MonkeyPatch, name: str, **holds: object) -> None:
    """A stand-in for a package, in place of what is installed."""
    made = ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(holds)
    monkeypatch.setitem(sys.modules, name, made)


def refuse(*_: object, **__: object) -> None:
    raise OSError("no route to host.")


def timm(monkeypatch: pytest.MonkeyPatch, create: Callable = lambda name, pretrained: Seen(), **config: object) -> None:
    how = {"input_size": (3, 8, 8), "crop_pct": 0.8, "crop_mode": "center", "interpolation": "bicubic"}
    config = {**how, "mean": MEAN, "std": STD, **config}
    module(monkeypatch, "timm", create_model=create, list_models=lambda: ["resnet18", "vit"])
    module(monkeypatch, "timm.data", resolve_model_data_config=lambda model: config)


def torchvision(monkeypatch: pytest.MonkeyPatch, get: Callable = lambda name, weights: Seen()) -> None:
    how = SimpleNamespace(
        crop_size=[8], resize_size=[10], mean=MEAN, std=STD, interpolation=SimpleNamespace(value="bilinear")
    )
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: how))
    names = {"list_models": lambda: ["resnet18"], "get_model": get, "get_model_weights": lambda name: weights}
    module(monkeypatch, "torchvision", models=SimpleNamespace(**names))
    module(monkeypatch, "torchvision.models", **names)


def hf(monkeypatch: pytest.MonkeyPatch, fail: bool = False, **changes: object) -> None:
    how = {"do_resize": True, "size": {"shortest_edge": 10}, "resample": 3, "do_center_crop": True}
    how |= {"crop_size": {"height": 8, "width": 8}, "do_normalize": True, "image_mean": MEAN, "image_std": STD}
    how |= {"do_rescale": True, "rescale_factor": 1 / 255, **changes}

    class Classifier(Seen):
        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(loss=None, logits=super().forward(x))

    made = refuse if fail else lambda name: Classifier()
    module(
        monkeypatch,
        "transformers",
        AutoModelForImageClassification=SimpleNamespace(from_pretrained=made),
        AutoImageProcessor=SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(to_dict=lambda: how)),
    )


def seen(model: nn.Module, x: Tensor) -> Tensor:
    """The images that the hub's network gets."""
    assert checked_logits(model, x).shape == (len(x), 3)
    assert not model.training
    return next(each.at for each in model.modules() if isinstance(each, Seen))


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def cut(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    """The middle 8x8 of images of this size."""
    x = F.interpolate(x, (height, width), mode=mode, antialias=True)
    top, left = round((height - 8) / 2), round((width - 8) / 2)
    return normalised(x[..., top : top + 8, left : left + 8])


@pytest.mark.parametrize(
    ("name", "fake", "mode"),
    [("timm:vit", timm, "bicubic"), ("torchvision:resnet18", torchvision, "bilinear"), ("hf:some/vit", hf, "bicubic")],
)
def test_a_hub_s_preprocessing_is_taken_over(name, fake, mode, monkeypatch):
    fake(monkeypatch)
    model = hub.load(name)
    assert torch.allclose(seen(model, IMAGES), cut(IMAGES, 10, 15, mode), atol=1e-5)
    small = samples(2, 3, 8, 8)
    assert torch.allclose(seen(model, small), normalised(small), atol=1e-6)  # of the right size: not cut again
    x_adv = PGD(0.1)(model, IMAGES)
    assert x_adv.shape == IMAGES.shape
    assert (x_adv != IMAGES).any()


def test_squashed_images_of_timm(monkeypatch):
    timm(monkeypatch, crop_mode="squash", crop_pct=1.0)
    assert torch.allclose(seen(hub.load("timm:resnet18.a1"), IMAGES), cut(IMAGES, 8, 8, "bicubic"), atol=1e-5)
    timm(monkeypatch, crop_mode="border")
    with pytest.raises(ValueError, match="has crop_mode 'border'"):
        hub.load("timm:vit")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"height": 8, "width": 8}, "do_center_crop": False}, lambda x: cut(x, 8, 8, "bicubic")),
        ({"size": {"shortest_edge": 8}, "crop_pct": 0.8, "do_center_crop": False}, lambda x: cut(x, 10, 15, "bicubic")),
        ({"do_resize": False, "do_center_crop": False}, normalised),
        ({"do_resize": False, "do_center_crop": False, "do_normalize": False}, lambda x: x),
        ({"do_resize": False, "do_center_crop": False, "do_normalize": False, "do_rescale": False}, lambda x: 255 * x),
        (
            {"do_resize": False, "do_center_crop": False, "rescale_factor": 1 / 127.5},
            lambda x: (2 * x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1),
        ),
    ],
)
def test_processors_of_hugging_face(changes, expected, monkeypatch):
    hf(monkeypatch, **changes)
    assert torch.allclose(seen(hub.load("hf:x"), IMAGES), expected(IMAGES), atol=1e-4)


def test_what_cannot_be_resized_is_said(monkeypatch):
    hf(monkeypatch, resample=1)
    with pytest.raises(ValueError, match="resized by lanczos, which PyTorch cannot: give images of 8x8"):
        hub.load("hf:x")(IMAGES)
    hf(monkeypatch, size={"longest_edge": 10})
    with pytest.raises(ValueError, match=r"hf:x resizes images to \{'longest_edge': 10\}"):
        hub.load("hf:x")
    with pytest.raises(ValueError, match="images of 20x30 are too small to cut 24x24 out of"):
        Preprocess(Seen(), 0.0, 1.0, (24, 24))(IMAGES)


def test_robustbench_is_asked_for_data_and_threat(monkeypatch, tmp_path):
    asked = []

    def load_model(name: str, **how: str) -> nn.Module:
        asked.append((name, *how.values()))
        return Seen()

    monkeypatch.chdir(tmp_path)
    module(monkeypatch, "robustbench")
    module(monkeypatch, "robustbench.utils", load_model=load_model)
    for name in ("Carmon2019Unlabeled", "cifar100/L2/Other"):
        assert isinstance(hub.load(f"robustbench:{name}"), Seen)
    assert asked == [("Carmon2019Unlabeled", "cifar10", "Linf"), ("Other", "cifar100", "L2")]
    module(monkeypatch, "robustbench.utils", load_model=refuse)
    with pytest.raises(FileNotFoundError, match=f"looked for in {tmp_path}/models/cifar100/L2, and could not"):
        hub.load("robustbench:cifar100/L2/Other")


def test_errors_say_where_weights_were_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torchvision(monkeypatch, refuse)
    with pytest.raises(
        FileNotFoundError,
        match=rf"no weights for torchvision:resnet18: no route to host\. They were looked for in {tmp_path}/hub",
    ):
        hub.load("torchvision:resnet18")
    module(monkeypatch, "huggingface_hub", constants=None)
    module(monkeypatch, "huggingface_hub.constants", HF_HUB_CACHE="/cache/of/hf")
    timm(monkeypatch, refuse)
    with pytest.raises(FileNotFoundError, match=f"looked for in /cache/of/hf and {tmp_path}"):
        hub.load("timm:vit")
    hf(monkeypatch, fail=True)
    with pytest.raises(FileNotFoundError, match="looked for in /cache/of/hf, and"):
        hub.load("hf:some/vit")


def test_wrong_names(monkeypatch):
    timm(monkeypatch)
    torchvision(monkeypatch)
    for name, message in (
        ("timm:resnet19", "timm has no network called 'resnet19'; did you mean resnet18"),
        ("torchvision:resnt18", "torchvision has no network called 'resnt18'; did you mean resnet18"),
        ("hub:x", "unknown hub in 'hub:x': write timm:NAME, torchvision:NAME, hf:NAME, robustbench:NAME"),
        ("timm:", "unknown hub in 'timm:'"),
    ):
        with pytest.raises(ValueError, match=message):
            hub.load(name)


@pytest.mark.parametrize("name", hub.HUBS)
def test_a_missing_package_is_named(name, monkeypatch, place, capsys):  # noqa: F811
    package = {"hf": "transformers"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    for part in ("timm.data", "torchvision.models", "robustbench.utils"):
        monkeypatch.delitem(sys.modules, part, raising=False)
    with pytest.raises(ImportError, match=f"^{name}: {package} is missing. To fix: pip install {package}$"):
        hub.load(f"{name}:x")
    assert main(["evaluate", f"{name}:x", "--data", "data.npz"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.thorough
def test_a_network_of_transformers(tmp_path):
    """A real one, small and untrained, saved and loaded again."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5)
    torch.manual_seed(0)
    network = transformers.AutoModelForImageClassification.from_config(config).eval()
    network.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model, x = hub.load(f"hf:{tmp_path}"), samples(4, 3, 32, 32)
    with torch.no_grad():
        expected = network(pixel_values=(x - 0.5) / 0.5).logits
        assert torch.allclose(checked_logits(model, x), expected, atol=1e-5)
        assert torch.allclose(checked_logits(network, x), network(x).logits)  # without a word, its ModelOutput
    y = expected.argmax(1)
    assert evaluate(model, Dataset(x, y, tuple("abcde")), {"pgd": PGD(0.1)}).clean == 1
    before, after = (cross_entropy(checked_logits(model, each), y) for each in (x, PGD(0.1)(model, x, y)))
    assert (after > before).all()


# --------------------------------------------------------------------------------------------------- files of weights


class Unit(nn.Module):
    """A unit of a wide residual network, with the names of TRADES' code."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.bn1(x).relu()
        kept = self.convShortcut(active) if self.convShortcut else x
        return kept + self.conv2(self.bn2(self.conv1(active)).relu())


class Block(nn.Module):
    def __init__(self, *units: Unit):
        super().__init__()
        self.layer = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Wide(nn.Module):
    """WRN-16-2; with a block that is not used, as published ones have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for k, (a, b) in enumerate(((16, 32), (32, 64), (64, 128)), 1):
            setattr(self, f"block{k}", Block(Unit(a, b, 1 + (k > 1)), Unit(b, b, 1)))
        self.sub_block1 = Block(Unit(16, 32, 1))
        self.bn1, self.fc = nn.BatchNorm2d(128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.bn1(x).relu().mean((2, 3)))


class Basic(nn.Module):
    """A block of ResNet-18 with the names of pytorch-cifar."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class Eighteen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        for k, (a, b) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
            setattr(self, f"layer{k}", nn.Sequential(Basic(a, b, 1 + (k > 1)), Basic(b, b, 1)))
        self.linear = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return self.linear(self.layer4(self.layer3(x)).mean((2, 3)))


def stirred(network: nn.Module) -> nn.Module:
    """`network` with other statistics than those at the start."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
    return network.eval()


def agree(found: nn.Module, expected: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        a, b = found(x), expected(x)
    return not found.training and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max())))


@pytest.fixture
def known(monkeypatch) -> None:
    """Fewer networks to compare with than there are: it takes seconds with all."""
    for name in set(MODELS) - {"resnet18", "lenet5", "small-cnn", "wrn-28-4"}:
        monkeypatch.delitem(MODELS, name)


@pytest.mark.parametrize("network", [Wide, Eighteen])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_networks_of_others_are_known_by_their_names(network, prefix, known, tmp_path):
    network, x, path = stirred(network()), samples(2, 3, 16, 16), tmp_path / "it.pt"
    state = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 76} if prefix else state, path)
    assert agree(load_weights(path, (3, 16, 16), 10), network, x)


def test_weights_are_taken_to_be_of_a_network_with_relu(tmp_path, monkeypatch):
    for name in set(MODELS) - {"preact-resnet18", "preact-resnet18-silu"}:
        monkeypatch.delitem(MODELS, name)
    torch.save(build("preact-resnet18-silu", (3, 8, 8), 10).state_dict(), tmp_path / "it.pt")
    found = load_weights(tmp_path / "it.pt", (3, 8, 8), 10)
    assert any(isinstance(layer, nn.ReLU) for layer in found.modules())


def test_a_normalisation_among_the_weights(known, tmp_path):
    network, x = stirred(Eighteen()), samples(2, 3, 16, 16)
    state = {f"1.{key}": value for key, value in network.state_dict().items()}
    state |= {"0.mean": torch.tensor(MEAN).view(1, 3, 1, 1), "0.std": torch.tensor(STD).view(1, 3, 1, 1)}
    torch.save(state, tmp_path / "it.pth", _use_new_zipfile_serialization=False)
    found = load_weights(tmp_path / "it.pth", (3, 16, 16), 10)
    assert isinstance(found, Normalize)
    assert agree(found, Normalize(network, MEAN, STD), x)


def test_safetensors_out_and_in(known, tmp_path):
    torch.manual_seed(0)
    x, plain = samples(2, 1, 28, 28), build("lenet5", (1, 28, 28), 10).eval()
    for model in (plain, Normalize(plain, 0.3, 0.4), Normalize(plain, [0.3], [0.4])):
        path = save_weights(model, tmp_path / f"{type(model).__name__}-{id(model)}.safetensors")
        assert torch.equal(load_weights(path, (1, 28, 28), 10)(x), model(x))
    with pytest.raises(FileExistsError, match="exists: choose another name"):
        save_weights(plain, path)
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 1  # a bit of a weight
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="its weights are not those that were saved"):
        load_weights(path, (1, 28, 28), 10)
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
        load_weights(path, (1, 28, 28), 10)


@pytest.mark.parametrize("backward", ["exact", "identity"])
@pytest.mark.parametrize("normalised", [False, True])
def test_mean_sparse_out_and_in(backward, normalised, known, tmp_path):
    model, x = build("lenet5", (1, 28, 28), 10).eval(), samples(4, 1, 28, 28)
    model = Normalize(model, 0.3, 0.4) if normalised else model
    defended = mean_sparse(model, [samples(16, 1, 28, 28)], 0.7, backward=backward)
    found = load_weights(save_weights(defended, tmp_path / "it.safetensors"), (1, 28, 28), 10)
    assert isinstance(found, Normalize) == normalised
    parts = [part for part in found.modules() if isinstance(part, MeanSparse)]
    assert len(parts) == sum(isinstance(part, nn.ReLU) for part in model.modules())
    assert {(part.alpha, part.backward) for part in parts} == {(0.7, backward)}
    assert torch.equal(found(x), defended(x))
    assert not torch.equal(found(x), model(x))
    for a, b in zip(found.modules(), defended.modules(), strict=True):
        assert type(a) is type(b)


def test_mean_sparse_of_which_too_little_is_known(known, tmp_path):
    defended = mean_sparse(build("small-cnn", (1, 28, 28), 10), [samples(16, 1, 28, 28)], 0.7)
    torch.save(defended.state_dict(), tmp_path / "it.pt")
    with pytest.raises(ValueError, match=r"has the means of MeanSparse, but not its alpha: write it with hub.save_wei"):
        load_weights(tmp_path / "it.pt", (1, 28, 28), 10)
    first = next(part for part in defended.modules() if isinstance(part, MeanSparse))
    first.alpha = 0.1
    with pytest.raises(ValueError, match="every MeanSparse of a network must have the same alpha"):
        save_weights(defended, tmp_path / "it.safetensors")
    state = dict(build("small-cnn", (1, 28, 28), 10).state_dict())
    two = {"mean": torch.zeros(2), "std": torch.ones(2)}
    for name, how, message in (
        ("features.0", [0.2, "exact"], "before activations, and SmallCNN has none called 'features.0'"),
        ("elsewhere", [0.2, "exact"], "none called 'elsewhere'"),
        ("features.1", [-1, "exact"], "alpha must not be negative"),
        ("features.1", [0.2, "up"], "backward must be one of"),
        ("features.1", ["a"], "is damaged"),
    ):
        added = {f"{name}.0.{part}": value for part, value in two.items()}
        safetensors.torch.save_file(state | added, tmp_path / "bad.safetensors", {"mean_sparse": json.dumps(how)})
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / "bad.safetensors", (1, 28, 28), 10)
    whole = {f"features.1.0.{part}": value for part, value in two.items()}
    for added, how, message in (
        ({}, '[0.2, "exact"]', "bad.safetensors is damaged: it has the alpha of MeanSparse, but not all means"),
        ({"features.1.0.mean": two["mean"]}, '[0.2, "exact"]', "not all means and deviations"),
        (whole, "[0.2", "bad.safetensors is damaged: "),
        (whole, '[0.2, "exact"]', "bad.safetensors is damaged: .*size of tensor"),  # two channels of 32
    ):
        safetensors.torch.save_file(state | added, tmp_path / "bad.safetensors", {"mean_sparse": how})
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / "bad.safetensors", (1, 28, 28), 10)


def test_a_hash_in_a_name_is_verified(known, tmp_path):
    path = tmp_path / "plain.pt"
    torch.save(build("lenet5", (1, 28, 28), 10).state_dict(), path)
    true = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("net-20261129.pt").write_bytes(path.read_bytes())
    load_weights(path.with_name("net-20261129.pt"), (1, 28, 28), 10)  # a date
    wrong = "a" * 12 if not true.startswith("a" * 12) else "b" * 12
    right, bad = path.with_name(f"net-{true}.pt"), path.with_name(f"net-{wrong}.pt")
    right.write_bytes(path.read_bytes())
    bad.write_bytes(path.read_bytes())
    load_weights(right, (1, 28, 28), 10)
    with pytest.raises(ValueError, match=f"its name claims the SHA-256 {wrong}, and it has {true[:12]}"):
        load_weights(bad, (1, 28, 28), 10)
    for name in (true, "0" * 64):  # a blob of the Hugging Face cache
        (tmp_path / name).write_bytes(path.read_bytes())
        (tmp_path / f"link{name[0]}.bin").symlink_to(tmp_path / name)
    load_weights(tmp_path / f"link{true[0]}.bin", (1, 28, 28), 10)
    with pytest.raises(ValueError, match="claims the SHA-256 0000"):
        load_weights(tmp_path / "link0.bin", (1, 28, 28), 10)


def test_files_that_are_no_weights(known, tmp_path):
    state = Eighteen().state_dict()
    cases = {
        "two": ({"last": state, "best": state}, "it has several: last, best. Save the one you mean"),
        "none": ({"epoch": 3}, "it has none"),
        "object": ({"state_dict": state, "args": SimpleNamespace()}, "holds more than tensors and plain values"),
        "other": (linear(4, 3).state_dict(), r"fit no network of fastadv.models for samples of \[3, 16, 16\]"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / f"{name}.pt", (3, 16, 16), 10)


def test_weights_and_hubs_on_the_command_line(known, place, monkeypatch, capsys):  # noqa: F811
    torch.save(Eighteen().state_dict(), "eighteen.pt")
    save_weights(build("lenet5", (1, 28, 28), 10), "lenet.safetensors")
    flags = ["--data", "fashion-mnist-mini", "--limit", "20", "--attacks", "fgsm", "--checks", "0"]
    sparse = mean_sparse(build("lenet5", (1, 28, 28), 10), [samples(8, 1, 28, 28)], 0.2)
    save_weights(Normalize(sparse, 0.3, 0.4), "sparse.safetensors")
    for name in ("lenet", "sparse"):
        assert main(["evaluate", f"{name}.safetensors", *flags]) == 0
        assert name in capsys.readouterr().out
    assert main(["evaluate", "eighteen.pt", "--data", "data.npz"]) == 2
    assert "the weights in eighteen.pt fit no network" in capsys.readouterr().err
    module(monkeypatch, "robustbench")
    module(monkeypatch, "robustbench.utils", load_model=lambda name, **_: linear(4, 3))
    assert main(["evaluate", "robustbench:X", "--data", "data.npz", "--attacks", "fgsm", "--checks", "0"]) == 0
    assert "robustbench:X" in capsys.readouterr().out


def test_metadata_are_plain_text(known, tmp_path):
    path = save_weights(Normalize(build("lenet5", (1, 28, 28), 10), 0.3, 0.4), tmp_path / "it.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    assert json.loads(about["mean"]) == pytest.approx([0.3])
    assert set(about) == {"format", "mean", "std", "sha256"}
    assert adapt(Seen(), mean=0.5)(IMAGES).shape == (2, 3)
