"""Wide residual networks: as published, and the one of Madry et al.'s CIFAR-10 challenge."""

from torch import Tensor, nn

from ._shapes import IMAGES, not_of


def _conv3x3(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)


class _Unit(nn.Module):
    """``x + conv(act(conv(act(x))))``, act being batch norm and ReLU; where the width changes, conv1x1(act(x)) + ...

    With `shared`, `shortcut` takes ``act(x)``, otherwise x.
    """

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.act = self.activation(channels)
        self.residual = nn.Sequential(_conv3x3(channels, width, stride), self.activation(width), _conv3x3(width, width))
        self.shortcut, self.shared = nn.Identity(), False
        if channels != width:
            self.shortcut, self.shared = self.widening(channels, width, stride)

    @staticmethod
    def activation(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())

    @staticmethod
    def widening(channels: int, width: int, stride: int) -> tuple[nn.Module, bool]:
        """`shortcut` and `shared` of a unit that changes the width."""
        return nn.Conv2d(channels, width, 1, stride, bias=False), True

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act(x)
        return self.shortcut(activated if self.shared else x) + self.residual(activated)


class _MadryUnit(_Unit):
    """The same with leaky ReLU, and where the width changes, x averaged over space and padded by channels of zeros."""

    @staticmethod
    def activation(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(channels, eps=1e-3), nn.LeakyReLU(0.1))  # TensorFlow's eps

    @staticmethod
    def widening(channels: int, width: int, stride: int) -> tuple[nn.Module, bool]:
        pad = (width - channels) // 2
        pool = nn.AvgPool2d(stride, ceil_mode=True)  # ceil: as the convolution rounds an odd side
        return nn.Sequential(pool, nn.ZeroPad3d((0, 0, 0, 0, pad, pad))), stride == 1


class _WideResNet(nn.Module):
    """A stem of 16 channels, three stages of units, the mean over space, one layer."""

    def __init__(self, shape: tuple[int, ...], classes: int, units: int, widen: int, unit: type[_Unit]):
        super().__init__()
        if len(shape) != 3:
            raise not_of(self, IMAGES, shape)
        channels = 16
        layers: list[nn.Module] = [_conv3x3(shape[0], channels)]
        for stage in range(3):
            width = 16 * widen << stage
            for number in range(units):
                layers.append(unit(channels, width, stride=2 if stage > 0 and number == 0 else 1))
                channels = width
        self.features = nn.Sequential(*layers, unit.activation(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class WideResNet(_WideResNet):
    """WRN-depth-widen (Zagoruyko and Komodakis, 2016), without dropout: logits [B, classes] from images [B, C, H, W].

    Three stages of (depth - 4) / 6 pre-activation units, ``16 * widen`` channels in the first and twice as many in each
    of the next, with a 1x1 convolution where the width changes. Images in [0, 1], any H and W. Parameters on three
    channels with 10 classes: WRN-28-4 5,849,050, WRN-40-4 8,949,210, WRN-28-10 36,479,194, WRN-34-10 46,160,474 (the
    WRN-32-10 of friendly adversarial training), WRN-58-10 84,885,594.

    Raises ValueError for a `shape` that is not (C, H, W), a `depth` that is not 10, 16, 22 ..., or a `widen` below 1.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, depth: int = 28, widen: int = 10):
        if depth < 10 or depth % 6 != 4 or widen < 1:
            raise ValueError(
                f"WideResNet needs a depth of 10, 16, 22 ... and a widen of 1 or more, got {depth}, {widen}"
            )
        super().__init__(shape, classes, (depth - 4) // 6, widen, _Unit)


class MadryResNet(_WideResNet):
    """w32-10 of Madry et al.'s CIFAR-10 challenge (2018), also the "WRN-28-10" of bilateral adversarial training.

    Three stages of five pre-activation units of 160, 320 and 640 channels. Unlike WRN-34-10 it has leaky ReLU of slope
    0.1, and shortcuts without parameters: the mean over 2x2 pixels where the image is halved, new channels of zeros on
    both sides, and only the first unit's takes the activated image. The original standardises each image first, and its
    convolutions of stride 2 pad only below and on the right. Logits [B, classes] from images [B, C, H, W] in [0, 1],
    any H and W. 45,901,914 parameters on three channels with 10 classes. Raises ValueError for a `shape` that is not
    (C, H, W).
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10):
        super().__init__(shape, classes, units=5, widen=10, unit=_MadryUnit)
        nn.init.kaiming_uniform_(self.classifier.weight, nonlinearity="linear")  # U(-b, b), b = sqrt(3 / inputs)
