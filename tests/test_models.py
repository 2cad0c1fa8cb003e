"""fastadv.models: published parameter counts, shapes, what is refused, and the wrapper."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastadv import models
from fastadv.models import (
    MODELS,
    CosineHead,
    FitNet4,
    LeNet5Wide,
    MadryResNet,
    Normalize,
    PreActResNet18,
    ResNet18,
    ResNet50,
    SmallCNN,
    SmallCNN8,
    TwoCirclesNet,
    WideResNet,
    build,
)

# Name, shape of a sample, classes, parameters: as published for 10 and 100 classes (and 2), by the formula for 7.
# Batch norm adds 2 a channel. Where no layer depends on the size of the image, large networks are run on small ones.
FITNET4_CHANNELS = 3 * 32 + 2 * 48 + 6 * 80 + 6 * 128
NETWORKS = [
    ("fitnet4", (3, 32, 32), 10, 1_276_806 + 2 * FITNET4_CHANNELS),
    ("fitnet4", (3, 32, 32), 100, 1_321_896 + 2 * FITNET4_CHANNELS),
    ("fitnet4", (1, 28, 28), 10, 1_276_806 + 2 * FITNET4_CHANNELS - 2 * 9 * 32),
    ("fitnet4-plain", (3, 32, 32), 10, 1_276_806),
    ("fitnet4-plain", (3, 32, 32), 100, 1_321_896),
    ("fitnet4-plain", (2, 9, 6), 7, 1_276_806 - 9 * 32 - 3 * 501),
    ("lenet5", (1, 28, 28), 10, 61_706),
    ("lenet5", (3, 32, 32), 10, 62_006),
    ("lenet5", (1, 28, 28), 7, 61_706 - 3 * 85),
    ("lenet5-bn", (1, 28, 28), 10, 61_706 + 2 * (6 + 16)),
    ("lenet5-unpadded", (1, 28, 28), 10, 44_426),
    ("lenet5-wide", (1, 28, 28), 10, 3_274_634),
    ("lenet-caffe", (1, 28, 28), 10, 431_080),
    ("lenet5-wide", (3, 32, 32), 10, 4_259_274),
    ("lenet5-wide", (3, 32, 32), 7, 4_259_274 - 3 * 1025),
    ("net-mnist", (1, 28, 28), 10, 21_840),
    ("net-mnist", (3, 32, 16), 7, 21_840 + 2 * 25 * 10 + (5 * 1 - 4 * 4) * 20 * 50 - 3 * 51),
    # 11,171,146 in the layout without batch norm before the mean over space
    ("preact-resnet18", (3, 8, 8), 10, 11_171_146 + 2 * 512),
    ("preact-resnet18-silu", (1, 7, 9), 7, 11_171_146 + 2 * 512 - 2 * 9 * 64 - 3 * 513),
    ("resnet18", (3, 32, 32), 10, 11_173_962),
    ("resnet18", (1, 28, 28), 10, 11_172_810),
    ("resnet18", (3, 32, 32), 100, 11_220_132),
    ("resnet34", (3, 8, 8), 10, 21_282_122),
    ("resnet34", (3, 8, 8), 100, 21_328_292),
    ("resnet50", (3, 8, 8), 10, 23_520_842),
    ("resnet50", (1, 7, 9), 100, 23_705_252 - 2 * 9 * 64),
    ("resnet101", (3, 8, 8), 10, 42_512_970),
    ("resnet101", (3, 8, 8), 100, 42_697_380),
    ("small-cnn", (1, 28, 28), 10, 312_202),
    ("small-cnn", (3, 32, 16), 7, 312_202 + 2 * 9 * 32 + (5 * 1 - 4 * 4) * 64 * 200 - 3 * 201),
    ("small-cnn-8", (3, 32, 32), 10, 1_639_282),
    ("small-cnn-8", (1, 23, 8), 7, 1_639_282 - 2 * 9 * 64 + (2 * 1 - 4 * 4) * 196 * 256 - 3 * 257),
    ("smd-fashion", (1, 28, 28), 10, 3_129_866),
    ("smd-fashion", (3, 32, 25), 7, 3_129_866 + 2 * 25 * 64 - 3 * 513),
    ("smd-svhn", (3, 32, 32), 10, 814_634),
    ("two-circles-net", (2,), 2, 25),
    ("w32-10", (3, 8, 8), 10, 45_901_914),
    ("w32-10", (1, 7, 9), 7, 45_901_914 - 2 * 9 * 16 - 3 * 641),
    ("wrn-28-4", (3, 8, 8), 10, 5_849_050),
    ("wrn-28-4", (1, 7, 9), 7, 5_849_050 - 2 * 9 * 16 - 3 * 257),
    ("wrn-28-10", (3, 8, 8), 10, 36_479_194),
    ("wrn-28-10", (3, 8, 8), 100, 36_536_884),
    ("wrn-32-10", (3, 8, 8), 10, 46_160_474),
    ("wrn-34-10", (3, 8, 8), 10, 46_160_474),
    ("wrn-34-10", (3, 8, 8), 100, 46_218_164),
    ("wrn-40-4", (3, 8, 8), 10, 8_949_210),
    ("wrn-58-10", (3, 8, 8), 10, 84_885_594),
]
# What these compute, others of their class do. The second by the formula that gives the published numbers of others.
LARGE = [("wrn-28-10-silu", (3, 8, 8), 10, 36_479_194), ("wrn-34-20", (3, 8, 8), 10, 184_531_674)]
SIDES = {name: shape[1:] for name, shape, *_ in NETWORKS if len(shape) == 3}


@pytest.mark.parametrize(("name", "shape", "classes", "parameters"), NETWORKS)
def test_networks(name, shape, classes, parameters):
    model = build(name, shape, classes).eval()  # in training, batch norm and dropout let samples depend on others
    assert type(model) is getattr(MODELS[name], "func", MODELS[name])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    x = torch.rand(3, *shape)
    logits = model(x)
    assert logits.shape == (3, classes)
    assert logits.dtype == torch.float32
    # To the rounding of deep networks, whose first logits may be large.
    torch.testing.assert_close(model(x[1:2]), logits[1:2], rtol=1e-4, atol=1e-4 * logits.abs().max().item())
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", SIDES)
def test_image_networks_compute_in_channels_last_what_they_do_in_order(name):
    model = build(name, (3, *SIDES[name]), 10).eval()
    for parameter in model.parameters():
        if not parameter.any():  # the logits of some start at zero, where nothing would be compared
            nn.init.normal_(parameter)
    x, seen = torch.rand(4, 3, *SIDES[name]), []
    with torch.no_grad():
        logits = model(x)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        found = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4 * logits.abs().max().item())
    assert seen
    if any(isinstance(layer, nn.InstanceNorm2d) for layer in model.modules()):
        seen = seen[:2]  # what PyTorch's instance norm gives is contiguous
    assert all(given.is_contiguous(memory_format=torch.channels_last) for given in seen)


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 7), (4, 1000)])
@pytest.mark.parametrize("name", SIDES)
def test_image_networks_take_any_channels_and_classes(name, channels, classes):
    with torch.device("meta"):  # which computes shapes alone
        logits = build(name, (channels, *SIDES[name]), classes)(torch.rand(5, channels, *SIDES[name]))
    assert logits.shape == (5, classes)


def test_every_network_is_registered_and_tried():
    public = [getattr(models, name) for name in models.__all__]
    parts = {models.Adapted, CosineHead, models.MeanSparse, Normalize}
    networks = {item for item in public if isinstance(item, type) and issubclass(item, nn.Module)} - parts
    assert {getattr(item, "func", item) for item in MODELS.values()} == networks
    assert set(MODELS) == {name for name, *_ in NETWORKS + LARGE}


@pytest.mark.parametrize(("name", "shape", "classes", "parameters"), LARGE)
def test_large_networks(name, shape, classes, parameters):
    with torch.device("meta"):  # which computes shapes alone
        model = build(name, shape, classes)
        logits = model(torch.rand(5, *shape))
    assert type(model) is MODELS[name].func
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert logits.shape == (5, classes)


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
        ("lenet-5", (1, 28, 28), 10, "'lenet-5': choose one of .*did you mean 'lenet5'"),
        ("xyzzy", (1, 28, 28), 10, f"'xyzzy': choose one of {', '.join(MODELS)}$"),
        ("wrn-28", (3, 32, 32), 10, "did you mean 'wrn-28-4'"),
        ("lenet5", (1, 30, 30), 10, r"LeNet5 takes .*\(1, 30, 30\)"),
        ("lenet5", (1, 28, 32), 10, r"LeNet5 takes .*\(1, 28, 32\)"),
        ("lenet5", (28, 28), 10, r"LeNet5 takes .*\(28, 28\)"),
        ("lenet5-wide", (3, 30, 32), 10, r"LeNet5Wide takes .*\(3, 30, 32\)"),
        ("lenet5-wide", (784,), 10, r"LeNet5Wide takes .*\(784,\)"),
        ("net-mnist", (1, 28, 30), 10, r"NetMNIST takes .*\(1, 28, 30\)"),
        ("net-mnist", (1, 12, 28), 10, r"NetMNIST takes .*\(1, 12, 28\)"),
        ("resnet18", (32, 32), 10, r"ResNet18 takes .*\(32, 32\)"),
        ("resnet34", (784,), 10, r"ResNet34 takes .*\(784,\)"),
        ("resnet50", (32, 32), 10, r"ResNet50 takes .*\(32, 32\)"),
        ("resnet101", (1, 3, 32, 32), 10, r"ResNet101 takes .*\(1, 3, 32, 32\)"),
        ("small-cnn", (1, 28, 15), 10, r"SmallCNN takes .*\(1, 28, 15\)"),
        ("small-cnn", (784,), 10, r"SmallCNN takes .*\(784,\)"),
        ("small-cnn-8", (3, 7, 32), 10, r"SmallCNN8 takes .*\(3, 7, 32\)"),
        ("small-cnn-8", (32, 32), 10, r"SmallCNN8 takes .*\(32, 32\)"),
        ("smd-fashion", (1, 33, 28), 10, r"SMDFashionNet takes .*\(1, 33, 28\)"),
        ("smd-svhn", (3, 24, 32), 10, r"SMDSVHNNet takes .*\(3, 24, 32\)"),
        ("fitnet4", (3, 32, 3), 10, r"FitNet4 takes .*\(3, 32, 3\)"),
        ("fitnet4-plain", (784,), 10, r"FitNet4 takes .*\(784,\)"),
        ("w32-10", (32, 32), 10, r"MadryResNet takes .*\(32, 32\)"),
        ("preact-resnet18", (32, 32), 10, r"PreActResNet18 takes .*\(32, 32\)"),
        ("wrn-28-4", (32, 32), 10, r"WideResNet takes .*\(32, 32\)"),
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


@pytest.mark.parametrize(("kind", "side"), [(ResNet18, 28), (ResNet18, 32), (ResNet50, 8)])
def test_resnets_halve_the_image_three_times(kind, side):
    model, sides = kind((1, side, side)).eval(), []
    for layer in model.features[:-2]:
        layer.register_forward_hook(lambda _, args, out: sides.append(out.shape[-1]))
    model(torch.rand(2, 1, side, side))
    stem, (first, *others) = 3, kind.depths
    halved = [side // 2, side // 4, math.ceil(side / 8)]
    assert sides == [side] * (stem + first) + [s for s, depth in zip(halved, others, strict=True) for _ in range(depth)]
    strided = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    assert [layer.kernel_size for layer in strided] == [(3, 3), (1, 1)] * 3  # that of the block, that of its shortcut


@pytest.mark.parametrize(("kind", "channels"), [(ResNet18, 64), (ResNet50, 256)])
def test_resnet_blocks_add_to_what_comes_in(kind, channels):
    features = kind().eval().features
    same, wider = features[4], features[3 + kind.depths[0]]
    x = torch.randn(2, channels, 8, 8)
    for block in (same, wider):
        nn.init.zeros_(block.residual[-1].weight)
    torch.testing.assert_close(same(x), x.relu())
    torch.testing.assert_close(wider(x), wider.shortcut(x).relu())


def test_bottlenecks_are_three_convolutions_through_a_quarter_of_the_channels():
    block = ResNet50().eval().features[4]
    convolutions = [layer for layer in block.residual if isinstance(layer, nn.Conv2d)]
    widths = [(layer.kernel_size[0], layer.in_channels, layer.out_channels) for layer in convolutions]
    assert widths == [(1, 256, 64), (3, 64, 64), (1, 64, 256)]
    x = torch.randn(2, 256, 8, 8)
    first, second, third = convolutions
    norm = math.sqrt(1 + 1e-5)  # batch norm as it starts
    inner = (second((first(x) / norm).relu()) / norm).relu()
    torch.testing.assert_close(block(x), (x + third(inner) / norm).relu())


def test_small_cnn_8_is_three_pairs_of_convolutions_and_two_layers():
    model, x = SmallCNN8((2, 9, 16), 4).eval(), torch.rand(5, 2, 9, 16)
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 196, 196]
    maps = x
    for first, second in zip(convolutions[::2], convolutions[1::2], strict=True):
        for layer in (first, second):
            maps = (layer(maps) / math.sqrt(1 + 1e-5)).relu()  # batch norm as it starts
        maps = F.max_pool2d(maps, 2)
    hidden, _, last = model.classifier
    torch.testing.assert_close(model(x), last(hidden(maps.flatten(1)).relu()))


@pytest.mark.parametrize("side", [28, 32])
def test_fitnet4_pools_three_times_and_leaves_one_pixel(side):
    model = FitNet4((1, side, side)).eval()
    pools = [layer for layer in model.features if isinstance(layer, nn.MaxPool2d)]
    sides = []
    for layer in pools:
        layer.register_forward_hook(lambda _, args, out: sides.append((args[0].shape[-1], out.shape[-1])))
    model(torch.rand(2, 1, side, side))
    assert sides == [(side, side // 2), (side // 2, side // 4), (side // 4, 1)]
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32] * 3 + [48] * 2 + [80] * 6 + [128] * 6


def test_fitnet4_passes_its_input_on_without_batch_norm():
    torch.manual_seed(0)
    model, seen = FitNet4(batch_norm=False), []
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, args, out: seen.append(out.square().mean().item()))
    model(torch.rand(8, 3, 32, 32))
    # With the weights that PyTorch starts from, the ratio is 0.003, and the rest is that of the biases.
    assert 0.05 < seen[-1] / seen[0] < 20


@pytest.mark.parametrize("kind", [WideResNet, MadryResNet])
def test_wide_resnets_halve_the_image_twice(kind):
    model = kind().eval()
    units, sides = model.features[1:-3], []
    for unit in units:
        unit.register_forward_hook(lambda _, args, out: sides.append(out.shape[-1]))
    model(torch.rand(1, 3, 8, 8))
    each = len(units) // 3
    assert sides == [8] * each + [4] * each + [2] * each
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * layer.out_channels)), rel=0.2)
    assert not model.classifier.bias.any()


def test_wide_resnet_shortcuts_are_the_input_or_a_convolution_of_its_activation():
    wider, halving = (unit.eval() for unit in WideResNet(depth=10, widen=2).features[1:3])
    (same,) = (unit.eval() for unit in WideResNet(depth=10, widen=1).features[1:2])
    for unit, channels, stride in ((same, 16, None), (wider, 16, 1), (halving, 32, 2)):
        nn.init.zeros_(unit.residual[-1].weight)
        x = torch.randn(2, channels, 8, 8)
        expected = x if stride is None else F.conv2d(unit.act(x), unit.shortcut.weight, stride=stride)
        torch.testing.assert_close(unit(x), expected)
        torch.testing.assert_close(unit.act(x), (x / math.sqrt(1 + 1e-5)).relu())  # batch norm as it starts


def test_preact_resnet_halves_the_image_three_times():
    model, sides = PreActResNet18((1, 28, 28)).eval(), []
    for unit in model.features[1:-3]:
        unit.register_forward_hook(lambda _, args, out: sides.append((out.shape[1], out.shape[-1])))
    model(torch.rand(1, 1, 28, 28))
    assert sides == [(width, side) for width, side in ((64, 28), (128, 14), (256, 7), (512, 4)) for _ in range(2)]


@pytest.mark.parametrize("kind", [ResNet18, PreActResNet18, partial(WideResNet, depth=10, widen=1)])
def test_activations_are_relu_or_silu_and_both_have_the_same_weights(kind):
    for name, activation in (("relu", nn.ReLU), ("silu", nn.SiLU)):
        with torch.device("meta"):
            model, usual = kind(activation=name), kind()
        found = {type(layer) for layer in model.modules() if isinstance(layer, nn.ReLU | nn.SiLU | nn.LeakyReLU)}
        assert found == {activation}
        assert list(model.state_dict()) == list(usual.state_dict())
    with pytest.raises(ValueError, match="activation must be one of relu, silu, got 'swish'"):
        kind(activation="swish")


def test_madry_resnet_shortcuts_have_no_parameters():
    model = MadryResNet().eval()
    assert model.classifier.weight.abs().max().item() == pytest.approx(math.sqrt(3 / 640), rel=0.01)
    units = model.features[1:-3]
    wider, same, halving = units[0], units[1], units[5]
    for unit in (wider, same, halving):
        nn.init.zeros_(unit.residual[-1].weight)
    x = torch.randn(2, 16, 8, 8)
    zeros = torch.zeros(2, 72, 8, 8)
    activated = F.leaky_relu(x / math.sqrt(1 + 1e-3), 0.1)
    torch.testing.assert_close(wider(x), torch.cat((zeros, activated, zeros), 1))
    x = torch.randn(2, 160, 8, 8)
    zeros = torch.zeros(2, 80, 4, 4)
    pooled = x.view(2, 160, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(same(x), x)
    torch.testing.assert_close(halving(x), torch.cat((zeros, pooled, zeros), 1))


@pytest.mark.parametrize(("depth", "widen"), [(4, 1), (27, 10), (32, 10), (28, 0)])
def test_wide_resnet_refuses(depth, widen):
    with pytest.raises(ValueError, match=rf"depth of 10, 16, 22 \.\.\. .* got {depth}, {widen}"):
        WideResNet(depth=depth, widen=widen)


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
