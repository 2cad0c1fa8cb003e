"""What the commands do: settings from flags, run folders, progress, tables. ``__main__`` is the parser in front."""

from ._attackbench import BenchTest, run_bench
from ._compare import Comparison, compare
from ._corruptions import CorruptionTest, measure_corruptions
from ._crosscheck import CrossTest, run_crosscheck
from ._evaluate import Conduct, evaluate_model
from ._features import Diagnosis, diagnose
from ._help import ATTACK, DATA, FILES, NETWORK, RUN, SETTINGS, SPEED, TEST, TRAINING, Group
from ._landing import LandingTest, land
from ._launch import broken, joined, launched
from ._parser import Parser, completion, number
from ._report import report_runs
from ._reproduce import Reproduction, list_recipes, reproduce
from ._settings import Data, Testing, Training
from ._terminal import said_aloud, stopped_by
from ._threats import PatchTest, UniversalTest, find_universal, make_patch
from ._train import train
from ._transfer import transfer_between
from ._trust import trusting
from ._verify import verify_samples

__all__ = [
    "ATTACK",
    "DATA",
    "FILES",
    "NETWORK",
    "RUN",
    "SETTINGS",
    "SPEED",
    "TEST",
    "TRAINING",
    "BenchTest",
    "Comparison",
    "Conduct",
    "CorruptionTest",
    "CrossTest",
    "Data",
    "Diagnosis",
    "Group",
    "LandingTest",
    "Parser",
    "PatchTest",
    "Reproduction",
    "Testing",
    "Training",
    "UniversalTest",
    "broken",
    "compare",
    "completion",
    "diagnose",
    "evaluate_model",
    "find_universal",
    "joined",
    "land",
    "launched",
    "list_recipes",
    "make_patch",
    "measure_corruptions",
    "number",
    "report_runs",
    "reproduce",
    "run_bench",
    "run_crosscheck",
    "said_aloud",
    "stopped_by",
    "train",
    "transfer_between",
    "trusting",
    "verify_samples",
]
