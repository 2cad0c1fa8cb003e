"""Residual networks in the form used for small images."""

from typing import ClassVar

from torch import Tensor, nn


class _Block(nn.Module):
    """``relu(x + bn(conv(relu(bn(conv(x))))))``, with a 1x1 convolution of x where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


class _ResNet(nn.Module):
    """A 3x3 stem, four stages of `depths` blocks with 64, 128, 256 and 512 channels, the mean over space, one layer."""

    depths: ClassVar[tuple[int, int, int, int]]

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10):
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"{type(self).__name__} takes samples of (channels, height, width), got {tuple(shape)}")
        channels = 64
        layers = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        for stage, depth in enumerate(self.depths):
            width = 64 << stage
            for number in range(depth):
                layers.append(_Block(channels, width, stride=2 if stage > 0 and number == 0 else 1))
                channels = width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class ResNet18(_ResNet):
    """ResNet-18 (He et al., 2016) for small images: logits [B, classes] from images [B, C, H, W] in [0, 1].

    Its first convolution is 3x3 without stride, and no max-pooling follows. Any H and W. 11,173,962 parameters on three
    channels with 10 classes, 11,172,810 on one. Raises ValueError for a `shape` that is not (C, H, W).
    """

    depths = (2, 2, 2, 2)
