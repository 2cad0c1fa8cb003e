"""The fused operations: schema, pure-torch reference and fake of each, and which backend runs it.

Every op is declared once, by the decorated function in the file of its name: the function is the documentation, the
reference that tests compare with, and the kernel of any device without a compiled one. The compiled kernels (the files
of the same names in ``csrc/ops/``) take its place by dispatch key when their module loads; no caller asks whether they
exist.

Calling an op here (``ops.linf_step(...)``) checks the arguments and turns plain numbers into per-sample tensors; the
bare op (``torch.ops.fastadv.linf_step``) takes tensors only. ``op.reference`` is the pure-torch function.

A *sample* is one row of the leading dimension. Budgets are one number a sample. ``active`` is a mask over samples:
where it is false the sample keeps its bits. ``nonfinite``, such a mask as well, is set where an active sample's
gradient is NaN or infinite. float32, float64, float16 and bfloat16 samples; arithmetic and budgets are
float32 (float64 for float64 samples). The ops have no gradients.
"""

from ._kernels import MISSING, PASSES, backend, build_info, repair
from ._op import OPS, Op, per_sample
from ._reference import as_rows
from .accept import accept
from .adam_step import adam_step
from .adversarial_labels import adversarial_labels
from .apgd_step import apgd_step
from .bisect_step import bisect_step
from .cutoff_scale import cutoff_scale
from .deepfool_step import deepfool_step
from .early_stop import early_stop
from .fab_step import fab_step
from .hyperplane_projection import hyperplane_projection
from .keep_nearest import keep_nearest
from .l0_adam_step import l0_adam_step
from .l0_step import l0_step
from .l1_step import l1_step
from .l2_step import l2_step
from .linf_step import linf_step
from .loss_gradient import loss_gradient
from .predictions import predictions
from .random_start import LAWS, random_start
from .row_norms import NORMS, row_norms
from .sparse_l1_step import sparse_l1_step
from .topp_step import topp_step
from .wrong_class_target import wrong_class_target

__all__ = [
    "LAWS",
    "MISSING",
    "NORMS",
    "OPS",
    "PASSES",
    "Op",
    "accept",
    "adam_step",
    "adversarial_labels",
    "apgd_step",
    "as_rows",
    "backend",
    "bisect_step",
    "build_info",
    "cutoff_scale",
    "deepfool_step",
    "early_stop",
    "fab_step",
    "hyperplane_projection",
    "keep_nearest",
    "l0_adam_step",
    "l0_step",
    "l1_step",
    "l2_step",
    "linf_step",
    "loss_gradient",
    "per_sample",
    "predictions",
    "random_start",
    "repair",
    "row_norms",
    "sparse_l1_step",
    "topp_step",
    "wrong_class_target",
]
