"""l1_step: its case. Its definition is tested with the other steps in a ball, in test_balls.py."""

import torch

from .cases import Case, step_args

CASE = Case(
    step_args,
    variants=({}, {"active": None, "nonfinite": None}, {"lo": -0.5, "hi": 0.7}),
    refused=(({"eps": torch.ones(4)}, ValueError, r"eps .*\(3,\).*\(4,\)"),),
)
