"""Every Python block of the README runs as printed, and the README is short enough to be read."""

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

import fastadv
from benchmarks import front

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_block(code: str) -> None:
    exec(compile(code, str(README), "exec"), {})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == 2


def test_it_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 160


def test_both_commands_are_targets() -> None:
    makefile = (README.parent / "Makefile").read_text()
    commands = re.findall(r"^make (\S+)$", README.read_text(), re.MULTILINE)
    assert commands == ["demo", "test"]
    assert all(f"\n{command}:" in makefile for command in commands)


def test_it_counts_the_methods() -> None:
    baselines = {"standard", "fgsm", "pgd", "deepfool"}
    papers = len(fastadv.trainers.METHODS.keys() - baselines)
    for page in (README, README.parent / "docs" / "index.md"):
        assert f"{papers} methods from papers and {len(baselines)} baselines" in page.read_text()
        assert re.findall(r"(\d+) methods", page.read_text()) == [str(papers)]


def test_the_figure_shows_the_files() -> None:
    with Image.open(front.FIGURE) as figure:
        assert json.loads(figure.text["Description"]) == front.shown(front.RESULTS)
    assert f"]({front.FIGURE.relative_to(README.parent)})" in README.read_text()


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text())
    assert len(links) > 20
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_citation_file_is_of_this_version() -> None:
    cited = yaml.safe_load((README.parent / "CITATION.cff").read_text())
    assert cited["version"] == fastadv.__version__
    bibtex = " ".join(README.read_text().split("```bibtex")[1].split())
    assert all(reference["title"] in bibtex for reference in cited["references"])
