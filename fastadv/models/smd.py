"""The networks of self-adaptive margin defense for Fashion-MNIST and SVHN."""

from torch import Tensor, nn

from ._shapes import IMAGES, not_of


class _SMDNet(nn.Module):
    """Convolutions with leaky ReLU, instance norm after all but the first; the last has 4x4 pixels in and one out."""

    def __init__(self, shape: tuple[int, ...], classes: int, convolutions: tuple[tuple[int, int, int], ...]):
        super().__init__()
        if len(shape) != 3 or not all(25 <= side <= 32 for side in shape[1:]):
            raise not_of(self, f"{IMAGES}, from 25x25 to 32x32", shape)
        channels, layers = shape[0], []
        for width, size, stride in convolutions:
            layers.append(nn.Conv2d(channels, width, size, stride, padding=size // 2))
            layers += [nn.InstanceNorm2d(width)] if len(layers) > 1 else []
            layers.append(nn.LeakyReLU())
            channels = width
        width = 2 * channels
        layers += [nn.Conv2d(channels, width, 4), nn.Flatten(), nn.LayerNorm(width), nn.LeakyReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class SMDFashionNet(_SMDNet):
    """Four convolutions and one linear layer (Ma and Liang: SMD, Appendix B.4, for Fashion-MNIST).

    5x5 convolutions of 64, 128 and 256 channels with stride 2, a 4x4 of 512, layer norm. Logits [B, classes] from
    images [B, C, H, W] in [0, 1]. 3,129,866 parameters on 1x28x28 with 10 classes. Raises ValueError for a `shape` that
    is not (C, H, W) with H and W from 25 to 32.
    """

    def __init__(self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10):
        super().__init__(shape, classes, ((64, 5, 2), (128, 5, 2), (256, 5, 2)))


class SMDSVHNNet(_SMDNet):
    """Seven convolutions and one linear layer (Ma and Liang: SMD, Appendix B.3, for SVHN).

    3x3 convolutions of 32, 32, 64, 64, 128 and 128 channels, every second with stride 2, a 4x4 of 256, layer norm.
    Logits [B, classes] from images [B, C, H, W] in [0, 1]. 814,634 parameters on 3x32x32 with 10 classes. Raises
    ValueError for a `shape` that is not (C, H, W) with H and W from 25 to 32.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10):
        widths = (32, 32, 64, 64, 128, 128)
        super().__init__(shape, classes, tuple((width, 3, 1 + i % 2) for i, width in enumerate(widths)))
