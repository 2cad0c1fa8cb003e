"""fastadv.ops as a kernel for Hugging Face's Hub: the layout is whole, and its ops live beside those of fastadv."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
OURS = "_fastadv_ops_0123abc"

# What kernel-builder generates: the alias of the namespace, and the macro that makes the library a module.
ALIAS = """
import torch
from pathlib import Path

for library in Path(__file__).parent.glob("*.so"):
    torch.ops.load_library(library)
ops = torch.ops.{ours}

def add_op_namespace_prefix(name):
    return f"{ours}::{{name}}"
"""
REGISTRATION = "#define REGISTER_EXTENSION(NAME)\n"

SAME = """
import torch, fastadv
import fastadv_ops as theirs

x, grad, eps = torch.rand(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.full((4,), 0.03)
for name, options in (("linf_step", {"step_size": 0.01}), ("l2_step", {"step_size": 0.1})):
    a, b = x.clone(), x.clone()
    getattr(fastadv.ops, name)(a, grad, x, eps=eps, **options)
    getattr(theirs, name)(b, grad, x, eps=eps, **options)
    assert torch.allclose(a, b, atol=1e-7) and not torch.equal(a, x)
assert theirs.OPS.keys() == fastadv.ops.OPS.keys()
assert theirs.linf_step._bare.namespace == "OURS"
print({theirs.backend(name) for name in theirs.OPS})
"""


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "kernel"
    subprocess.run([ROOT / ".ci" / "hub-kernel", folder], check=True)
    (folder / "torch-ext" / "fastadv_ops" / "_ops.py").write_text(ALIAS.format(ours=OURS))
    return folder


def beside_fastadv(folder: Path) -> str:
    """The backends of the ops in `folder`, after their results were compared with fastadv's in one process."""
    code = f"import sys; sys.path[:0] = [{str(folder / 'torch-ext')!r}, {str(ROOT)!r}]" + SAME.replace("OURS", OURS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_source_is_there(laid_out: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    build = tomllib.loads((laid_out / "build.toml").read_text())
    assert (laid_out / "torch-ext" / build["general"]["name"].replace("-", "_") / "__init__.py").is_file()
    for part in (build["torch"], *build["kernel"].values()):
        sources = {Path(source) for source in part["src"]}
        assert [source for source in sources if not (laid_out / source).is_file()] == []
        unread = list(sources)
        while unread:  # what they include, and that includes; kernel-builder copies only what is named
            source = unread.pop()
            for name in re.findall(r'^#include "(.+)"', (laid_out / source).read_text(), re.MULTILINE):
                if name == "registration.h":
                    continue
                found = (laid_out / source.parent / name).resolve().relative_to(laid_out.resolve())
                assert found in sources, f"{source} includes {found}, which build.toml does not name"


def test_its_ops_live_beside_those_of_fastadv(laid_out: Path) -> None:
    assert beside_fastadv(laid_out) == "{'reference: this build is for another kind of device'}"


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_its_kernels_register_in_the_namespace_of_the_build(laid_out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(laid_out, tmp_path / "kernel")
    (folder / "registration.h").write_text(REGISTRATION)
    headers, libraries = (Path(torch.__file__).parent / name for name in ("include", "lib"))
    command = f"""
        c++ -O0 -shared -fPIC -std=c++17 -fopenmp-simd -ffp-contract=off -DCPU_KERNEL -DTORCH_EXTENSION_NAME={OURS}
        -DTORCH_TARGET_VERSION=0x020a000000000000 -DTORCH_STABLE_ONLY -I. -isystem {headers} torch-ext/torch_binding.cpp
        csrc/cpu/kernels.cpp -L{libraries} -ltorch_cpu -o torch-ext/fastadv_ops/{OURS}.so
    """
    subprocess.run(textwrap.dedent(command).split(), cwd=folder, check=True)
    assert beside_fastadv(folder) == "{'compiled'}"
