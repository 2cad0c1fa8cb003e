"""Wide residual networks: as published, and the one of Madry et al.'s CIFAR-10 challenge."""

from collections.abc import Callable
from functools import partial

from torch import nn

from ._activations import nonlinear
from ._preact import PreActivation, Unit


class _MadryUnit(Unit):
    """A unit with leaky ReLU, and where the width changes, x averaged over space and padded by channels of zeros."""

    @staticmethod
    def activation(channels: int, nonlinear: Callable[[], nn.Module]) -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(channels, eps=1e-3), nonlinear())  # TensorFlow's eps

    @staticmethod
    def widening(channels: int, width: int, stride: int) -> tuple[nn.Module, bool]:
        pad = (width - channels) // 2
        pool = nn.AvgPool2d(stride, ceil_mode=True)  # ceil: as the convolution rounds an odd side
        return nn.Sequential(pool, nn.ZeroPad3d((0, 0, 0, 0, pad, pad))), stride == 1


class WideResNet(PreActivation):
    """WRN-depth-widen (Zagoruyko and Komodakis, 2016), without dropout: logits [B, classes] from images [B, C, H, W].

    Three stages of (depth - 4) / 6 pre-activation units, ``16 * widen`` channels in the first and twice as many in each
    of the next, with a 1x1 convolution where the width changes. Images in [0, 1], any H and W. Parameters on three
    channels with 10 classes: WRN-28-4 5,849,050, WRN-40-4 8,949,210, WRN-28-10 36,479,194, WRN-34-10 46,160,474 (the
    WRN-32-10 of friendly adversarial training), WRN-34-20 184,531,674, WRN-58-10 84,885,594. With silu, WRN-28-10 is
    that of Wang et al. (2023), but for the momentum of batch norm, 0.01 there and 0.1 here, and the padding of
    convolutions of stride 2, there below and on the right only.

    Raises ValueError for a `shape` that is not (C, H, W), a `depth` that is not 10, 16, 22 ..., a `widen` below 1,
    or an `activation` that is not relu or silu.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (3, 32, 32),
        classes: int = 10,
        depth: int = 28,
        widen: int = 10,
        activation: str = "relu",
    ):
        if depth < 10 or depth % 6 != 4 or widen < 1:
            raise ValueError(
                f"WideResNet needs a depth of 10, 16, 22 ... and a widen of 1 or more, got {depth}, {widen}"
            )
        widths = [16 * widen << stage for stage in range(3)]
        super().__init__(shape, classes, 16, widths, (depth - 4) // 6, nonlinear(activation))


class MadryResNet(PreActivation):
    """w32-10 of Madry et al.'s CIFAR-10 challenge (2018), also the "WRN-28-10" of bilateral adversarial training.

    Three stages of five pre-activation units of 160, 320 and 640 channels. Unlike WRN-34-10 it has leaky ReLU of slope
    0.1, and shortcuts without parameters: the mean over 2x2 pixels where the image is halved, new channels of zeros on
    both sides, and only the first unit's takes the activated image. The original standardises each image first, and its
    convolutions of stride 2 pad only below and on the right. Logits [B, classes] from images [B, C, H, W] in [0, 1],
    any H and W. 45,901,914 parameters on three channels with 10 classes. Raises ValueError for a `shape` that is not
    (C, H, W).
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10):
        slope = partial(nn.LeakyReLU, 0.1)
        super().__init__(shape, classes, 16, (160, 320, 640), units=5, nonlinear=slope, unit=_MadryUnit)
        nn.init.kaiming_uniform_(self.classifier.weight, nonlinearity="linear")  # U(-b, b), b = sqrt(3 / inputs)
