"""foolbox's models, criteria and attacks: ``fb.attacks.LinfPGD()(fmodel, images, labels, epsilons=[...])``.

The calls, options and results are those of foolbox 3; tensors are PyTorch's or EagerPy's. `attacks`, `criteria`,
`models`, `types` and `utils` have its names for what fastadv covers, and any other name raises an AttributeError that
lists them. The attacks can also be had without ``attacks.``. What differs, on purpose:

- The model stays where it is unless `device` says otherwise, runs in eval mode, and its parameters keep their
  gradients. Foolbox's own models are taken, too, and so is anything with `bounds` that is called.
- L2CarliniWagnerAttack and EADAttack keep a sample that is wrong from the start and make black only what they do not
  fool; foolbox also blackens where `confidence` was not reached.
- L-infinity budgets beyond the range of the inputs are that range. `early_stop` means nothing.
- Random starts follow ``torch.manual_seed``, and successive calls differ. All epsilons of a call share their noise.
  With ``seed=``, an option of every attack, noise depends on that and on the sample's place in the batch instead.
- Starts and projections in L1 are those of fastadv's `PGD`. MI-FGSM divides every gradient by its L1 norm, and DDN
  looks at its last point too, as their papers do.
- L2CarliniWagnerAttack moves the image, not its inverse tanh, with which black and white pixels do not move.
  `stepsize` is a share of the width of the bounds, and `initial_const` for a width of 1.
- BoundaryAttack and HopSkipJumpAttack approach the image from noise by bisection. HopSkipJumpAttack returns the nearest
  point of all steps. Images for which no start is found are returned as they are, and what a sample's walk does depends
  on it alone.
- A sample whose logits are NaN is misclassified.
"""

from .._names import only
from . import attacks, criteria, models, types, utils
from .attacks import *  # noqa: F403
from .criteria import Criterion, Misclassification, TargetedMisclassification
from .models import Model, PyTorchModel
from .utils import accuracy, samples

__all__ = [
    "Criterion",
    "Misclassification",
    "Model",
    "PyTorchModel",
    "TargetedMisclassification",
    "accuracy",
    "attacks",
    "criteria",
    "models",
    "samples",
    "types",
    "utils",
    *attacks.__all__,
]

__getattr__, __dir__ = only(__name__, __all__)
