"""The small convolutional networks of TRADES, for MNIST, and of friendly adversarial training, for CIFAR-10."""

from functools import partial

from torch import Tensor, nn

from ._shapes import IMAGES, not_of


class SmallCNN(nn.Module):
    """Four 3x3 convolutions and three fully connected layers (Zhang et al., 2019: TRADES).

    Convolutions of 32, 32, 64 and 64 channels without padding, 2x2 max-pooling after every second, hidden layers of 200
    and 200 with dropout 0.5 after the first. As published, convolutions start from normal weights scaled to their
    inputs, and the last layer from zero: until it is trained, all logits are 0. Logits [B, classes] from images
    [B, C, H, W] in [0, 1]. 312,202 parameters on 1x28x28 with 10 classes. Raises ValueError for a `shape` that is not
    (C, H, W) with H and W of 16 or more.
    """

    def __init__(self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10):
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 16:
            raise not_of(self, f"{IMAGES}, at least 16x16", shape)
        channels, height, width = shape
        self.features = nn.Sequential(*_pair(channels, 32), *_pair(32, 64), nn.Flatten())
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        flat = 64 * (height // 4 - 3) * (width // 4 - 3)  # each pair takes off 4, each pooling halves
        last = nn.Linear(200, classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.classifier = nn.Sequential(
            nn.Linear(flat, 200), nn.ReLU(), nn.Dropout(0.5), nn.Linear(200, 200), nn.ReLU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class NetMNIST(nn.Module):
    """Two 5x5 convolutions and two fully connected layers: the smaller network of TRADES' published code, `net_mnist`.

    Convolutions of 10 and 20 channels without padding, each followed by 2x2 max-pooling, a hidden layer of 50; dropout
    0.5, of whole channels after the second convolution and of the hidden layer. Logits [B, classes] from images
    [B, C, H, W] in [0, 1], H and W multiples of 4 from 16 on. 21,840 parameters on 1x28x28 with 10 classes. Raises
    ValueError for another `shape`.
    """

    def __init__(self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10):
        super().__init__()
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4 or min(shape[1:]) < 16:
            raise not_of(self, f"{IMAGES}, at least 16x16, with sides that are multiples of 4", shape)
        channels, height, width = shape
        first = nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), nn.ReLU()
        second = nn.Conv2d(10, 20, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU()
        self.features = nn.Sequential(*first, *second, nn.Flatten())
        flat = 20 * (height // 4 - 3) * (width // 4 - 3)
        self.classifier = nn.Sequential(nn.Linear(flat, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class SmallCNN8(nn.Module):
    """Six 3x3 convolutions and two fully connected layers (Zhang et al., 2020: friendly adversarial training).

    Convolutions of 64, 64, 128, 128, 196 and 196 channels with padding, each followed by batch norm, 2x2 max-pooling
    after every second, a hidden layer of 256. Logits [B, classes] from images [B, C, H, W] in [0, 1]. 1,639,282
    parameters on 3x32x32 with 10 classes. Raises ValueError for a `shape` that is not (C, H, W) with H and W of 8 or
    more.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10):
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 8:
            raise not_of(self, f"{IMAGES}, at least 8x8", shape)
        channels, height, width = shape
        pair = partial(_pair, padding=1, batch_norm=True)
        self.features = nn.Sequential(*pair(channels, 64), *pair(64, 128), *pair(128, 196), nn.Flatten())
        flat = 196 * (height // 8) * (width // 8)
        self.classifier = nn.Sequential(nn.Linear(flat, 256), nn.ReLU(), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def _pair(channels: int, width: int, padding: int = 0, batch_norm: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs in (channels, width):
        layers.append(nn.Conv2d(inputs, width, 3, padding=padding))
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)]
