"""The documentation holds: its code runs as printed, its commands parse, its figures and names stand where it says."""

import csv
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fastadv import attacks, losses, models, ops, recipes, trainers
from fastadv.__main__ import Parser, parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
METHOD_PAGES = [page for page in PAGES if page.parent.name == "methods" and page.stem != "index"]
every_method_page = pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)


def blocks(language: str, pages: list[Path]) -> list:
    return [
        pytest.param(code, id=f"{page.relative_to(ROOT).with_suffix('')}-{number}")
        for page in pages
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))
    ]


def section(page: Path, title: str) -> str:
    """What stands below a heading of the second level."""
    return (page.read_text().partition(f"\n## {title}\n")[2] + "\n## ").partition("\n## ")[0]


def anchors(page: Path) -> set[str]:
    """Where links into a page may lead on GitHub and on the site, which both take words of headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    plain = [
        re.sub(r"\]\(\S*\)|[^\w\s-]", "", title).strip().lower()
        for title in re.findall("^#+ (.+)$", text, re.MULTILINE)
    ]
    return {title.replace(" ", "-") for title in plain} & {re.sub(r"[\s-]+", "-", title) for title in plain}


BLOCKS = blocks("python", PAGES)
COMMANDS = blocks("sh", [*PAGES, ROOT / "README.md"])


@pytest.mark.thorough
@pytest.mark.parametrize("code", BLOCKS)
@pytest.mark.filterwarnings("ignore")  # of the packages shown
def test_block(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("lightning", "accelerate", "timm", "transformers"):
        if re.search(rf"^(import|from) {package}\b", code, re.MULTILINE) and not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})


@pytest.fixture(scope="module")
def cli() -> Parser:
    return parser()


@pytest.mark.parametrize("code", COMMANDS)
def test_commands_parse(code: str, cli: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        programs = [Path(word).name for word in words]
        if "--config" in words:  # of a run that was not made here
            config = Path(words[words.index("--config") + 1])
            config.parent.mkdir(parents=True)
            config.write_text("{}")
        if "fastadv" in programs:
            chosen = cli.parse_args(words[programs.index("fastadv") + 1 :])
            cli.instantiate(chosen)
            if chosen.command == "reproduce" and chosen.reproduce.names:
                assert recipes.select(chosen.reproduce.names)


def test_there_are_blocks() -> None:
    assert len(BLOCKS) > 20
    assert sum("fastadv" in block.values[0] for block in COMMANDS) > 20


WRITTEN = [
    page for page in (*ROOT.glob("*.md"), *PAGES, *ROOT.glob("benchmarks/results/*.md")) if not page.is_symlink()
]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_on_github(page: Path) -> None:
    """It follows no symbolic links, of which docs/ has some; docs/hooks.py changes these links for the site."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)(\S+?)\)", text):
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), link
        assert target == target.resolve(), f"{link} goes through a symbolic link"
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("method", trainers.METHODS.values())
def test_every_method_has_a_page(method: type) -> None:
    assert sum(f"::: fastadv.trainers.{method.__name__}\n" in page.read_text() for page in METHOD_PAGES) == 1


@every_method_page
def test_equations_lead_to_code(page: Path) -> None:
    rows = [line for line in section(page, "Equation to code").splitlines() if line.startswith("| ")][2:]
    places = {module.__name__.rpartition(".")[2]: module for module in (ops, losses, models)}
    names = {**vars(attacks), **vars(trainers), **places}
    assert rows
    for row in rows:
        code = re.findall("`([^`]+)`", row.rsplit("|", 2)[1])
        assert code
        for name in code:
            head, *path = name.split(".")
            found = names[head]
            for part in path:
                fields = getattr(found, "__dataclass_fields__", {})
                found = fields[part] if part in fields else getattr(found, part)


@pytest.fixture(scope="module")
def methods_of_recipes() -> dict[str, set[str]]:
    """The methods of each recipe's variants."""
    return {name: {variant.method for variant in recipes.load(name).variants()} for name in recipes.names()}


@every_method_page
def test_recipes_are_all_those_of_the_methods(page: Path, methods_of_recipes: dict[str, set[str]]) -> None:
    shown = re.findall(r"^::: fastadv\.trainers\.(\w+)$", page.read_text(), re.MULTILINE)
    names = [name for name, method in trainers.METHODS.items() if method.__name__ in shown]
    patterns = [
        word for word in re.findall("`([^`]+)`", section(page, "Recipes")) if word.replace("-", "_") not in names
    ]
    own = {name for name, methods in methods_of_recipes.items() if methods & set(names)}
    assert {recipe.name for recipe in recipes.select(patterns)} == own


@every_method_page
def test_figures_stand_in_the_files_linked(page: Path) -> None:
    """Those typed by hand; generated blocks are compared with the files in test_reproduction.py."""
    said = re.sub(r"<!-- generated: \w+ -->.*?<!-- end -->", "", section(page, "Measured"), flags=re.DOTALL)
    files = [page.parent / link for link in re.findall(r"\]\((\S+?\.md)\)", said)]
    figures = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", re.sub(r"\]\(\S+\)", "", said)))
    assert files or not figures
    known = set(re.findall(r"\d+\.\d+", " ".join(file.read_text() for file in files)))
    assert figures <= known


def test_gradient_norms_of_bilateral_training_are_roots_of_the_measured_squares() -> None:
    folder = ROOT / "benchmarks/results/reproduce/2026-11-21-bilateral-fashion-mnist"
    columns, said = ("r-fgsm", "r-mc", "r-mc-ls", "r-mc-la", "madry"), (ROOT / "docs/methods/bilateral.md").read_text()
    for part, ratios in (("all", ("2.07", "1.84")), ("correct", ("1.34", "1.17"))):
        norms = {}
        for column in columns:
            with (folder / f"bilateral-fashion-mnist-{column}" / "figures.csv").open(newline="") as file:
                squares = {row["figure"]: float(row["measured"]) for row in csv.DictReader(file)}
            norms[column] = squares[f"gradient {part} mean"] ** 0.5
        shown = " | ".join(f"{norm:.3g}" for norm in norms.values())
        assert f"| gradient norm, {part} samples | {shown} | " in said
        times = [f"{norms['r-mc'] / norms[f'r-mc-{labels}']:.2f}" for labels in ("ls", "la")]
        assert tuple(times) == ratios
        assert f"{times[0]} and {times[1]} times" in said


def test_errors_of_installation_are_those_that_are_raised() -> None:
    sources = "".join((ROOT / path).read_text() for path in ("setup.py", "fastadv/ops/_kernels.py"))
    quoted = re.findall("^(?:## |- )`([^`]+)`", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) > 6
    assert [text for text in quoted if text not in sources] == []


def test_every_page_is_in_the_sidebar() -> None:
    listed = set(re.findall(r"([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in (*PAGES, *(docs / "results").glob("*.md"))}
    assert listed == pages


@pytest.mark.thorough
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml"):
        pytest.importorskip(package)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr  # with --quiet, --strict would not see warnings
    assert (tmp_path / "site" / "index.html").is_file()
    page = (tmp_path / "site" / "methods" / "trades" / "index.html").read_text()
    assert page.count("<math ") > 1
    assert "arithmatex" not in page
