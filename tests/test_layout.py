"""The shape of the house: imports point one way, every file is registered, nothing is left for later."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

import fastadv
from benchmarks.ops import CASES
from fastadv import attacks, models, ops, trainers

ROOT = Path(__file__).parents[1]

TYPES = "data.Dataset data.Samples data.Placed data.Stream data.Batch data.AnyData data.samples_of"

# What each room of fastadv/ may import from the others; a new room takes its place here.
BELOW = {
    "_version": "",
    "_processes": "",
    "_progress": "",
    "_frames": "",
    "ops": "_info",
    "losses": "",
    "models": "",
    "hub": "models",
    "memory": "",
    "float32": "",
    "data": "ops",  # augmentations draw from its counter-based generator
    "runs": "",
    "info": "ops float32",
    "attacks": "_frames ops losses models",
    "functional": "attacks",
    "threats": f"ops losses attacks {TYPES}",
    "trainers": f"_processes _progress ops losses models attacks {TYPES} data.Augmentation data.Mixed",
    "evaluation": f"_processes _progress _frames ops losses models float32 attacks runs {TYPES}",
    "recipes": "ops losses attacks data models runs trainers evaluation",
    "report": f"ops losses attacks {TYPES} runs trainers evaluation recipes",
    "compat": "ops models runs attacks threats",
    "commands": "_processes _progress memory ops losses models hub data runs info attacks threats trainers evaluation "
    "recipes report",
    "__main__": "info memory trainers commands",
}


def imported(node: ast.AST, package: list[str]) -> list[str]:
    """The dotted names that an import statement of a module in `package` brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package[: len(package) - node.level + 1] if node.level else []
    return [".".join([*above, *([node.module] if node.module else []), alias.name]) for alias in node.names]


def allowed(room: str, name: str) -> bool:
    """Whether a module in `room` may import `name`, which is given without the leading ``fastadv.``"""
    parts = name.split(".")
    if name == "_version.__version__":
        return True
    if room == "__init__":
        return not any(part.startswith("_") for part in parts)
    below = BELOW.get(room, "").split()
    return parts[0] in (room, *below) or f"{parts[0]}.{parts[-1]}" in below


def violations(file: Path, source: str) -> list[str]:
    """``file:line: may not import ...`` for every import in `source`, the text of `file`, that points the wrong way."""
    *folders, module = file.with_suffix("").parts
    room = (*folders, module)[1]
    found = [f"{file}: {room} has no place in BELOW"] if room not in (*BELOW, "__init__") else []
    for node in ast.walk(ast.parse(source)):
        names = [name for name in imported(node, folders) if name.split(".")[0] == "fastadv"]
        wrong = [name for name in names if not allowed(room, name.removeprefix("fastadv").lstrip("."))]
        found += [f"{file}:{node.lineno}: {room} may not import {name}" for name in wrong]
    return found


def test_imports_point_one_way():
    files = sorted((ROOT / "fastadv").rglob("*.py"))
    assert len(files) > 20
    assert [line for file in files for line in violations(file.relative_to(ROOT), file.read_text())] == []


@pytest.mark.parametrize(
    ("file", "source", "line"),
    [
        ("attacks/pgd.py", "import torch\n\ndef f():\n    from ..trainers import fit\n", 4),
        ("attacks/pgd.py", "from ..data import Dataset", 1),
        ("attacks/__init__.py", "from ..evaluation import evaluate", 1),
        ("losses.py", "from . import ops", 1),
        ("ops/pgd_step.py", "from ..losses import margin", 1),
        ("models/lenet.py", "import fastadv.ops", 1),
        ("data/npz.py", "from fastadv.models import LeNet5", 1),
        ("trainers/_fit.py", "from ..data import Dataset, load", 1),
        ("trainers/_fit.py", "import fastadv.data", 1),
        ("trainers/_fit.py", "from ..evaluation import evaluate", 1),
        ("trainers/_fit.py", "import fastadv", 1),
        ("trainers/_fit.py", "from .. import __version__", 1),
        ("evaluation/_curve.py", "from fastadv import *", 1),
        ("evaluation/_curve.py", "if True:\n    from .. import recipes", 2),
        ("report/_table.py", "from ..__main__ import main", 1),
        ("__init__.py", "from .attacks._ascend import isolated", 1),
    ],
)
def test_an_import_upwards_is_found(file, source, line):
    (found,) = violations(Path("fastadv") / file, source)
    assert found.startswith(f"{Path('fastadv') / file}:{line}: ")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "attacks/pgd.py",
            "from .. import ops\nfrom ..losses import LOSSES\nfrom ._ascend import ascend\nimport torch",
        ),
        ("trainers/_fit.py", "from ..data import Dataset\nfrom fastadv.data.dataset import Dataset"),
        ("evaluation/__init__.py", "from ..attacks._ascend import isolated\nfrom ._curve import AACurve"),
        ("__init__.py", "from . import attacks\nfrom .ops import backend"),
        ("commands/_train.py", "from .. import models\nfrom .._version import __version__\nfrom ..trainers import fit"),
    ],
)
def test_an_import_downwards_is_not(file, source):
    assert violations(Path("fastadv") / file, source) == []


def test_a_new_room_needs_a_place():
    assert violations(Path("fastadv/attic.py"), "") == ["fastadv/attic.py: attic has no place in BELOW"]


def at_import(tree: ast.AST) -> Iterable[ast.AST]:
    """The statements that run when a module is imported: none in functions, nor those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from at_import(ast.Module(node.orelse))
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from at_import(node)


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """What each module imports when it is imported, by dotted name; `sources` are texts by place, such as ``a/b.py``.

    ``from a import b`` is an import of the module a.b where there is one, otherwise of a.
    """
    names = {file: ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__") for file in sources}
    known = set(names.values())
    found: dict[str, set[str]] = {name: set() for name in known}
    for file, source in sources.items():
        for node in at_import(ast.parse(source)):
            for name in imported(node, [*Path(file).parent.parts]):
                inner = name if name in known else name.rpartition(".")[0]
                found[names[file]] |= {inner} & known
    return found


def test_imports_go_in_no_circle():
    files = sorted((ROOT / "fastadv").rglob("*.py"))
    found = graph({str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files})
    assert {"fastadv.attacks", "fastadv.ops", "fastadv._version"} <= found["fastadv"]
    assert list(TopologicalSorter(found).static_order())[-1] in ("fastadv", "fastadv.__main__")  # CycleError names one


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"a/__init__.py": "from . import b", "a/b.py": "from . import __version__"}, True),
        ({"a/__init__.py": "from . import b", "a/b.py": "from .c import x", "a/c.py": "import a.b"}, True),
        ({"a/__init__.py": "from . import b", "a/b.py": "class X:\n    from a import y"}, True),
        ({"a/__init__.py": "from . import b", "a/b.py": "from . import c", "a/c.py": ""}, False),
        ({"a/__init__.py": "from . import b", "a/b.py": "def f():\n    from . import x"}, False),
        ({"a/__init__.py": "from . import b", "a/b.py": "if TYPE_CHECKING:\n    from . import x"}, False),
        ({"a/__init__.py": "from . import b", "a/b.py": "if TYPE_CHECKING:\n    pass\nelse:\n    import a"}, True),
    ],
)
def test_a_circle_is_found(sources, circle):
    with pytest.raises(CycleError) if circle else nullcontext():
        TopologicalSorter(graph(sources)).prepare()


LATER = re.compile(
    "LiteralString|Never|NoDefault|NotRequired|ReadOnly|Required|Self|TypeAliasType|TypeIs"
    "|TypeVarTuple|Unpack|assert_never|assert_type|dataclass_transform|get_overloads|override|reveal_type"
)
"""What `typing` has since Python 3.11 or later."""


def test_typing_is_that_of_python_3_10():
    """The oldest that fastadv runs with, which these tests may not have."""
    taken = [
        f"{path.relative_to(ROOT)}: {name.name}"
        for path in sorted((ROOT / "fastadv").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "typing"
        for name in node.names
        if LATER.fullmatch(name.name)
    ]
    assert not taken, "take them from typing_extensions, under TYPE_CHECKING"


# ----------------------------------------------------------------------------------------------------------- registry


def classes_by_module(package: ModuleType) -> dict[str, set[type]]:
    """The classes that each module of `package` defines."""
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return {
        module.__name__.rpartition(".")[2]: {
            item for _, item in inspect.getmembers(module, inspect.isclass) if item.__module__ == module.__name__
        }
        for module in modules
    }


@pytest.mark.parametrize(("package", "registry"), [(attacks, attacks.ATTACKS), (trainers, trainers.METHODS)])
def test_every_public_module_defines_something_registered(package, registry):
    found = {name: classes & set(registry.values()) for name, classes in classes_by_module(package).items()}
    assert [name for name, registered in found.items() if not name.startswith("_") and not registered] == []
    assert set().union(*(found[name] for name in found if not name.startswith("_"))) == set(registry.values())
    assert {item.__name__ for item in registry.values()} <= set(package.__all__)
    assert len(set(registry.values())) == len(registry)


@pytest.mark.parametrize(
    ("package", "base", "registry"),
    [(attacks, attacks.Attack, attacks.ATTACKS), (models, nn.Module, models.MODELS)],
)
def test_every_public_class_is_registered(package, base, registry):
    defined = {
        item
        for name, classes in classes_by_module(package).items()
        for item in classes
        if issubclass(item, base) and not name.startswith("_") and not item.__name__.startswith("_")
    }
    registered = {getattr(item, "func", item) for item in registry.values()}  # of a partial, what it calls
    parts = {models.Adapted, models.CosineHead, models.MeanSparse, models.Normalize}
    assert defined - parts == registered


def test_public_names_exist():
    for package in (fastadv, attacks, trainers, models):
        assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("fastadv/ops", "__init__ _kernels _namespace _op _reference"),
        ("csrc/ops", "all hyperplane rows values"),
        ("tests/ops", "__init__ cases table balls every nonfinite properties"),
        ("benchmarks/ops", "__init__ _case"),
    ],
)
def test_every_op_has_a_file_beside_those_that_ops_share(folder, shared):
    files = {path.stem.removeprefix("test_") for path in (ROOT / folder).iterdir() if path.is_file()}
    assert files - set(shared.split()) == set(ops.OPS)


def test_the_guard_knows_every_op():
    assert {case.name for case in CASES} <= json.loads((ROOT / "benchmarks/guard.json").read_text()).keys()


# ---------------------------------------------------------------------------------------------------------- leftovers

TEXT = {".py", ".h", ".cpp", ".cu", ".md", ".toml", ".yml", ".yaml", ".txt", ".sh", ".in", ""}


def project_files() -> Iterable[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file())
    for folder in ("fastadv", "csrc", "tests", "benchmarks", ".github"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_nothing_is_left_for_later():
    reminder = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b")
    files = [path for path in project_files() if path.suffix in TEXT and not path.name.startswith(".")]
    assert [str(path.relative_to(ROOT)) for path in files if reminder.search(path.read_text(encoding="utf-8"))] == []
