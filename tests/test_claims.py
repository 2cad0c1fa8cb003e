"""Figures that were typed on a page, in a record or in a docstring are those of the files they are of."""

import ast
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks import dated, fast_autoattack, networks, runs, table, verdicts
from benchmarks.reproduction import RESULTS, ROOT
from benchmarks.timing import Timed
from fastadv.report import read_figures

RECORDS = sorted(RESULTS.glob("*.md"))
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if not page.is_symlink())]
Rows = list[dict[str, str]]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def tables(text: str) -> Iterator[Rows]:
    """Those of a page, a row as its cells by the head of their column."""
    for found in re.finditer(r"(?:^\|.*\n)+", f"{text}\n", re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines())
        yield [dict(zip(head, row, strict=True)) for row in rows]


def table_with(name: str, *heads: str) -> Rows:
    """That of the record called `name` which has columns with these heads."""
    return next(rows for rows in tables(read(RESULTS / name)) if {*heads} <= rows[0].keys())


def loaded(name: str) -> Any:
    return json.loads(read(RESULTS / name))


# ---------------------------------------------------------------------------------------------------- runs of recipes


@pytest.mark.parametrize("path", dated.paths(RESULTS), ids=lambda path: path.stem)
def test_blocks_of_records_are_what_the_program_writes(path: Path) -> None:
    assert read(path) == dated.rewritten(path, RESULTS), "run: python -m benchmarks.reproduction"


def test_every_table_of_a_record_is_shown_once() -> None:
    shown = [name for path in dated.paths(RESULTS) for name in re.findall(r"<!-- generated: (\w+) -->", read(path))]
    assert sorted(shown) == sorted(dated.RECORDS)


def test_records_called_like_a_run_have_a_block_of_it() -> None:
    """So that its figures are not typed there. Add a table to `RECORDS` in benchmarks/dated.py."""
    for record in RECORDS:
        if (RESULTS / "reproduce" / record.stem).is_dir():
            names = re.findall(r"<!-- generated: (\w+) -->", read(record))
            runs = {run for name in names for _, _, *where in dated.RECORDS[name].lines for run in where}
            assert any(run.startswith(record.stem) for run in runs), record.name


def test_a_block_shows_the_figure_of_the_file() -> None:
    run = RESULTS / "reproduce" / "2026-11-21-blind-fashion-mnist" / "blind-fashion-mnist-bat"
    figure = next(figure for figure in read_figures(run / "figures.csv") if figure.name == "pgd-true 0.1")
    rows = table_with("2026-11-21-blind-fashion-mnist.md", "measured (printed)")
    row = next(row for row in rows if row["measured (printed)"] == "PGD-20 0.1, true label")
    assert row["BAT"] == f"{figure.measured:.1f}"


# --------------------------------------------------------------------------------------------------------- benchmarks

KEYS = {"attack": ("attack", "network"), "training": ("training", "network"), "op": ("op", "samples")}


def timed(record: Path) -> Rows:
    """The rows that `benchmarks.table` makes of the files of a record: those it names, and those called like it."""
    named = re.findall(r"`([\w-]+\.json)`", read(record))
    files = {*RESULTS.glob(f"{record.stem}*.json"), *(RESULTS / name for name in named)}
    runs = [run for run in map(json.loads, map(read, sorted(files))) if isinstance(run, dict) and "benchmarks" in run]
    return [row for run in runs for rows in tables(table.of_run(run)) for row in rows]


def typed(record: Path) -> Rows:
    """Rows of a record that have a place among those of benchmarks."""
    return [
        row for rows in tables(read(record)) for row in rows if any({*keys} <= row.keys() for keys in KEYS.values())
    ]


def of_a_file(row: dict[str, str], made: Rows) -> bool:
    """Whether one of the rows `made` has all cells of `row`, in whole or without what stands in brackets."""
    return any(
        all(cell in ("", one.get(head), one.get(head, "").partition(" (")[0]) for head, cell in row.items())
        for one in made
    )


MEASURED = [path for path in RECORDS if typed(path) and timed(path)]


@pytest.mark.parametrize("record", MEASURED, ids=lambda path: path.stem)
def test_rows_of_benchmarks_are_those_of_a_file(record: Path) -> None:
    made = timed(record)
    assert [row for row in typed(record) if not of_a_file(row, made)] == []


def test_a_row_of_another_figure_is_seen() -> None:
    assert sum(len(typed(record)) for record in MEASURED) > 100
    made = timed(RESULTS / "2026-11-22-attacks.md")
    row = next(row for row in made if (row["attack"], row["network"]) == ("PGD-10", "small-cnn"))
    assert of_a_file(row, made)
    assert of_a_file({**row, "tuned": row["tuned"].partition(" (")[0]}, made)
    assert not of_a_file({**row, "tuned": "0.10"}, made)
    assert not of_a_file({**row, "network": "lenet5"}, made)


def ratios_of_passes() -> dict[str, tuple[float, float]]:
    """Microseconds of our kernel, and PyTorch's time over it, by the name of the case."""
    sides: dict[str, dict[str, float]] = {}
    for one in loaded("2026-11-22-passes.json")["benchmarks"]:
        info = one["extra_info"]
        sides.setdefault(info["case"], {})[info["side"]] = one["stats"]["median"] / info.get("calls", 1)
    return {case: (1e6 * side["fused"], side["eager"] / side["fused"]) for case, side in sides.items()}


def over_tuned(file: str, attack: str, side: str, networks: str, own: str = "tuned") -> str:
    """A side's time over that of fastadv's `own`, on the networks whose letters are in `networks`."""
    sides = {(row["attack"], row["network"]): row["sides"] for row in timings(file)}
    found = []
    for letter in networks:
        seconds = {name: one.get("seconds") for name, one in sides.get((attack, LETTERS[letter]), {}).items()}
        ratio = seconds[side] / seconds[own] if seconds.get(side) else None
        digits = 2 if attack != "DeepFool-10" else 0 if ratio and ratio >= 20 else 1
        found.append("-" if ratio is None else f"{ratio:.{digits}f}")
    return " / ".join(found)


def timings(file: str) -> list[dict[str, Any]]:
    return [one["extra_info"] for one in loaded(f"{file}.json")["benchmarks"] if "attack" in one["extra_info"]]


LETTERS = {"L": "lenet5", "r": "lenet5, robust", "C": "small-cnn", "R": "resnet18"}
OVER_TUNED = {
    "2026-11-21-attacks": ("2026-11-22-attacks", "LrCR"),
    "2026-11-22-attacks": ("2026-11-22-attacks-passes", "LrC"),
}
"""Records with ratios in sentences: the file that they are of, and the networks."""


@pytest.mark.parametrize("record", OVER_TUNED)
def test_ratios_in_sentences(record: str) -> None:
    file, networks = OVER_TUNED[record]
    said = " ".join(read(RESULTS / f"{record}.md").partition("Times of the others over *tuned*'s")[2].split())
    pgd = over_tuned(file, "PGD-10", "torchattacks", networks)
    assert f"PGD-10: torchattacks {pgd}, with bf16 gradients " in said
    assert f"with bf16 gradients {over_tuned(file, 'PGD-10', 'torchattacks', networks, 'tuned, bf16')}" in said
    others = (
        f"{side} {over_tuned(file, 'DeepFool-10', side, networks)}"
        for side in ("torchattacks", "foolbox", "ART", "adv-lib")
    )
    assert f"DeepFool-10: {', '.join(others)}." in said
    published = [over_tuned(file, attack, "as published", networks) for attack in ("PGD-10-0", "EPGD-20-10")]
    assert f"PGD-K-tau as published: {published[0]}. EPGD as printed: {published[1]}" in said


def test_passes() -> None:
    made = ratios_of_passes()
    rows = table_with("2026-11-22-attacks.md", "pass", "PyTorch's own")
    assert len(rows) > 40
    for row in rows:
        fused, ratio = made[f"{row['pass'].replace('`', '')}, {row['type']}, channels {row['channels']}"]
        assert (row["fastadv, us"], row["PyTorch's own"]) == (f"{fused:.0f}", f"{ratio:.2f}")


def test_networks() -> None:
    seconds = loaded("2026-11-29-networks.json")["seconds"]
    found = {}
    for name, sides in seconds.items():
        found[name] = {side: Timed(lambda: None) for side in sides}
        for side, each in found[name].items():
            each.seconds = sides[side]
    assert read(RESULTS / "2026-11-29-networks.md").rstrip().endswith(networks.table(found))


def test_attackbench() -> None:
    norms = loaded("2026-11-29-attackbench.json")["norms"]
    rows = table_with("2026-11-29-attackbench.md", "optimality", "queries")
    said = {(row["norm"].lower(), row["library"], row["attack"].strip("`")): row for row in rows}
    places = [(norm, each["library"], each["attack"]) for norm in norms for each in norms[norm]["global"]]
    assert list(said) == places
    for norm, of in norms.items():
        (model,) = of["models"].values()
        for each in model:
            row = said[norm, each["library"], each["attack"]]
            queries = each["forwards"] + each["backwards"]
            made = f"{each['optimality']:.3f}", f"{100 * each['found']:.0f}", f"{queries:,.0f}"
            assert (row["optimality"], row["found, %"], row["queries"]) == made


def test_fast_autoattack() -> None:
    rows = table_with("2026-11-29-fast-autoattack.md", "share")
    measured = sorted(loaded("2026-11-29-fast-autoattack.json"), key=lambda one: one["fast_gradients"])
    assert len(rows) == len(measured)
    for row, one in zip(sorted(rows, key=lambda row: int(row["of fast"].replace(",", ""))), measured, strict=True):
        for head, key in {"clean": "clean", "standard": "standard", "fast": "fast", "fast in bf16": "bf16"}.items():
            assert row[f"{head}, %"] == (f"{100 * one[key] / one['samples']:.1f}" if key in one else "")
        gradients = one["standard_gradients"], one["fast_gradients"]
        assert (row["gradients of standard"], row["of fast"]) == tuple(f"{count:,}" for count in gradients)
        assert row["share"] == f"{gradients[1] / gradients[0]:.3f}"


def test_fast_autoattack_on_ten_networks() -> None:
    rows, others = (loaded(f"2026-12-01-fast-autoattack{name}.json") for name in ("", "-next"))
    assert [row["network"] for row in rows] == list(fast_autoattack.NETWORKS)
    assert ({row["first"] for row in rows}, {row["first"] for row in others}) == ({0}, {500})
    for each in (rows, others):
        assert f"\n\n{fast_autoattack.table(each)}" in read(RESULTS / "2026-12-01-fast-autoattack.md")


def fast_over_standard() -> tuple[float, float, float]:
    """Points that the fast version left fewer and more, at the most, and that two runs of the standard one differ."""
    rows = [row for name in ("", "-next") for row in loaded(f"2026-12-01-fast-autoattack{name}.json")]
    fast, again = ([100 * (row[of] - row["standard"]) / row["samples"] for row in rows] for of in ("fast", "again"))
    return -min(fast), max(fast), max(map(abs, again))


def record_of_seconds() -> dict[str, list[dict[str, Any]]]:
    rows = [json.loads(line) for line in read(RESULTS / "2026-11-30-records.jsonl").splitlines()]
    return {side: [row for row in rows if row["side"] == side] for side in ("torchattacks", "fastadv")}


def test_records() -> None:
    sides = record_of_seconds()
    made = [
        {
            "side": "loop with torchattacks" if side == "torchattacks" else side, "seed": str(row["seed"]),
            "AutoAttack, %": f"{row['autoattack']:.1f}", "natural, %": f"{row['clean']:.1f}",
            "seconds": f"{row['seconds']:.1f}", "processor seconds": f"{row['processor seconds']:.1f}",
            "gradients an image of 60,000": f"{row['gradients']:.0f}",
        }
        for side, rows in sides.items()
        for row in rows
    ]  # fmt: skip
    assert table_with("2026-11-30-records.md", "processor seconds") == made
    loop, own = ([row["seconds"] for row in sides[side]] for side in sides)
    by_seed = ", ".join(f"{theirs / ours:.1f}" for theirs, ours in zip(loop, own, strict=True))
    processors = [np.mean([row["processor seconds"] for row in rows]) for rows in sides.values()]
    means = f"Means: {np.mean(loop):.0f} seconds for the loop, **{np.mean(own):.1f}** for fastadv: "
    means += f"**{np.mean(loop) / np.mean(own):.1f} times less** ({by_seed} by seed; "
    means += f"{processors[0] / processors[1]:.1f} in processor seconds)"
    assert means in read(RESULTS / "2026-11-30-records.md")


def test_two_circles() -> None:
    with (RESULTS / "two-circles" / "table.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    rows = table_with("2026-11-21-two-circles.md", "best of 64")
    shown = [(row["best of 64"], row["median"], row["100 %"], float(row["printed"])) for row in rows]
    made = []
    for one in found:
        if one["stop"] != "bound":
            best, median, accurate, printed = (float(one[key]) for key in ("best", "median", "accurate", "printed"))
            made.append((f"{best:.3f}", f"{median:.3f}", f"{100 * accurate:.0f} %", printed))
    assert sorted(shown) == sorted(made)
    bounds = {row["method"]: float(row["best"]) for row in found if row["stop"] == "bound"}
    for row in table_with("2026-11-21-two-circles.md", "bound", "eta"):
        digits = len(row["eta"].partition(".")[2])
        assert row["eta"] == f"{bounds[row['bound'].partition(',')[0]]:.{digits}f}"


# ------------------------------------------------------------------------------------------- sentences on other pages

OTHERS = re.compile(
    r"\b(Tables?|Figures?|[Ss]ections?|[Ee]quations?|Appendix|Lemma|Theorem|PyTorch|torch)\s+[\d.]+"
    r"((,| and| to|, and)\s+[\d.]+)*"
    r"|\d+\.\d+\.\d+|\b95 %"
)
"""Numbers that were not measured: places in papers, versions, the level of intervals."""
FIGURE = re.compile(r"(?<![\w.@/-])(\d+\.\d+|\d[\d,]*(?= ?(?:%|x\b|MB|GB|ms|us|times|points|seconds)))(?![\w.]*\d)")
BLOCK = re.compile(r"<!-- generated: \w+ -->.*?<!-- end -->", re.DOTALL)


def sections(page: Path) -> list[str]:
    """Parts of a page that lead to records, without code."""
    parts = re.split(r"\n(?=##+ )", re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE))
    return [part for part in parts if records_of(page, part)]


def records_of(page: Path, part: str) -> list[Path]:
    return [page.parent / link for link in re.findall(r"\]\(([^)#]*results/[^)#]+\.(?:md|jsonl?))", part)]


def strangers(page: Path, part: str) -> list[str]:
    """Figures of a section that are neither in its blocks nor, also if rounded, in the records that it leads to."""
    sources = [*BLOCK.findall(part), *map(read, records_of(page, part))]
    known = {number.replace(",", "") for number in re.findall(r"\d[\d,]*(?:\.\d+)?", " ".join(sources))}
    rounded = {f"{float(number):.{n}f}" for number in known for n in range(len(number.partition(".")[2]) + 1)}
    said = OTHERS.sub("", re.sub(r"\]\(\S+\)|`[^`]*`|\$[^$]*\$", "", BLOCK.sub("", part)))
    return [figure for figure in FIGURE.findall(said) if figure.replace(",", "") not in rounded]


@pytest.mark.parametrize("page", [page for page in PAGES if sections(page)], ids=lambda page: page.stem)
def test_figures_beside_a_link_stand_in_the_record(page: Path) -> None:
    assert [(part.splitlines()[0], strange) for part in sections(page) if (strange := strangers(page, part))] == []


def test_a_figure_that_the_record_does_not_have_is_seen() -> None:
    page, link = ROOT / "docs" / "speed.md", "([record](../benchmarks/results/2026-11-30-records.md))"
    assert sum(len(FIGURE.findall(BLOCK.sub("", part))) for page in PAGES for part in sections(page)) > 60
    assert strangers(page, f"It takes 126.5 seconds, 16.5 times as long {link}; torch 2.12 has 95 % intervals.") == []
    assert strangers(page, f"It takes 126.6 seconds {link}, 37 times as long, or 1.25 %.") == ["126.6", "37", "1.25"]


def launches(name: str) -> str:
    return f"{yaml.safe_load(read(ROOT / 'tests' / 'launches.yaml'))['attacks'][name]['launches']:.0f}"


def most(kind: str) -> str:
    return f"{max(ratio for case, (_, ratio) in ratios_of_passes().items() if case.startswith(kind)):.0f}"


def does_not_hold() -> str:
    rows = [row for rows in tables(read(RESULTS / "2026-11-29-equations.md")) for row in rows]
    return f"{sum(row['holds'] == 'False' for row in rows)} of {len(rows)}"


CLAIMS: dict[str, tuple[str, Callable[[], str]]] = {
    "equations": ("CHANGELOG.md", lambda: f"{does_not_hold()} rows do not hold"),
    "DIFGSM and EAD": (
        "CHANGELOG.md",
        lambda: f"{launches('difgsm')} instead of 50, and {launches('ead')} instead of 41",
    ),
    "PGD": ("docs/kernels.md", lambda: f"| PGD | {launches('pgd')} |"),
    "EPGD": ("docs/kernels.md", lambda: f"| EPGD | {launches('epgd')} |"),
    "FAT": ("docs/kernels.md", lambda: f"| FAT's attack, with its bookkeeping | {launches('friendly omega')} |"),
    "nine": (
        "docs/kernels.md",
        lambda: f"| DDN, C&W, APGD | {'/'.join({launches(name) for name in ('ddn', 'cw', 'apgd')})} |",
    ),
    "FAB-T": ("docs/kernels.md", lambda: f"| FAB-T | {launches('fabt')} |"),
    "first convolutions": ("CHANGELOG.md", lambda: f"up to {most('stem')} times as fast as PyTorch's"),
    "pooling": ("CHANGELOG.md", lambda: f"max-pooling by two, up to {most('max_pool')} times"),
    "convolutions, docstring": (
        "fastadv/attacks/_passes.py",
        lambda: f"up to {most('stem')} times as long as our kernel",
    ),
    "pooling, docstring": (
        "fastadv/attacks/_passes.py",
        lambda: f"takes it {ratios_of_passes()['max_pool 32x24x24, float32, channels first'][1]:.0f} times as long",
    ),
    "fast AutoAttack": (
        "docs/evaluation.md",
        lambda: (
            "between {:.1f} points fewer and {:.1f} more than the standard version, two runs of which differ by up "
            "to {:.1f}.".format(*fast_over_standard())
        ),
    ),
    "free": (
        "docs/methods/single-step.md",
        lambda: f"after {np.mean([row['seconds'] for row in record_of_seconds()['fastadv']]):.0f} seconds of training",
    ),
}
"""Sentences by hand: where they stand, and what they have to say by the files."""


@pytest.mark.parametrize("claim", CLAIMS)
def test_sentences_say_what_the_files_say(claim: str) -> None:
    path, expected = CLAIMS[claim]
    assert expected() in " ".join(read(ROOT / path).split())


BY_THE_CLOCK = re.compile(
    r"\d (?:ms|seconds|times as (?:long|fast|many|much))|\d times (?:faster|slower)|faster by|slower by"
)
"""What a figure that was measured is told by."""


def test_measured_figures_in_docstrings_are_compared() -> None:
    """Without what `CLAIMS` compares, docstrings have none."""
    for path in sorted((ROOT / "fastadv").rglob("*.py")):
        compared = [expected() for place, expected in CLAIMS.values() if ROOT / place == path]
        for node in ast.walk(ast.parse(read(path))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                text = " ".join(node.value.value.split())
                for sentence in compared:
                    text = text.replace(sentence, "")
                assert not BY_THE_CLOCK.findall(text), path


# --------------------------------------------------------------------------------------------- what chance leaves open

FRIENDS = [(f"{twin}-{eps}", f"{name}-{eps}") for eps in ("0.1", "0.2") for twin, name in (
    ("friendly", "madry"), ("friendly-trades", "trades"), ("friendly-mart", "mart"))]  # fmt: skip
THREE = ("fgsm", "pgd20", "cw30")


def beyond(
    run: str, table: str, pairs: Iterable[tuple[str, str]], figures: Iterable[str]
) -> list[tuple[str, str, str]]:
    """Of `pairs` of rows of a run, in these figures: those of which the first is larger or smaller beyond chance.

    The larger of the two comes first.
    """
    rows = {row.name: row for row in runs.read(RESULTS / "reproduce" / run)}
    found = []
    for figure, (first, second) in itertools.product(figures, pairs):
        low, high = runs.chance(rows[f"{table}{first}"], rows[f"{table}{second}"], figure)
        if not low <= 0 <= high:
            found.append((first, second, figure) if low > 0 else (second, first, figure))
    return found


def of_seeds(others: Iterable[str], *figures: str) -> list[tuple[str, str, str]]:
    pairs = [("bat", other) for other in others]
    return beyond("2026-12-01-blind-fashion-mnist-seeds", "blind-fashion-mnist-", pairs, figures)


def of_thesis(row: str, others: Iterable[str], *figures: str) -> int:
    """In how many columns, beside how many `others`, the row leads beyond chance."""
    pairs = [(row, other) for other in others]
    found = beyond("2026-12-01-thesis-mnist-10k", "spat-table3.2-", pairs, figures)
    return sum(first == row for first, _, _ in found)


def of_friends(
    figures: Iterable[str], run: str = "", pairs: Iterable[tuple[str, str]] = FRIENDS
) -> list[tuple[str, str, str]]:
    return beyond(f"2026-11-21-friendly-fashion-mnist{run}", "friendly-fashion-mnist-", pairs, figures)


def with_spat(others: Iterable[str], figures: Iterable[str], day: str = "22") -> list[tuple[str, str, str]]:
    pairs = [("spat", other) for other in others]
    return beyond(f"2026-11-{day}-spat-fashion-mnist", "spat-fashion-mnist-", pairs, figures)


def of_bilateral(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    return beyond("2026-11-21-bilateral-fashion-mnist", "bilateral-fashion-mnist-", pairs, ("ce20", "autoattack"))


def of_blind(run: str, pairs: Iterable[tuple[str, str]], *figures: str) -> list[tuple[str, str, str]]:
    return beyond(f"2026-11-21-blind-fashion-mnist{run}", "blind-fashion-mnist-", pairs, figures)


DRA_ATTACKS = [f"{name} {eps}" for name in ("fgsm", "pgd20", "autoattack") for eps in ("0.05", "0.1")] + ["cw30 0.1"]


def of_dra(larger: str, smaller: str) -> list[tuple[str, str, str]]:
    """Attacks of which the first row leaves more than the second beyond chance on the same images."""
    rows = {row.name: row for row in runs.read(RESULTS / "reproduce" / "2026-11-30-dra-fashion-mnist")}
    a, b = (rows[f"dra-fashion-mnist-{name}"].outcomes for name in (larger, smaller))
    return [(larger, smaller, name) for name in DRA_ATTACKS if verdicts.paired(a[name], b[name])[0] > 0]


STRONGER = ("pgd20 0.1", "cw30 0.1", "autoattack 0.1")
ONE_STEP = ("r-mc", "r-mc-ls", "r-mc-la")
STRONG = list(itertools.product(("r-fgsm", "madry"), ONE_STEP))
NORMALLY = tuple(f"{name} from spat-mnist-standard 0.3" for name in ("fgsm", "pgd20", "cw30"))
AVERAGES = ("deepfool avg-AA(0.08)", "deepfool avg-AA(0.04)")
TAUS = list(itertools.combinations(("0", "1", "2", "3", "5", "10"), 2))
CHANCE: dict[str, tuple[str, Callable[[], bool]]] = {
    "only FAT less Madry at 0.2 is beyond chance": (
        "2026-11-21-friendly-fashion-mnist",
        lambda: of_friends(["clean"]) == [("friendly-0.2", "madry-0.2", "clean")],
    ),
    "under PGD-20 and C&W-inf at 0.1 and under AutoAttack, no pair differs by more than chance": (
        "2026-11-21-friendly-fashion-mnist",
        lambda: not any((
            of_friends(["pgd20 0.1", "cw30 0.1"]),
            of_friends(["autoattack 0.1"], "-autoattack-0.1", FRIENDS[:3]),
            of_friends(["autoattack 0.1"], "-autoattack-0.2", FRIENDS[3:]),
        )),
    ),
    "At 0.2 five differences are beyond it": (
        "2026-11-21-friendly-fashion-mnist", lambda: len(of_friends([f"{name} 0.2" for name in THREE])) == 5
    ),
    "the differences of rows are within chance, but for one: tau 0 keeps 12.8 % under PGD-20 at 0.2, tau 10 17.6 %": (
        "2026-11-21-friendly-fashion-mnist",
        lambda: beyond(
            "2026-11-21-friendly-fashion-mnist-tau", "friendly-fashion-mnist-tau/attack.tau=", TAUS,
            ["clean", *(f"{name} 0.1" for name in (*THREE, "autoattack")), "pgd20 0.2"],
        ) == [("10", "0", "pgd20 0.2")],
    ),
    "have 0.9 to 3.0 points less than their twins; within chance in each column. FAT for MART has 0.7 points more "
    "under C&W-inf, and 0.2 and 0.1 less under FGSM and PGD-20: chance, too": (
        "2026-11-30-friendly-fashion-mnist-seeds",
        lambda: not beyond(
            "2026-11-30-friendly-fashion-mnist-seeds", "friendly-fashion-mnist-", FRIENDS[:3],
            [f"{name} 0.1" for name in THREE],
        ),
    ),
    "SMD's mean of the four is above that of normal training beyond chance, within chance of that of AT, and below "
    "that of TRADES beyond chance": (
        "2026-12-01-smd-fashion-mnist",
        lambda: beyond(
            "2026-12-01-smd-fashion-mnist", "smd-table2b-",
            [("smd", "std"), ("smd", "at8"), ("smd", "tr-b6-8")], ["average autoattack"],
        ) == [("smd", "std", "average autoattack"), ("tr-b6-8", "smd", "average autoattack")],
    ),
    "beyond what chance leaves on the same images, at 0.05 and 0.1 under every attack": (
        "2026-11-30-dra-fashion-mnist", lambda: len(of_dra("pgd", "dra")) == len(DRA_ATTACKS)
    ),
    "Taking turns, for half of the gradients, differs from PGD within chance in every column": (
        "2026-11-30-dra-fashion-mnist",
        lambda: not beyond(
            "2026-11-30-dra-fashion-mnist", "dra-fashion-mnist-", [("pgd", "alternating")],
            ["clean", "pgd20 0.02", "pgd20 0.05", "pgd20 0.1", "autoattack 0.05", "autoattack 0.1"],
        ),
    ),
    "Its leads over ALP, TRADES, MART and Madry's are within chance under PGD-20, C&W-inf and AutoAttack; those over "
    "GAIRAT and MAIL are not": (
        "2026-11-30-spat-fashion-mnist",
        lambda: not with_spat(("alp", "trades", "mart", "madry"), STRONGER, "30")
        and len(with_spat(("gairat", "mail"), STRONGER, "30")) == 6,
    ),
    "SPAT leaves more than ALP, TRADES, MART and Madry's training, beyond chance, as in print": (
        "2026-12-01-thesis-mnist-10k",
        lambda: of_thesis("spat", ("alp", "trades", "mart", "madry"), *(f"{name} 0.3" for name in THREE)) == 12,
    ),
    "less than Madry's 95.2 % beyond chance": (
        "2026-12-01-thesis-mnist-10k", lambda: of_thesis("madry", ("spat",), "clean") == 1
    ),
    "TRADES has 92.4 %, behind Madry's, MART's and ALP's rows beyond chance": (
        "2026-12-01-thesis-mnist-10k",
        lambda: sum(of_thesis(name, ("trades",), "clean") for name in ("madry", "mart", "alp")) == 3,
    ),
    "SPAT leads TRADES beyond chance and is within chance of MART and ALP": (
        "2026-12-01-thesis-mnist-10k",
        lambda: of_thesis("spat", ("trades",), *NORMALLY) == 3 and of_thesis("spat", ("mart", "alp"), *NORMALLY) == 0,
    ),
    "BAT's averages over DeepFool's budgets are above those of the four other rows, beyond chance": (
        "2026-12-01-blind-fashion-mnist-seeds",
        lambda: len(of_seeds(("nt", "fgsm", "pgd", "df-at"), *AVERAGES)) == 8,
    ),
    "above that of PGD-AT and below that of NT, beyond chance; within chance of that of DF-AT": (
        "2026-12-01-blind-fashion-mnist-seeds",
        lambda: of_seeds(("pgd", "nt", "df-at"), "clean") == [("bat", "pgd", "clean"), ("nt", "bat", "clean")],
    ),
    "So BAT's clean accuracy is 1.4 points above FGSM-AT's, beyond chance": (
        "2026-12-01-blind-fashion-mnist-seeds", lambda: of_seeds(("fgsm",), "clean") == [("bat", "fgsm", "clean")]
    ),
    "BAT has 3.5 points more than DF-AT, beyond chance": (
        "2026-12-01-blind-fashion-mnist-seeds", lambda: of_seeds(("df-at",), "pgd 0.1") == [("bat", "df-at", "pgd 0.1")]
    ),
    "PGD-AT's are 83.6 and 92.2: larger, as in print, but within chance": (
        "2026-11-30-mnist-10k",
        lambda: not beyond(
            "2026-11-30-blind-mnist-10k", "blind-mnist-", [("bat", "pgd")],
            ["deepfool avg-AA(0.13)", "deepfool avg-AA(0.07)"],
        ),
    ),
    "R-FGSM and Madry's training leave more than the three others under CE20 and AutoAttack, beyond chance": (
        "2026-11-21-bilateral-fashion-mnist", lambda: {pair[:2] for pair in of_bilateral(STRONG)} == {*STRONG}
    ),
    "these three lie within chance of each other": (
        "2026-11-21-bilateral-fashion-mnist", lambda: not of_bilateral(itertools.combinations(ONE_STEP, 2))
    ),
    "Its leads over ALP, TRADES, MART and Madry's are within chance under every attack": (
        "2026-11-22-spat-fashion-mnist",
        lambda: not with_spat(("alp", "trades", "mart", "madry"), [f"{name} 0.1" for name in (*THREE, "autoattack")]),
    ),
    "those over GAIRAT and MAIL under C&W-inf and AutoAttack are not": (
        "2026-11-22-spat-fashion-mnist",
        lambda: len(with_spat(("gairat", "mail"), ("cw30 0.1", "autoattack 0.1"))) == 4,
    ),
    "BAT's leads in clean accuracy over PGD-AT and DF-AT, and in either average over FGSM-AT, PGD-AT and DF-AT, are "
    "within chance; those over NT are not": (
        "2026-11-21-blind-fashion-mnist",
        lambda: not of_blind("", [("bat", "pgd"), ("bat", "df-at")], "clean", *AVERAGES)
        and not of_blind("", [("bat", "fgsm")], *AVERAGES)
        and of_blind("", [("bat", "nt")], *AVERAGES) == [("bat", "nt", figure) for figure in AVERAGES],
    ),
    "PGD-AT is ahead of BAT beyond chance: 62.8 against 51.6 under PGD-20, 61.8 against 42.2 under AutoAttack": (
        "2026-11-21-blind-fashion-mnist",
        lambda: of_blind("", [("bat", "pgd")], "pgd-true 0.1") == [("pgd", "bat", "pgd-true 0.1")]
        and of_blind("-autoattack", [("bat", "pgd")], "autoattack 0.1") == [("pgd", "bat", "autoattack 0.1")],
    ),
    "In avg-AA(0.04), FGSM-AT 82.7, BAT 82.2, PGD-AT 81.9 and DF-AT 81.1 lie within chance of each other": (
        "2026-11-21-blind-fashion-mnist",
        lambda: not of_blind("-wide", itertools.combinations(("fgsm", "bat", "pgd", "df-at"), 2), AVERAGES[1]),
    ),
}  # fmt: skip
"""Sentences of records on which differences are beyond chance: the record, and whether its files say so."""


@pytest.mark.parametrize("said", CHANCE)
def test_what_records_say_of_chance(said: str) -> None:
    record, holds = CHANCE[said]
    assert said in " ".join(read(RESULTS / f"{record}.md").split())
    assert holds()
