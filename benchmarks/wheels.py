"""Wheels for a machine that reaches no package index.

    python -m benchmarks.wheels download FOLDER [PYTHON [PACKAGE...]]
    python -m benchmarks.wheels install FOLDER SITE

``download`` fetches them where there is an index, for the other machine's PYTHON (3.12), and other packages if asked.
``install`` puts into SITE what is missing, or older than pyproject.toml asks for: what the machine has is left alone.
wheels.txt lists the packages. Only Python's own library is imported here.
"""

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

LISTED = Path(__file__).with_name("wheels.txt")
PLATFORMS = ("_2_28", "_2_27", "_2_17", "2014", "_2_12", "2010", "_2_5", "1")  # manylinux, the newest first
HEAVY = "/examples/"  # of a wheel in which a trained network takes 44 MB


def listed() -> list[str]:
    """The packages, as pip takes them."""
    lines = (line.strip() for line in LISTED.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def download(folder: str, python: str = "3.12", *more: str) -> None:
    platforms = [f"--platform=manylinux{each}_x86_64" for each in PLATFORMS]
    of = [f"--python-version={python}", "--implementation=cp", "--only-binary=:all:", "--no-deps", *platforms]
    pip("download", *of, f"--dest={folder}", *listed(), *more)
    for wheel in Path(folder).glob("*.whl"):
        lighten(wheel)
    sizes = [wheel.stat().st_size for wheel in Path(folder).glob("*.whl")]
    print(f"{folder}: {len(sizes)} packages, {sum(sizes) / 2**20:.0f} MiB")


def lighten(wheel: Path) -> None:
    """Leaves out of `wheel` what no import needs."""
    with zipfile.ZipFile(wheel) as old:
        kept = [each for each in old.infolist() if HEAVY not in each.filename]
        if len(kept) == len(old.infolist()):
            return
        light = wheel.with_suffix(".light")
        with zipfile.ZipFile(light, "w", zipfile.ZIP_DEFLATED) as new:
            for each in kept:
                lines = old.read(each).splitlines(keepends=True)
                record = each.filename.endswith(".dist-info/RECORD")
                new.writestr(each, b"".join(line for line in lines if not (record and HEAVY.encode() in line)))
    light.replace(wheel)


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)][:2]


def missing(name: str, needed: str) -> bool:
    """Whether there is no package called `name`, or an older one than the text `needed` asks for."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    least = re.search(rf'"{name}(?:\[\w+\])?>=([\d.]+)"', needed)
    return bool(least) and numbers(found) < numbers(least[1])


def install(folder: str, site: str) -> None:
    needed = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    wheels = {wheel.name.split("-")[0].replace("_", "-").lower(): wheel for wheel in Path(folder).glob("*.whl")}
    chosen = {name: wheel for name, wheel in wheels.items() if missing(name, needed)}
    if chosen:
        pip("install", "--no-index", "--no-deps", "--target", site, *map(str, chosen.values()))
    print(f"{len(chosen)} of {len(wheels)} wheels were missing: {', '.join(sorted(chosen)) or 'none'}")


if __name__ == "__main__":
    {"download": download, "install": install}[sys.argv[1]](*sys.argv[2:])
