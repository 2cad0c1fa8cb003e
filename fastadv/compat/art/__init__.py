"""ART's evasion attacks: ``ProjectedGradientDescent(estimator, eps=0.1).generate(x, y)``.

`attacks.evasion` has them, as in ART; they can also be had without ``attacks.evasion.`` NumPy arrays in and out,
float32; labels are classes or one-hot. `estimator` is ART's ``PyTorchClassifier``, of which the model, ``clip_values``
and a mean and standard deviation of ``preprocessing`` are used, or a plain module for inputs in [0, 1]. Names,
arguments and defaults are those of the Adversarial Robustness Toolbox 1.20, and so are the checks of arguments: when an
attack is made, and in `set_params`. What differs, on purpose:

- The model keeps its modes and gradients.
- Noise follows ``torch.manual_seed``, and successive calls differ: `generate` takes one number from PyTorch's
  generator, or none where the attribute `seed` of an attack is an integer. It is keyed by that number and the sample's
  place in `x`, so that ``batch_size`` does not matter.
- Steps and projections in L1 and L2 are those of fastadv's `PGD`.
- CarliniL2Method and CarliniLInfMethod move the image by Adam, not its inverse tanh. ``learning_rate`` is a share of
  the width of ``clip_values``, or of the bound on the perturbation, and ``initial_const`` for a width of 1. For each
  const, CarliniL2Method passes through the model as often as ART's, with its ``max_halving`` and ``max_doubling``, may
  do. ``const_factor`` is ten.
- All attacks take a ``mask``; where it is 0, nothing moves. With an ``eps`` that differs between samples, they are
  attacked one by one. An ``eps_step`` that is an array must be the same share of every ``eps``, for the norm np.inf.
- ``BoundaryAttack`` makes ``max_iter * sample_size`` proposals, one after another, with the step sizes of its authors'
  code: ``num_trial`` means nothing. ``HopSkipJump`` has the paper's precision. Both approach ``x`` from their start by
  bisection. ``PixelAttack`` needs ``th``, knows differential evolution only (``es=1``), and returns its best try where
  none succeeds.
- ``clip_values`` that differ between features are refused.
- Other estimators raise an ``exceptions.EstimatorError``, which names ART's classes where ART is installed.
- AutoAttack without ``attacks`` is auto-attack's standard version. With ``attacks`` it changes none of them and runs
  one after another, also with a ``parallel_pool_size``.
- ``random_eps`` and ``summary_writer`` are not supported. ``verbose`` means nothing, nor does ``eps_step`` where the
  attack has its own.
"""

from .._names import only
from . import attacks, exceptions
from .attacks.evasion import *  # noqa: F403
from .attacks.evasion import __all__ as _attacks

__all__ = ["attacks", "exceptions", *_attacks]

__getattr__, __dir__ = only(__name__, __all__)
