"""The frame of pre-activation residual networks (He et al.: Identity Mappings in Deep Residual Networks, 2016)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ._shapes import IMAGES, not_of


def conv3x3(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with padding and without bias."""
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)


class Unit(nn.Module):
    """``x + conv(act(conv(act(x))))`` with batch norm and `nonlinear` for act; where the width changes, x becomes
    ``conv1x1(act(x))``.

    With `shared`, `shortcut` takes ``act(x)``, otherwise x.
    """

    def __init__(self, channels: int, width: int, stride: int, nonlinear: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        first, second = (self.activation(each, nonlinear) for each in (channels, width))
        self.act = first
        self.residual = nn.Sequential(conv3x3(channels, width, stride), second, conv3x3(width, width))
        self.shortcut, self.shared = nn.Identity(), False
        if channels != width:
            self.shortcut, self.shared = self.widening(channels, width, stride)

    @staticmethod
    def activation(channels: int, nonlinear: Callable[[], nn.Module]) -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(channels), nonlinear())

    @staticmethod
    def widening(channels: int, width: int, stride: int) -> tuple[nn.Module, bool]:
        """`shortcut` and `shared` of a unit that changes the width."""
        return nn.Conv2d(channels, width, 1, stride, bias=False), True

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act(x)
        return self.shortcut(activated if self.shared else x) + self.residual(activated)


class PreActivation(nn.Module):
    """A stem of `stem` channels, a stage of `units` units for each of `widths`, an activation, the mean over space, one
    layer.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        stem: int,
        widths: Sequence[int],
        units: int,
        nonlinear: Callable[[], nn.Module] = nn.ReLU,
        unit: type[Unit] = Unit,
    ):
        super().__init__()
        if len(shape) != 3:
            raise not_of(self, IMAGES, shape)
        channels = stem
        layers: list[nn.Module] = [conv3x3(shape[0], channels)]
        for stage, width in enumerate(widths):
            for number in range(units):
                layers.append(unit(channels, width, 2 if stage > 0 and number == 0 else 1, nonlinear))
                channels = width
        last = unit.activation(channels, nonlinear)
        self.features = nn.Sequential(*layers, last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
