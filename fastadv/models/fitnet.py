"""FitNet-4: thin and deep."""

from torch import Tensor, nn

from ._shapes import IMAGES, not_of


class FitNet4(nn.Module):
    """FitNet-4 (Romero et al., 2015) with ReLU in place of maxout (Mishkin and Matas, 2016), without dropout.

    17 3x3 convolutions: three of 32 and two of 48 channels, six of 80, six of 128, with 2x2 max-pooling between the
    groups; the maximum over what is left of the image (8x8 of 32x32, 7x7 of 28x28), a hidden layer of 500, the logits.
    Unlike there, nothing is dropped out (0.2 of the image and after every group), and `batch_norm` follows each
    convolution, without which so deep a stack is hard to train. Weights start from normal ones scaled to their inputs,
    biases from zero.

    Logits [B, classes] from images [B, C, H, W] in [0, 1]. On 3x32x32 1,279,686 parameters with 10 classes and
    1,324,776 with 100; 1,276,806 and 1,321,896 without batch norm. Raises ValueError for a `shape` that is not
    (C, H, W) with H and W of 4 or more.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, batch_norm: bool = True):
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise not_of(self, f"{IMAGES}, at least 4x4", shape)
        channels, height, width = shape
        rest = (height // 4, width // 4)
        layers: list[nn.Module] = []
        for widths, pooled in (((32, 32, 32, 48, 48), 2), ((80,) * 6, 2), ((128,) * 6, rest)):
            for out in widths:
                layers.append(nn.Conv2d(channels, out, 3, padding=1))
                layers += [nn.BatchNorm2d(out), nn.ReLU()] if batch_norm else [nn.ReLU()]
                channels = out
            layers.append(nn.MaxPool2d(pooled))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(channels, 500), nn.ReLU(), nn.Linear(500, classes))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
