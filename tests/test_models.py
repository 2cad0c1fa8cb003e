"""fastadv.models: published parameter counts, shapes, what is refused, and the wrapper."""

import pytest
import torch
from torch import nn

from fastadv import models
from fastadv.models import MODELS, LeNet5Wide, Normalize, ResNet18, SmallCNN, TwoCirclesNet, build

# Name, shape of a sample, classes, parameters: as published for 10 classes (and 2), by the formula for 7.
NETWORKS = [
    ("lenet5", (1, 28, 28), 10, 61_706),
    ("lenet5", (3, 32, 32), 10, 62_006),
    ("lenet5", (1, 28, 28), 7, 61_706 - 3 * 85),
    ("lenet5-wide", (1, 28, 28), 10, 3_274_634),
    ("lenet5-wide", (3, 32, 32), 10, 4_259_274),
    ("lenet5-wide", (3, 32, 32), 7, 4_259_274 - 3 * 1025),
    ("resnet18", (3, 32, 32), 10, 11_173_962),
    ("resnet18", (1, 28, 28), 10, 11_172_810),
    ("resnet18", (3, 32, 32), 100, 11_220_132),
    ("small-cnn", (1, 28, 28), 10, 312_202),
    ("small-cnn", (3, 32, 16), 7, 312_202 + 2 * 9 * 32 + (5 * 1 - 4 * 4) * 64 * 200 - 3 * 201),
    ("two-circles-net", (2,), 2, 25),
]


@pytest.mark.parametrize(("name", "shape", "classes", "parameters"), NETWORKS)
def test_networks(name, shape, classes, parameters):
    model = build(name, shape, classes).eval()  # in training, batch norm and dropout let samples depend on others
    assert type(model) is MODELS[name]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    x = torch.rand(3, *shape)
    logits = model(x)
    assert logits.shape == (3, classes)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(model(x[1:2]), logits[1:2])
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_every_network_is_registered_and_tried():
    public = [getattr(models, name) for name in models.__all__]
    networks = {item for item in public if isinstance(item, type) and issubclass(item, nn.Module)} - {Normalize}
    assert set(MODELS.values()) == networks
    assert set(MODELS) == {name for name, *_ in NETWORKS}


def test_build_draws_from_the_global_generator():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = build("lenet5", [1, 28, 28], 10).state_dict()
        torch.manual_seed(3)
        again = build("lenet5", (1, 28, 28), 10).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        ("lenet-5", (1, 28, 28), 10, "'lenet-5': choose one of lenet5, .*did you mean 'lenet5'"),
        ("xyzzy", (1, 28, 28), 10, "'xyzzy': choose one of lenet5, lenet5-wide, resnet18, small-cnn, two-circles-net$"),
        ("lenet5", (1, 30, 30), 10, r"LeNet5 takes .*\(1, 30, 30\)"),
        ("lenet5", (1, 28, 32), 10, r"LeNet5 takes .*\(1, 28, 32\)"),
        ("lenet5", (28, 28), 10, r"LeNet5 takes .*\(28, 28\)"),
        ("lenet5-wide", (3, 30, 32), 10, r"LeNet5Wide takes .*\(3, 30, 32\)"),
        ("lenet5-wide", (784,), 10, r"LeNet5Wide takes .*\(784,\)"),
        ("resnet18", (32, 32), 10, r"ResNet18 takes .*\(32, 32\)"),
        ("small-cnn", (1, 28, 15), 10, r"SmallCNN takes .*\(1, 28, 15\)"),
        ("small-cnn", (784,), 10, r"SmallCNN takes .*\(784,\)"),
        ("two-circles-net", (3,), 2, r"TwoCirclesNet .*\(3,\), 2"),
        ("two-circles-net", (2,), 10, r"TwoCirclesNet .*\(2,\), 10"),
    ],
)
def test_build_refuses(name, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        build(name, shape, classes)


def test_wide_lenet_takes_other_sides():
    assert LeNet5Wide((2, 12, 20), 4)(torch.rand(5, 2, 12, 20)).shape == (5, 4)


def test_small_cnn_starts_from_zero_logits():
    assert not SmallCNN()(torch.rand(2, 1, 28, 28)).any()


@pytest.mark.parametrize("side", [28, 32])
def test_resnet_halves_the_image_three_times(side):
    model, sides = ResNet18((1, side, side)).eval(), []
    for layer in model.features[:-2]:
        layer.register_forward_hook(lambda _, args, out: sides.append(out.shape[-1]))
    model(torch.rand(2, 1, side, side))
    assert sides == [side] * 5 + [side // 2] * 2 + [side // 4] * 2 + [4] * 2


def test_resnet_blocks_add_to_what_comes_in():
    same, wider = (block.eval() for block in ResNet18().features[4:6])
    x = torch.randn(2, 64, 8, 8)
    for block in (same, wider):
        nn.init.zeros_(block.residual[-1].weight)
    torch.testing.assert_close(same(x), x.relu())
    torch.testing.assert_close(wider(x), wider.shortcut(x).relu())


def test_two_circles_logits_are_zero_and_the_score():
    model, x = TwoCirclesNet(), torch.rand(50, 2)
    logits, score = model(x), model.score(x)
    assert score.shape == (50,)
    assert torch.equal(logits, torch.stack((torch.zeros(50), score), 1))
    torch.testing.assert_close(logits.softmax(1)[:, 1], score.sigmoid())


def test_normalize_goes_before_the_model():
    x = torch.rand(4, 3, 6, 6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    channels = [(x[:, c] - mean[c]) / std[c] for c in range(3)]
    wrapped = Normalize(model, mean, std)
    torch.testing.assert_close(wrapped(x), model(torch.stack(channels, 1)))
    assert [p.shape for p in wrapped.parameters()] == [p.shape for p in model.parameters()]
    assert set(wrapped.state_dict()) == {f"model.{key}" for key in model.state_dict()}
    assert wrapped.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((0.5, 0.5), (1.0,))])
def test_normalize_refuses(mean, std):
    with pytest.raises(ValueError, match=r"^Normalize: need as many mean as std, .* got mean=\(0\.5"):
        Normalize(nn.Identity(), mean, std)


def test_normalize_goes_where_the_model_is():
    wrapped = Normalize(nn.Conv2d(3, 2, 3).bfloat16(), (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    assert wrapped.mean.dtype == wrapped.std.dtype == torch.bfloat16
    assert wrapped(torch.rand(4, 3, 6, 6).bfloat16()).dtype == torch.bfloat16
