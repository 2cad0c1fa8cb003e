"""benchmarks/gpu.sh and what it runs: what a GPU is lent for minutes for is tried here beforehand."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, models, wheels

ROOT = Path(__file__).parents[1]
SCRIPT = (ROOT / "benchmarks" / "gpu.sh").read_text()
MINUTES = 10


def table(name: str) -> dict[str, str]:
    """A table of the script, by key."""
    body = re.search(rf"^declare -A {name}=\((.*?)^\)", SCRIPT, re.DOTALL | re.MULTILINE)[1]
    return {key: value.strip('"') for key, value in re.findall(r'\[(\w+)\]=(\d+|"[\w ]+")', body)}


LIMITS = {name: int(limit) for name, limit in table("limit").items()}
GROUPS = {name: steps.split() for name, steps in table("group").items()}
ALWAYS = re.search(r'^always="([\w ]+)"', SCRIPT, re.MULTILINE)[1].split()


@pytest.mark.parametrize("group", ["kernels", "training", "attacks"])
def test_a_group_takes_less_than_ten_minutes(group: str) -> None:
    """Half a minute of them is for what happens between the steps."""
    assert sum(LIMITS[step] for step in ALWAYS + GROUPS[group]) <= 60 * MINUTES - 30


def test_every_step_is_in_a_group_and_has_a_limit() -> None:
    steps = [step for steps in (ALWAYS, *GROUPS.values()) for step in steps]
    assert sorted(steps) == sorted(LIMITS)
    for step in steps:
        assert re.search(rf"^{step}\(\) {{", SCRIPT, re.MULTILINE), step


def test_what_is_told_when_to_end_ends_before_its_limit() -> None:
    """Python and PyTorch begin within half of what is left; a comparison ends within it."""
    told = re.findall(r'^(\w+)\(\) \{ (?:sanitized .*? |step .*? "\$out" )(\d+); }', SCRIPT, re.MULTILINE)
    assert {step for step, _ in told} == {"memcheck", "racecheck", "initcheck", "training", "attacks"}
    for step, seconds in told:
        assert int(seconds) <= LIMITS[step] - 25


def test_all_that_was_asked_for_is_compared() -> None:
    assert gpu.FULL["resnet18"].batches == gpu.FULL["wrn-28-10"].batches == (128, 512, 1024)
    assert [each.size for each in gpu.FULL.values()] == [32, 32, 224]
    plan = list(gpu.plan_of_attacks())
    assert len(set(plan)) == len(plan)
    assert {name for name, *_ in plan} == gpu.CASES.keys()
    assert {name.partition("-")[0] for name in gpu.CASES} >= {"PGD", "APGD", "AutoAttack", "DeepFool", "Square"}
    for network, each in gpu.NETWORKS.items():
        assert {batch for _, name, batch, _ in plan if name == network} == set(each.batches)
    assert {training for training, *_ in gpu.plan_of_epochs()} == {"PGD-AT", "FAT", "TRADES"}


def test_resnet50_for_large_images_is_the_papers() -> None:
    """torchvision's, with ten classes instead of 1000, has as many parameters."""
    model = models.ImageResNet50()
    assert sum(p.numel() for p in model.parameters()) == 25_557_032 - 990 * 2049
    with torch.no_grad():
        assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 10)


def test_weights_are_kept_in_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SHARD", 100_000)
    monkeypatch.setattr(gpu, "KEPT", 600_000)
    build = gpu.NETWORKS["resnet18"].build
    model, other = build((3, 32, 32), 10), build((3, 32, 32), 10)
    files = gpu.keep(model, "it", tmp_path)
    assert len(files) == 2
    assert all(file.stat().st_size < 150_000 for file in files)
    assert gpu.restore(other, "it", tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    assert not gpu.restore(other, "another", tmp_path)
    assert [len(gpu.keep(model, name, tmp_path)) for name in ("second", "third", "fourth")] == [2, 2, 0]


# -------------------------------------------------------------------------------------------------------------- wheels

CARRIED = {re.split("[=<>]", line)[0].lower() for line in wheels.listed()}
THERE = {"torch", "numpy"}  # with what PyTorch brings
LEFT_OUT = {"scipy", "scikit-learn", "visdom", "tqdm", "torchvision"}  # see wheels.txt, and the Makefile


def needs(name: str) -> set[str]:
    found = set()
    for line in metadata.requires(name) or []:
        requirement, _, marker = line.partition(";")
        old = "extra" in marker or "python_version <" in marker or "python_full_version <" in marker
        if not old and "win32" not in marker and "Windows" not in marker:
            found.add(re.split(r"[\s\[=<>!~(]", requirement.strip())[0].replace("_", "-").lower())
    return found


def test_wheels_are_all_that_is_needed() -> None:
    """As far as packages are installed here, which say what they need."""
    assert needs("fastadv") - THERE <= CARRIED
    for name in sorted(CARRIED):
        try:
            assert needs(name) - CARRIED <= THERE | LEFT_OUT, name
        except metadata.PackageNotFoundError:
            continue


def wheel(folder: Path, name: str, **files: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def test_what_is_missing_or_too_old_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"numpy": "2.1.0", "setuptools": "68.1", "jsonargparse": "4.52.1", "rich": "13.1"}

    def version(name: str) -> str:
        if name not in have:
            raise metadata.PackageNotFoundError(name)
        return have[name]

    called = []
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(wheels, "pip", lambda *arguments: called.append(arguments))
    for name in (*have, "docstring_parser"):
        wheel(tmp_path, name)
    wheels.install(str(tmp_path), "site")
    (arguments,) = called
    assert {Path(each).name.split("-")[0] for each in arguments if each.endswith(".whl")} == {
        "setuptools",  # pyproject.toml asks for 77
        "docstring_parser",
    }
    have |= {"setuptools": "77.0", "docstring-parser": "0.1"}
    wheels.install(str(tmp_path), "site")
    assert len(called) == 1


def test_wheels_are_lightened(tmp_path: Path) -> None:
    record = "it/__init__.py,,\nit/examples/model.pt,,\n"
    files = {"it/__init__.py": "x = 1", "it/examples/model.pt": "0" * 99, "it.dist-info/RECORD": record}
    wheel(tmp_path, "it", **files)
    file = tmp_path / "it-1.0-py3-none-any.whl"
    wheels.lighten(file)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["it/__init__.py", "it.dist-info/RECORD"]
        assert archive.read("it.dist-info/RECORD").decode() == "it/__init__.py,,\n"
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


# ----------------------------------------------------------------------------------------------------------- rehearsal


@pytest.mark.thorough
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it is no rehearsal")
@pytest.mark.skipif("FASTADV_REHEARSAL" not in os.environ, reason="five minutes long: set FASTADV_REHEARSAL=1")
def test_everything_runs_once(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path), *GROUPS]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + log[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.keys() == LIMITS.keys() - set(ALWAYS)
    runs = [json.loads((tmp_path / f"{each}.json").read_text()) for each in ("attacks", "training")]
    compared = [one["extra_info"] for run in runs for one in run["benchmarks"] if "sides" in one["extra_info"]]
    assert len(compared) == len(list(gpu.plan_of_attacks())) + len(list(gpu.plan_of_epochs()))
    for info in compared:
        for side, what in info["sides"].items():
            assert "seconds" in what or "ModuleNotFoundError" in what["skipped"], (side, what)
    assert len(list((tmp_path / "networks").glob("*.pt"))) == 3
