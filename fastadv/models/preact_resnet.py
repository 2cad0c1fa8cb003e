"""Pre-activation ResNet-18 in the form used for small images."""

from ._activations import nonlinear
from ._preact import PreActivation


class PreActResNet18(PreActivation):
    """PreActResNet-18 (He et al., 2016) for small images: logits [B, classes] from images [B, C, H, W] in [0, 1].

    A 3x3 stem without stride, four stages of two pre-activation units of 64, 128, 256 and 512 channels, batch norm and
    activation before the mean over space, as in the paper; 11,172,170 parameters on three channels with 10 classes.
    Some published code leaves out that last batch norm, and has 1,024 fewer. Any H and W.

    Raises ValueError for a `shape` that is not (C, H, W), or an `activation` that is not relu or silu.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, activation: str = "relu"):
        super().__init__(shape, classes, 64, (64, 128, 256, 512), units=2, nonlinear=nonlinear(activation))
