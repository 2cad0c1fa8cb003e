"""The build: what setup.py says when something is missing, and the CUDA sources compiled without a GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import setuptools
import torch

from benchmarks.roofline import Kernel, compiled, nvdisasm
from fastadv import ops

ROOT = Path(__file__).parent.parent
NVCC = shutil.which("nvcc", path=os.path.join(os.environ["CUDA_HOME"], "bin") if "CUDA_HOME" in os.environ else None)
STABLE = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc: the CUDA sources are not compiled")


def setup(*command: str, **environment: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTADV", "CUDA", "TORCH"))} | environment
    return subprocess.run(
        [sys.executable, "setup.py", *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def only_setuptools(folder: Path) -> Path:
    """A folder to put on PYTHONPATH of an interpreter without packages."""
    source = Path(setuptools.__file__).parent.parent
    names = ("setuptools", "setuptools-*.dist-info", "pkg_resources", "_distutils_hack", "wheel")
    for package in (path for name in names for path in source.glob(name)):
        (folder / package.name).symlink_to(package)
    return folder


def fake_torch(folder: Path, cuda: str, version: str = "2.13.0") -> str:
    """A PyTorch that says which CUDA it is built for, found before the real one."""
    package = folder / "torch"
    package.mkdir()
    (package / "__init__.py").write_text(
        f"__version__ = '{version}+cu{cuda.replace('.', '')}'\nclass version: cuda = {cuda!r}\n"
    )
    return str(folder)


def fake_nvcc(folder: Path, release: str) -> str:
    home = folder / "cuda"
    (home / "bin").mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    nvcc.chmod(0o755)
    return str(home)


def copy_of_the_checkout(folder: Path) -> Path:
    """The checkout's files in `folder`, without what was built or run."""
    built = (".git", ".venv", "build", "dist", "runs", "site", "*.so", "*.egg-info", "PKG-INFO", "setup.cfg")
    caches = (".*_cache", "__pycache__", ".benchmarks", ".hypothesis")
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*built, *caches))


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a Python that has setuptools and no other package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (tmp_path / "packages").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(only_setuptools(tmp_path / "packages"))}

    def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
        command = [tmp_path / "venv" / "bin" / "python", *arguments]
        return subprocess.run(command, cwd=cwd, env=env | environment, capture_output=True, text=True, check=False)

    return run


# pip asks for the metadata first, by dist_info: it stops there, rather than fetch a torch that the build cannot find.
@pytest.mark.parametrize("command", ["dist_info", "bdist_wheel", "--name"])
def test_without_torch_the_message_names_the_interpreter_and_the_fix(
    command: str, bare: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    done = bare("setup.py", command)
    assert done.returncode == 1
    assert "no PyTorch found" in done.stderr
    assert str(tmp_path / "venv" / "bin" / "python") in done.stderr
    assert "uv pip install --no-build-isolation ." in done.stderr
    assert "python -m build --no-isolation" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_torch_or_kernels_there_is_metadata(bare: Callable[..., subprocess.CompletedProcess]) -> None:
    done = bare("setup.py", "--name", FASTADV_NO_EXT="1")
    assert "fastadv" in done.stdout, done.stderr


def test_the_source_distribution_is_whole_and_needs_no_torch(
    bare: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    source = copy_of_the_checkout(tmp_path / "source")
    (source / "tests" / "stray.so").touch()
    (source / "benchmarks" / "__pycache__").mkdir()
    (source / "benchmarks" / "__pycache__" / "stray.cpython-311.pyc").touch()
    done = bare("setup.py", "sdist", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = (source / "dist").iterdir()
    with tarfile.open(archive) as file:
        packed = {name.partition("/")[2] for name in (member.name for member in file if member.isfile())}
        told = file.extractfile(f"{archive.name.removesuffix('.tar.gz')}/PKG-INFO").read().decode()
    kept = [path.relative_to(source) for path in source.rglob("*") if path.is_file() and "stray" not in path.name]
    folders = ("fastadv", "csrc", "tests", "benchmarks", "docs", ".ci")
    wanted = {str(path) for path in kept if path.parts[0] in folders}
    wanted |= {
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "Makefile",
        "mkdocs.yml",
        "constraints.txt",
        ".gitignore",
        "CITATION.cff",
    }
    wanted |= {f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "REPRODUCTION", "SECURITY")} | {
        "LICENSE"
    }
    assert {
        "tests/conftest.py",
        "tests/toys.py",
        "tests/simt/driver.cpp",
        "docs/results/two-circles/table.csv",
    } < wanted
    made = {name for name in packed if name in ("PKG-INFO", "setup.cfg") or name.startswith("fastadv.egg-info/")}
    assert packed - made == wanted
    for line in ("License-Expression: MIT", "Author: the fastadv authors", "Classifier: Typing :: Typed"):
        assert f"\n{line}\n" in told
    assert re.search("^Keywords: .*adversarial training", told, re.MULTILINE)


def test_an_old_setuptools_is_refused_before_its_traceback(tmp_path: Path) -> None:
    package = tmp_path / "setuptools"
    package.mkdir()
    (package / "__init__.py").write_text(
        "__version__ = '65.5.0'\ndef setup(**_): raise ValueError('project.license')\n"
    )
    done = setup("build_ext", "--inplace", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "setuptools 65.5.0 is too old: the metadata in pyproject.toml needs 77 or later" in done.stderr
    assert "pip install --upgrade setuptools" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_compiler_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    places = [f"--build-lib={tmp_path}/lib", f"--build-temp={tmp_path}/temp"]
    done = setup("build_ext", *places, CXX="no-such-compiler")
    assert done.returncode == 1
    assert "no C++ compiler: 'no-such-compiler' was not found" in done.stderr
    assert "apt-get install g++" in done.stderr
    assert "Traceback" not in done.stderr


def test_nvcc_of_another_major_version_is_named(tmp_path: Path) -> None:
    done = setup(
        "--name",
        PYTHONPATH=fake_torch(tmp_path, "13.0"),
        CUDA_HOME=fake_nvcc(tmp_path, "12.4"),
        FASTADV_CUDA="1",
    )
    assert done.returncode == 1
    assert "PyTorch is built for CUDA 13.0" in done.stderr
    assert "is of CUDA 12.4" in done.stderr
    assert "point CUDA_HOME at a CUDA 13 toolkit" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_torch_without_the_stable_abi_is_refused(tmp_path: Path) -> None:
    done = setup("--name", PYTHONPATH=fake_torch(tmp_path, "12.8", "2.9.1"))
    assert done.returncode == 1
    assert "PyTorch 2.9.1+cu128 is too old: fastadv needs 2.10" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.thorough
def test_pip_installs_a_copy_without_isolation_or_network(tmp_path: Path) -> None:
    source, target = copy_of_the_checkout(tmp_path / "source"), tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-index", "--no-deps"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTADV", "PIP_FIND"))}
    done = subprocess.run([*pip, "--target", target, source], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "import fastadv as f; print(f.__file__, f.ops.MISSING['cpu'], len(f.load('fashion-mnist-mini', 'test')))"
    env |= {"PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == [str(target / "fastadv" / "__init__.py"), "None", "1000"], done.stderr


def test_a_missing_nvcc_is_said(tmp_path: Path) -> None:
    done = setup("--name", PYTHONPATH=fake_torch(tmp_path, "13.0"), CUDA_HOME=str(tmp_path), FASTADV_CUDA="1")
    assert done.returncode == 1
    assert "no nvcc was found" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of PyTorch")
def test_cuda_cannot_be_demanded_of_a_cpu_torch() -> None:
    done = setup("--name", FASTADV_CUDA="1")
    assert done.returncode == 1
    assert f"PyTorch {torch.__version__} is a CPU build" in done.stderr


def test_an_unknown_switch_is_refused() -> None:
    done = setup("--name", FASTADV_CUDA="yes")
    assert done.returncode == 1
    assert "FASTADV_CUDA must be auto, 0 or 1, got 'yes'" in done.stderr


OF_LOGITS = ("Accept", "AdversarialLabels", "EarlyStop", "LossGradient", "Predictions", "WrongClassTarget")
"""Bodies that take one element at a time."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Kernel]]:
    """The CUDA kernels as compiled for each architecture, without warnings."""
    # The switches that torch adds for an extension, too.
    torch_flags = [f"-D__CUDA_NO_{what}__" for what in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS")]
    folder, flags = tmp_path_factory.mktemp("cuda"), ["-Werror", "all-warnings", *torch_flags]
    with ThreadPoolExecutor() as pool:
        compiling = {arch: pool.submit(compiled, NVCC, arch, folder, *flags) for arch in ("sm_80", "sm_90")}
    return {arch: done.result() for arch, done in compiling.items()}


@pytest.mark.thorough
@needs_nvcc
def test_cuda_kernels_keep_to_their_registers(kernels: dict[str, list[Kernel]]) -> None:
    """Compared with a table: more registers are fewer threads at once. Spills and arrays in memory are none at all.

    After a change that is meant, write what the failing comparison shows into tests/registers.json.
    """
    found: dict[str, int] = {}
    for arch, made in kernels.items():
        for kernel in made:
            name = f"{kernel.kind} {kernel.body}"
            assert (kernel.stack, kernel.spilled) == (0, 0), f"{name}, {kernel.dtype}, {arch}"
            assert kernel.shared <= 64, f"{name}: static shared memory, of which clusters have none"
            found[name] = max(found.get(name, 0), -(-kernel.registers // 8) * 8)  # as they are given out
    limits = json.loads((ROOT / "tests" / "registers.json").read_text())
    assert found.keys() == limits.keys()
    more = {name: registers for name, registers in found.items() if registers > limits[name]}
    assert not more


@pytest.mark.thorough
@needs_nvcc
@pytest.mark.skipif(nvdisasm() is None, reason="no nvdisasm (pip install nvidia-cuda-nvdisasm)")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_cuda_kernels_read_and_write_16_bytes_at_a_time(kernels: dict[str, list[Kernel]], arch: str) -> None:
    for kernel in kernels[arch]:
        name, code = f"{kernel.kind} {kernel.body}, {kernel.dtype}", "\n".join(kernel.instructions)
        assert kernel.body in OF_LOGITS or "LDG.E.128" in code, name
        assert not re.search(r"\b(LDL|STL)\b", code), f"{name} spills, or indexes an array that should be in registers"
        assert kernel.body in (*OF_LOGITS, "RowNorms") or "STG.E.128" in code, name
        long = kernel.kind == "long_rows" and arch == "sm_90"
        assert ("UCGABAR" in code) == long, f"{name}: clusters are for long rows"


@pytest.mark.thorough
@needs_nvcc
def test_cuda_glue_compiles_against_the_torch_headers(tmp_path: Path) -> None:
    dryrun = subprocess.run([NVCC, "--dryrun", "-c", "none.cu"], capture_output=True, text=True, check=False).stderr
    top = next(line.split("=", 1)[1] for line in dryrun.splitlines() if line.startswith("#$ TOP="))
    headers = [Path(torch.__file__).parent / "include", Path(top).resolve() / "include"]
    command = ["c++", "-c", "-std=c++17", "-Wall", "-Werror", "-DUSE_CUDA", *STABLE, *(f"-I{h}" for h in headers)]
    subprocess.run([*command, ROOT / "csrc" / "cuda" / "glue.cpp", "-o", tmp_path / "glue.o"], check=True)


@pytest.mark.skipif(bool(ops.MISSING["cpu"]) or shutil.which("objdump") is None, reason="no kernels, or no objdump")
def test_kernels_load_with_the_glibc_that_torch_needs() -> None:
    """What auditwheel asks of a manylinux_2_28 wheel. csrc/glibc.cpp has the functions that are newer."""
    kernels = ROOT / "fastadv" / "_cpu.abi3.so"
    table = subprocess.run(["objdump", "-T", kernels], capture_output=True, text=True, check=True).stdout
    needed = {tuple(map(int, found.split("."))) for found in re.findall(r"\(GLIBC_([\d.]+)\)", table)}
    assert max(needed) <= (2, 28)
    assert "Py" not in re.findall(r"\*UND\*.* (\w{2})\w*$", table, re.MULTILINE)  # of no Python


@pytest.mark.thorough
def test_cpu_sources_compile_without_warnings(tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    headers = ["-isystem", Path(torch.__file__).parent / "include"]
    command = [
        "c++",
        "-c",
        "-O1",
        "-std=c++17",
        "-fopenmp-simd",
        "-Wall",
        "-Wextra",
        "-Werror",
        *STABLE,
        *headers,
    ]
    for source in sorted([*(ROOT / "csrc" / "cpu").glob("*.cpp"), ROOT / "csrc" / "glibc.cpp"]):
        subprocess.run([*command, source, "-o", tmp_path / "out.o"], check=True)
