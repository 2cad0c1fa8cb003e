"""LeNet-5, as published and in the wide form that fits the Blind AT paper's figures."""

from torch import Tensor, nn

from ._shapes import IMAGES, not_of


def _convolutions(
    channels: int, first: int, second: int, paddings: tuple[int, int], batch_norm: bool = False
) -> nn.Sequential:
    def part(channels: int, width: int, padding: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(width)] if batch_norm else []
        return [nn.Conv2d(channels, width, 5, padding=padding), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*part(channels, first, paddings[0]), *part(first, second, paddings[1]), nn.Flatten())


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al., 1998) with ReLU and max-pooling: logits [B, classes] from images [B, C, H, W] in [0, 1].

    5x5 convolutions of 6 and 16 channels, fully connected layers of 120 and 84. Images of 28x28 are padded by 2, as in
    the original, unless `padded` is False. `batch_norm` adds batch norm after each convolution, for methods that need
    it. 61,706 parameters on 1x28x28 with 10 classes, 44,426 without padding; 62,006 on 3x32x32; batch norm has 44 more.
    Raises ValueError for a `shape` that is not (C, 28, 28) or (C, 32, 32).
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
        batch_norm: bool = False,
        padded: bool = True,
    ):
        super().__init__()
        if len(shape) != 3 or tuple(shape[1:]) not in ((28, 28), (32, 32)):
            raise not_of(self, "(channels, 28, 28) or (channels, 32, 32)", shape)
        channels, side, _ = shape
        pad = (32 - side) // 2 if padded else 0
        self.features = _convolutions(channels, 6, 16, (pad, 0), batch_norm)
        flat = 16 * ((side + 2 * pad - 12) // 4) ** 2
        self.classifier = nn.Sequential(
            nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class LeNet5Wide(nn.Module):
    """The LeNet-5 of many tutorials and of Madry et al.'s MNIST challenge: 32 and 64 channels, 1,024 hidden units.

    Both 5x5 convolutions are padded by 2. Logits [B, classes] from images [B, C, H, W] in [0, 1], H and W multiples of
    4. 3,274,634 parameters on 1x28x28 with 10 classes; 4,259,274 on 3x32x32. Raises ValueError for another `shape`.
    """

    def __init__(self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10):
        super().__init__()
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
            raise not_of(self, f"{IMAGES}, with sides that are multiples of 4", shape)
        channels, height, width = shape
        self.features = _convolutions(channels, 32, 64, (2, 2))
        flat = 64 * (height // 4) * (width // 4)
        self.classifier = nn.Sequential(nn.Linear(flat, 1024), nn.ReLU(), nn.Linear(1024, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class LeNetCaffe(nn.Module):
    """Caffe's LeNet, with ReLU after every layer: 5x5 convolutions of 20 and 50 channels, 500 hidden units.

    No padding. Logits [B, classes] from images [B, C, H, W] in [0, 1], H and W multiples of 4 from 16 on. 431,080
    parameters on 1x28x28 with 10 classes. Raises ValueError for another `shape`.
    """

    def __init__(self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10):
        super().__init__()
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4 or min(shape[1:]) < 16:
            raise not_of(self, f"{IMAGES}, at least 16x16, with sides that are multiples of 4", shape)
        channels, height, width = shape
        self.features = _convolutions(channels, 20, 50, (0, 0))
        flat = 50 * (height // 4 - 3) * (width // 4 - 3)
        self.classifier = nn.Sequential(nn.Linear(flat, 500), nn.ReLU(), nn.Linear(500, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
