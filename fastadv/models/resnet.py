"""Residual networks in the form used for small images."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from ._activations import nonlinear
from ._shapes import IMAGES, not_of

Nonlinear = Callable[[], nn.Module]


def _conv(channels: int, width: int, size: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(width)


class _Block(nn.Module):
    """``act(x + bn(conv(act(bn(conv(x))))))`` with `nonlinear` for act, and a 1x1 convolution of x where the shape
    changes.
    """

    expansion: ClassVar[int] = 1  # the output's channels over `width`

    def __init__(self, channels: int, width: int, stride: int, nonlinear: Nonlinear):
        super().__init__()
        out = self.expansion * width
        self.residual = nn.Sequential(*self.layers(channels, width, out, stride, nonlinear))
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(*_conv(channels, out, 1, stride))
        self.act = nonlinear()

    @staticmethod
    def layers(channels: int, width: int, out: int, stride: int, nonlinear: Nonlinear) -> tuple[nn.Module, ...]:
        return *_conv(channels, width, 3, stride), nonlinear(), *_conv(width, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.residual(x) + self.shortcut(x))


class _Bottleneck(_Block):
    """The same with three convolutions: 1x1 to `width` channels, 3x3, 1x1 to four times as many."""

    expansion = 4

    @staticmethod
    def layers(channels: int, width: int, out: int, stride: int, nonlinear: Nonlinear) -> tuple[nn.Module, ...]:
        first, second = _conv(channels, width, 1), _conv(width, width, 3, stride)
        return *first, nonlinear(), *second, nonlinear(), *_conv(width, out, 1)


class _ResNet(nn.Module):
    """A 3x3 stem, four stages of `depths` blocks of width 64, 128, 256 and 512, the mean over space, one layer."""

    depths: ClassVar[tuple[int, int, int, int]]
    block: ClassVar[type[_Block]] = _Block

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, activation: str = "relu"):
        super().__init__()
        act = nonlinear(activation)
        if len(shape) != 3:
            raise not_of(self, IMAGES, shape)
        channels = 64
        layers: list[nn.Module] = [*_conv(shape[0], channels, 3), act()]
        for stage, depth in enumerate(self.depths):
            width = 64 << stage
            for number in range(depth):
                layers.append(self.block(channels, width, 2 if stage > 0 and number == 0 else 1, act))
                channels = self.block.expansion * width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class ResNet18(_ResNet):
    """ResNet-18 (He et al., 2016) for small images: logits [B, classes] from images [B, C, H, W] in [0, 1].

    Its first convolution is 3x3 without stride, and no max-pooling follows. Any H and W. 11,173,962 parameters on three
    channels with 10 classes, 11,172,810 on one. Raises ValueError for a `shape` that is not (C, H, W), or an
    `activation` that is not relu or silu.
    """

    depths = (2, 2, 2, 2)


class ResNet34(_ResNet):
    """ResNet-34: ResNet18 with 3, 4, 6 and 3 blocks in its stages; images, logits and errors as there.

    21,282,122 parameters on three channels with 10 classes, 21,328,292 with 100.
    """

    depths = (3, 4, 6, 3)


class ResNet50(_ResNet):
    """ResNet-50: ResNet34 with bottlenecks for blocks; images, logits and errors as of ResNet18.

    Where the image is halved, the 3x3 convolution has the stride; in the paper, the 1x1 before it. 23,520,842
    parameters on three channels with 10 classes, 23,705,252 with 100.
    """

    depths = (3, 4, 6, 3)
    block = _Bottleneck


class ResNet101(_ResNet):
    """ResNet-101: ResNet50 with 23 blocks in its third stage; images, logits and errors as of ResNet18.

    42,512,970 parameters on three channels with 10 classes, 42,697,380 with 100.
    """

    depths = (3, 4, 23, 3)
    block = _Bottleneck
