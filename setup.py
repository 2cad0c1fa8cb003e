"""Compiles fastadv's kernels against the PyTorch they will run with: csrc/cpu always, csrc/cuda where a CUDA build
of PyTorch and its nvcc are found. CONTRIBUTING.md ("How the build decides") lists the switches."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from typing import Any

from setuptools import __version__ as setuptools_version
from setuptools import setup

OLD_SETUPTOOLS = """
fastadv: setuptools {} is too old: the metadata in pyproject.toml needs {} or later.
  interpreter: {}
  Upgrade it there (pip install --upgrade setuptools), then run the same command again.
"""
NO_TORCH = f"""
fastadv: no PyTorch found, and fastadv compiles against the PyTorch it will run with.
  interpreter: {sys.executable}
  Install PyTorch there first (pip install torch), then run the same command again.
  uv and python -m build look for it in an environment of their own, where it is not. Have setuptools, ninja and
  pybind11 beside PyTorch, and use that: uv pip install --no-build-isolation . or python -m build --no-isolation
"""
OLD_TORCH = """
fastadv: PyTorch {} is too old: fastadv needs 2.10 or later, the first with the stable interface it compiles against.
  interpreter: {}
  Upgrade it there (pip install --upgrade torch), then run the same command again.
"""
NO_HEADERS = """
fastadv: no Python headers: {} is missing.
  Install them (Debian, Ubuntu: apt-get install python3-dev), then run the same command again.
"""
NO_COMPILER = """
fastadv: no C++ compiler: {!r} was not found on PATH.
  Install one (Debian, Ubuntu: apt-get install g++) or name it in CXX, then run the same command again.
  FASTADV_NO_EXT=1 installs fastadv without kernels: everything works, in plain PyTorch and slower.
"""
CUDA_INSTEAD = """  FASTADV_CUDA=0 builds the CPU kernels only and says nothing; FASTADV_CUDA=1 makes this an error.
"""
NO_NVCC = (
    """
fastadv: building the CPU kernels only: PyTorch is built for CUDA {torch}, but no nvcc was found.
  Install the CUDA {torch} toolkit and put nvcc on PATH, or set CUDA_HOME, then run the same command again.
"""
    + CUDA_INSTEAD
)
OTHER_NVCC = (
    """
fastadv: building the CPU kernels only: PyTorch is built for CUDA {torch}, but {nvcc} is of CUDA {found}.
  Their major versions must agree: point CUDA_HOME at a CUDA {major} toolkit, then run the same command again.
"""
    + CUDA_INSTEAD
)
CPU_TORCH = """
fastadv: no CUDA kernels: PyTorch {torch} is a CPU build.
  Install a CUDA build of PyTorch, then install fastadv again.
"""


HOST = [
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fopenmp-simd",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-fno-math-errno",
]
STABLE = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]


def add_target_packages() -> None:
    """pip builds in isolation, yet with the target's interpreter: ask that where its packages are."""
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONHOME")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    ask = [sys.executable, "-c", "import sys; print(*sys.path, sep='\\n')"]
    paths = subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    sys.path += [path for path in paths if path and path not in sys.path]


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    if home:
        return shutil.which("nvcc", path=os.path.join(home, "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")  # where NVIDIA's installer puts it


def cuda_obstacle(torch: str, torch_cuda: str | None, nvcc: str | None) -> str | None:
    """Why no CUDA kernels can be built here, or None."""
    if torch_cuda is None:
        return CPU_TORCH.format(torch=torch)
    if nvcc is None:
        return NO_NVCC.format(torch=torch_cuda)
    found = re.search(
        r"release (\d+)\.(\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    )
    major = torch_cuda.split(".")[0]
    if found is None or found[1] != major:
        shown = f"{found[1]}.{found[2]}" if found else "an unknown version"
        return OTHER_NVCC.format(torch=torch_cuda, nvcc=nvcc, found=shown, major=major)
    return None


def reason(message: str) -> str:
    """What `message` says first, without its headline."""
    return re.sub(r"^fastadv: [^:]*: ", "", message.strip().partition("\n")[0]).rstrip(".")


def text(name: str, value: str) -> tuple[str, str]:
    return name, '"' + " ".join(value.split()) + '"'


def pybind11_headers() -> list[str]:
    """Of the pybind11 package; PyTorch brings a copy of its own for a build without isolation that lacks it."""
    try:
        import pybind11
    except ImportError:
        return []
    return [pybind11.get_include()]


def kernels() -> dict[str, Any]:
    """What `setup` is to compile, and how; ends the process with a message where that cannot be."""
    add_target_packages()
    try:
        import torch
    except ImportError:
        sys.exit(NO_TORCH)
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 10):
        sys.exit(OLD_TORCH.format(torch.__version__, sys.executable))

    wish, nvcc = os.environ.get("FASTADV_CUDA", "auto"), find_nvcc()
    if wish not in ("auto", "0", "1"):
        sys.exit(f"\nfastadv: FASTADV_CUDA must be auto, 0 or 1, got {wish!r}.\n")
    obstacle = "switched off by FASTADV_CUDA=0"
    if wish != "0":
        obstacle = cuda_obstacle(torch.__version__, torch.version.cuda, nvcc)
    if obstacle and wish == "1":
        sys.exit(obstacle)
    if obstacle and wish == "auto" and torch.version.cuda:
        print(obstacle, file=sys.stderr)
    if not obstacle:
        # nvcc may be a wrapper outside its toolkit: it knows its place. torch reads CUDA_HOME once, when imported.
        dryrun = subprocess.run([nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True).stderr
        top = re.search(r"^#\$ TOP=(\S+)", dryrun, re.MULTILINE)
        os.environ["CUDA_HOME"] = os.path.realpath(top[1] if top else os.path.dirname(os.path.dirname(nvcc)))
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")

    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    class Build(BuildExtension):
        def run(self) -> None:
            compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
            if self.extensions and not shutil.which(compiler):
                sys.exit(NO_COMPILER.format(compiler))
            header = os.path.join(sysconfig.get_path("include"), "Python.h")
            if self.extensions and not os.path.isfile(header):
                sys.exit(NO_HEADERS.format(header))
            # Objects of another PyTorch must not be reused.
            self.build_temp = os.path.join(self.build_temp, f"torch-{torch.__version__}")
            super().run()

    stable = {"include_dirs": ["csrc"], "py_limited_api": True}
    extensions = [
        CppExtension(
            "fastadv._cpu",
            ["csrc/cpu/glue.cpp", "csrc/cpu/kernels.cpp", "csrc/cpu/passes.cpp", "csrc/glibc.cpp"],
            extra_compile_args=HOST + STABLE,
            **stable,
        )
    ]
    if not obstacle:
        extensions.append(
            CUDAExtension(
                "fastadv._cuda",
                ["csrc/cuda/glue.cpp", "csrc/cuda/kernels.cu", "csrc/glibc.cpp"],
                extra_compile_args={
                    "cxx": [*HOST, *STABLE, "-DUSE_CUDA"],
                    "nvcc": ["-O3", "-fmad=false", "--expt-relaxed-constexpr"],
                },
                **stable,
            )
        )
    extensions.append(
        CppExtension(
            "fastadv._info",
            ["csrc/info.cpp"],
            include_dirs=["csrc", *pybind11_headers()],
            define_macros=[
                text("FASTADV_TORCH", torch.__version__),
                text("FASTADV_CUDA_VERSION", "" if obstacle else str(torch.version.cuda)),
                text(
                    "FASTADV_CUDA_ARCHITECTURES",
                    "" if obstacle else os.environ.get("TORCH_CUDA_ARCH_LIST", "visible GPU"),
                ),
                text("FASTADV_CUDA_OBSTACLE", reason(obstacle or "")),
            ],
            extra_compile_args=HOST,
        )
    )
    return {"ext_modules": extensions, "cmdclass": {"build_ext": Build}}


with open("pyproject.toml", encoding="utf-8") as file:
    needed = re.search(r"setuptools>=(\d+)", file.read())[1]
if int(setuptools_version.split(".")[0]) < int(needed):
    sys.exit(OLD_SETUPTOOLS.format(setuptools_version, needed, sys.executable))

# What `python -m build --sdist` runs compiles nothing. pip runs dist_info before it compiles, and stops there without
# PyTorch: given the metadata, it would first download a PyTorch, which the build would still not find.
source_only = {"egg_info", "sdist"}.intersection(sys.argv) and not {"build", "bdist_wheel"}.intersection(sys.argv)
setup(**({} if source_only or os.environ.get("FASTADV_NO_EXT") == "1" else kernels()))
