"""Compiles fastadv's kernels against the PyTorch they will run with: csrc/cpu always, csrc/cuda where a CUDA build
of PyTorch and its nvcc are found. CONTRIBUTING.md ("How the build decides") lists the switches."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

from setuptools import setup

NO_TORCH = f"""
fastadv: no PyTorch found, and fastadv compiles against the PyTorch it will run with.
  interpreter: {sys.executable}
  Install PyTorch there first (pip install torch), then run the same command again.
  Tools that build in an environment of their own (uv, python -m build) hide it: add --no-build-isolation,
  with setuptools, ninja and pybind11 installed beside PyTorch.
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
fastadv: no CUDA kernels: the PyTorch installed here is a CPU build ({torch}).
  Install a CUDA build of PyTorch, then install fastadv again.
"""


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


def cuda_obstacle(torch_cuda: str | None, nvcc: str | None) -> str | None:
    """Why no CUDA kernels can be built here, or None."""
    if torch_cuda is None:
        return CPU_TORCH.format(torch=torch.__version__)
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


add_target_packages()
no_extension = os.environ.get("FASTADV_NO_EXT") == "1"
try:
    import torch
except ImportError:
    if no_extension:
        setup()
        sys.exit()
    sys.exit(NO_TORCH)
if not no_extension and tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 10):
    sys.exit(OLD_TORCH.format(torch.__version__, sys.executable))

wish, nvcc = os.environ.get("FASTADV_CUDA", "auto"), find_nvcc()
if wish not in ("auto", "0", "1"):
    sys.exit(f"\nfastadv: FASTADV_CUDA must be auto, 0 or 1, got {wish!r}.\n")
obstacle = "switched off by FASTADV_CUDA=0" if wish == "0" else cuda_obstacle(torch.version.cuda, nvcc)
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

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

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


def text(name: str, value: str) -> tuple[str, str]:
    return name, '"' + " ".join(value.split()) + '"'


def pybind11_headers() -> list[str]:
    """Of the pybind11 package; PyTorch brings a copy of its own for a build without isolation that lacks it."""
    try:
        import pybind11
    except ImportError:
        return []
    return [pybind11.get_include()]


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


extensions = []
if not no_extension:
    stable = {"include_dirs": ["csrc"], "py_limited_api": True}
    extensions.append(
        CppExtension(
            "fastadv._cpu",
            ["csrc/cpu/glue.cpp", "csrc/cpu/kernels.cpp", "csrc/cpu/passes.cpp"],
            extra_compile_args=HOST + STABLE,
            **stable,
        )
    )
    if not obstacle:
        extensions.append(
            CUDAExtension(
                "fastadv._cuda",
                ["csrc/cuda/glue.cpp", "csrc/cuda/kernels.cu"],
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
                text("FASTADV_CUDA_OBSTACLE", re.sub(r"^\s*fastadv: [^:]*: ", "", obstacle or "")),
            ],
            extra_compile_args=HOST,
        )
    )

setup(ext_modules=extensions, cmdclass={"build_ext": Build})
