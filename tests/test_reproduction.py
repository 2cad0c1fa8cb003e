"""REPRODUCTION.md and the pages are what the result files say, and a verdict can go either way."""

import csv
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
import yaml

from benchmarks import pages, reproduction, verdicts
from benchmarks.reproduction import PAGE, RESULTS, ROOT, page
from benchmarks.runs import LIKE, Row, about, carried, chance, changes, folders, orderings, read
from benchmarks.verdicts import BEARS_ON, CONFIRMED, CONTRADICTED, INCOMPARABLE, WITHIN
from fastadv import recipes
from fastadv.recipes import Figure
from fastadv.report import figures_csv, read_figures
from fastadv.trainers import METHODS

BAT, PGD = recipes.load("blind-fashion-mnist-bat"), recipes.load("blind-fashion-mnist-pgd")
WRITTEN = pages.paths(ROOT)
OF_METHODS = [path for path in WRITTEN if path.parent.name == "methods" and path.stem != "index"]


def row(*figures: Figure, recipe: recipes.Recipe = BAT, samples: int = 10_000, **settings: object) -> Row:
    return Row(recipe.name, recipe, list(figures), samples, **settings)


# The four verdicts, in closed form.


@pytest.mark.parametrize(
    ("difference", "interval", "verdict"),
    [
        (1.0, (-0.5, 2.5), CONFIRMED),
        (-1.5, (-3.0, 0.0), CONFIRMED),
        (1.6, (-0.1, 3.3), WITHIN),
        (-4.0, (-9.0, 1.0), WITHIN),
        (4.0, (1.0, 7.0), CONTRADICTED),
        (-1.0, (-1.5, -0.5), CONTRADICTED),
    ],
)
def test_a_figure(difference: float, interval: tuple[float, float], verdict: str) -> None:
    assert verdicts.of_figure(difference, interval, tolerance=1.5) == verdict


@pytest.mark.parametrize("printed", [0.1, 40.0])
def test_an_ordering(printed: float) -> None:
    for sign in (1, -1):
        assert verdicts.of_ordering(sign * printed, (0.5, 3.0)) == (CONFIRMED if sign > 0 else CONTRADICTED)
        assert verdicts.of_ordering(sign * printed, (-3.0, -0.5)) == (CONTRADICTED if sign > 0 else CONFIRMED)
        assert verdicts.of_ordering(sign * printed, (-0.5, 3.0)) == WITHIN


def test_what_bears_on_what() -> None:
    assert verdicts.bearing(["limit"], "figure") == verdicts.bearing(["limit"], "ordering") == []
    assert verdicts.bearing(["epochs", "limit"], "figure") == ["epochs"]
    assert verdicts.bearing(["epochs", "model", "per_class", "lr"], "ordering") == []
    assert verdicts.bearing(["epochs", "data"], "ordering") == ["data"]


def test_everything_that_a_run_can_change_has_a_rule() -> None:
    """Whatever `changes` may report bears on something, or on nothing, by name."""
    everything = {"data": "mnist", "model": "lenet5", "epochs": 1, "batch_size": 1, "per_class": 1, "lr": 1.0}
    everything |= {"optimizer": "sgd", "eps_warmup": 2, "precision": "float16", "limit": 1}
    part = changes(recipes.load("blind-mnist-bat"), {"data": "mnist-10k", "limit": 0})
    assert {*changes(BAT, everything), *part} == set(BEARS_ON)


# What chance leaves open.


def test_independent_shares_as_by_newcombe() -> None:
    """56 of 70 and 48 of 80: 0.0524 to 0.3339 in Newcombe's Table II, method 10, example (a)."""
    low, high = verdicts.independent(80.0, 70, 60.0, 80)
    assert (low, high) == (pytest.approx(5.24, abs=0.005), pytest.approx(33.39, abs=0.005))
    assert verdicts.independent(60.0, 80, 80.0, 70) == (pytest.approx(-high), pytest.approx(-low))
    low, high = verdicts.independent(0.0, 500, 0.0, 500)  # where a normal interval would have no width
    assert low == pytest.approx(-high)
    assert high > 0.5


def test_paired_outcomes_leave_less_open() -> None:
    """Rows that saw the same images and disagree on 40 of 1,000: 38 to 2 is beyond chance, as shares are not."""
    first, second = np.full(1000, 100.0), np.full(1000, 100.0)
    first[:200] = second[:200] = 0
    second[300:338], first[338:340] = 0, 0
    low, high = verdicts.paired(first, second)
    middle, half = 3.6, 1.96 * stdev(first - second) / math.sqrt(1000)
    assert (low, high) == (pytest.approx(middle - half, abs=0.15), pytest.approx(middle + half, abs=0.15))
    assert low > 0 > verdicts.independent(79.8, 1000, 76.2, 1000)[0]


def test_seeds_widen_an_interval() -> None:
    three = 3, 1.0
    assert verdicts.of_seeds((1, None), (1, None), default=1.5) == 1.5
    assert verdicts.of_seeds(three, three, default=1.5) == pytest.approx(4.303 * math.sqrt(2 / 3))
    assert verdicts.of_seeds(three, (1, None), default=1.5) == pytest.approx(4.303 * math.sqrt(1 + 1 / 3))
    assert verdicts.of_seeds((1, None), (5, 0.2), default=1.5) == pytest.approx(2.776 * 0.2 * math.sqrt(1 + 1 / 5))
    assert verdicts.of_seeds(three, (5, 2.0), default=1.5) == pytest.approx(4.303 * math.sqrt(1 / 3 + 4 / 5))
    assert verdicts.of_seeds((99, 1.0), (99, 1.0), default=1.5) == pytest.approx(2.262 * math.sqrt(2 / 99))
    assert verdicts.widened(1.0, (-2.0, 4.0), 4.0) == (-4.0, 6.0)


# Rows and orderings.


def test_a_row_has_all_four_verdicts() -> None:
    few = {"samples": 100}
    assert row(it := Figure("clean", 88.0, 88.8)).verdict(it) == CONFIRMED
    assert row(it := Figure("clean", 85.0, 88.8), **few).verdict(it) == WITHIN
    assert row(it := Figure("clean", 85.0, 88.8)).verdict(it) == CONTRADICTED
    assert row(it, changed={"epochs": (8, 70)}).verdict(it) == INCOMPARABLE
    assert row(it, changed={"limit": (1000, 0)}).verdict(it) == CONTRADICTED
    assert row(it := Figure("clean", 85.0, None)).verdict(it) == ""


def test_a_note_changes_no_verdict() -> None:
    figure = Figure("clean", 85.0, 88.8)
    for note in ("", "Batch size is not printed."):
        assert row(figure, recipe=replace(BAT, note=note)).verdict(figure) == CONTRADICTED


def test_what_print_leaves_open_is_compared() -> None:
    """The paper says LeNet-5, which may be either of two; no other network, and no other setting, is let through."""
    it = Figure("clean", 85.0, 88.8)
    assert row(it, changed={"model": ("lenet5", "lenet5-wide")}).verdict(it) == CONTRADICTED
    assert row(it, changed={"model": ("resnet18", "lenet5-wide")}).verdict(it) == INCOMPARABLE
    assert row(it, changed={"model": ("lenet5", "lenet5-wide"), "epochs": (8, 70)}).verdict(it) == INCOMPARABLE
    with pytest.raises(ValueError, match="also takes settings of training, got rho"):
        replace(BAT, also={"rho": [1.0]})


def test_part_of_a_data_set() -> None:
    recipe = recipes.load("blind-mnist-bat")
    changed = changes(recipe, {"data": "mnist-10k", "limit": 0})
    assert changed == {"part": (8000, 0)}
    it = Figure("clean", 97.0, 98.5)
    one = row(it, recipe=recipe, samples=2000, changed=changed)
    assert one.verdict(it) == INCOMPARABLE
    assert about([one]) == "8,000 training images"
    other = row(Figure("clean", 90.0, 97.0), recipe=recipes.load("blind-mnist-pgd"), samples=2000, changed=changed)
    assert [ordering.verdict for ordering in orderings([one, other])] == [CONFIRMED]


def test_budgets_that_rise_are_of_networks_trained_under_attack() -> None:
    settings = {"eps_warmup": 8, "limit": 0}
    changed = changes(recipes.load("spat-table3.2-madry"), settings)
    assert changed == {"eps_warmup": (8, 0)}
    assert about([row(changed=changed)]) == "budgets that rise over 8 epochs"
    assert not changes(recipes.load("spat-mnist-standard"), settings)


def test_gaps_may_be_negative() -> None:
    recipe = recipes.load("smd-table1-smd")
    outcomes = {"gap x over y": np.array([-100.0] + 199 * [0.0])}
    it = Figure("gap x over y", -0.5, 0.4)
    assert row(it, recipe=recipe, samples=200).verdict(it) == CONFIRMED  # by the allowance for another seed
    assert row(far := replace(it, printed=5.0), recipe=recipe, samples=200).verdict(far) == CONTRADICTED
    noisy = {"gap x over y": np.tile([-100.0, 99.0], 100)}
    assert row(far, recipe=recipe, samples=200, outcomes=outcomes).verdict(far) == CONTRADICTED
    assert row(far, recipe=recipe, samples=200, outcomes=noisy).verdict(far) == WITHIN


def test_norms_have_verdicts() -> None:
    assert row(it := Figure("deepfool norm", 0.088, 0.081)).verdict(it) == CONFIRMED
    it = Figure("deepfool norm", 0.097, 0.081)
    assert row(it).verdict(it) == CONTRADICTED
    spread = replace(it, spread=0.02)
    assert row(spread, seeds=3).verdict(spread) == WITHIN
    assert row(it, changed={"epochs": (8, 70)}).verdict(it) == INCOMPARABLE
    assert reproduction.cell(row(it), "deepfool norm") == "0.097 (0.081; +0.016) x"


def test_orderings_of_rows() -> None:
    def found(bat: float, pgd: float, **settings: object) -> list[str]:
        rows = [row(Figure("clean", bat, 88.8), **settings), row(Figure("clean", pgd, 85.7), recipe=PGD)]
        return [ordering.verdict for ordering in orderings(rows)]

    assert found(88.0, 84.0) == [CONFIRMED]
    assert found(84.0, 88.0) == [CONTRADICTED]
    assert found(86.5, 85.5) == [WITHIN]
    assert found(88.0, 84.0, changed={"epochs": (8, 70)}) == [CONFIRMED]
    assert found(84.0, 88.0, changed={"data": ("mnist", "fashion-mnist")}) == [INCOMPARABLE]
    assert found(88.0, 84.0, samples=100) == [WITHIN]


def test_ties_and_other_tables_are_no_orderings() -> None:
    other = recipes.load("blind-mnist-pgd")
    assert orderings([row(Figure("clean", 88.0, 88.8)), row(Figure("clean", 84.0, 88.8), recipe=PGD)]) == []
    assert orderings([row(Figure("clean", 88.0, 88.8)), row(Figure("clean", 84.0, 98.0), recipe=other)]) == []
    assert orderings([row(Figure("clean", 88.0, None)), row(Figure("clean", 84.0, 98.0), recipe=PGD)]) == []


def test_outcomes_are_paired() -> None:
    right = np.zeros(1000)
    right[:800] = 100.0
    less = right.copy()
    less[:35] = 0
    rows = [
        row(Figure("clean", 80.0, 88.8), samples=1000, outcomes={"clean": right}),
        row(Figure("clean", 76.5, 85.7), recipe=PGD, samples=1000, outcomes={"clean": less}),
    ]
    assert chance(*rows, "clean")[0] > 0
    assert chance(*(replace(one, outcomes={}) for one in rows), "clean")[0] < 0


# Files.


def measured_in(folder: Path) -> list[Figure]:
    return read_figures(folder / "figures.csv")


def write(folder: Path, settings: dict, **figures: list[Figure]) -> None:
    """A folder as ``fastadv reproduce`` leaves it, with the `figures` of recipes."""
    for name, found in figures.items():
        (folder / name.replace("_", "-")).mkdir(parents=True, exist_ok=True)
        (folder / name.replace("_", "-") / "figures.csv").write_text(figures_csv(found))
    (folder / "config.yaml").write_text(yaml.safe_dump({"limit": 0, **settings}))


@pytest.mark.parametrize(("bat", "pgd", "verdict"), [(88.0, 84.0, CONFIRMED), (84.0, 88.0, CONTRADICTED)])
def test_an_ordering_reversed_in_the_file_is_contradicted(
    bat: float, pgd: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "ROOT", tmp_path)
    results = tmp_path / "results"
    figures = {"blind_fashion_mnist_bat": [Figure("clean", bat, 88.8)]}
    figures["blind_fashion_mnist_pgd"] = [Figure("clean", pgd, 85.7)]
    write(results / "reproduce" / "new", {"epochs": 8}, **figures)
    assert f"| figure | bat, pgd |\n| --- | :-: |\n| clean | > {reproduction.SIGNS[verdict]} |" in page(results)
    held = int(verdict == CONFIRMED)
    text = "\n".join(pages.verdict_block("blind", results))
    assert f"{held} of 1 printed orderings held, {1 - held} were contradicted, 0 are within chance." in text
    assert f"| `clean` there | Printed above pgd: {verdict}. |" in text
    write(results / "reproduce" / "other", {"data": "mnist"}, **figures)
    assert "| other | 2 | 0 | 0 | 0 | 1 | 0 | 0 | 0 | 2 | 0 |" in page(results)


def test_seeds_and_outcomes_are_read(tmp_path: Path) -> None:
    mean = [Figure("clean", 88.0, 88.8, spread=2.0)]
    write(tmp_path / "three", {"limit": 500, "seeds": 3}, blind_fashion_mnist_bat=mean)
    for seed, outcomes in enumerate(([100, 0], [100, 0], [100, 100])):
        write(tmp_path / "three" / f"seed-{seed}", {}, blind_fashion_mnist_bat=[Figure("clean", 88.0, 88.8)])
        place = tmp_path / "three" / f"seed-{seed}" / BAT.name
        np.savez(place / "outcomes.npz", clean=np.array(outcomes, "float16"))
    (found,) = read(tmp_path / "three")
    assert (found.figures, found.samples, found.seeds) == (mean, 500, 3)
    assert found.outcomes["clean"].tolist() == pytest.approx([100, 100 / 3])
    write(tmp_path / "one", {}, blind_fashion_mnist_bat=[Figure("clean", 50.0, 88.8)])
    np.savez(tmp_path / "one" / BAT.name / "outcomes.npz", clean=np.array([0.0, 100.0]))
    (found,) = read(tmp_path / "one")
    assert found.outcomes["clean"].tolist() == [0.0, 100.0]


def test_a_printed_deviation_counts() -> None:
    figure = Figure("clean", 90.5, 89.34, deviation=0.1)
    recipe = replace(recipes.load("friendly-table1-fat-8"), over={"median": 5})
    assert row(figure, recipe=recipe, samples=10**6).verdict(figure) == CONTRADICTED
    assert row(wide := replace(figure, deviation=1.0), recipe=recipe, samples=10**6).verdict(wide) == CONFIRMED


def test_what_was_changed() -> None:
    assert changes(BAT, {"model": "lenet5-wide", "epochs": None, "limit": 0}) == {}
    assert changes(BAT, {"epochs": 35, "optimizer": "adam", "limit": 0}) == {}
    shorter = {"model": "lenet5", "epochs": 34, "per_class": 600, "lr": 0.01, "limit": 1000}
    assert changes(BAT, shorter) == {
        "model": ("lenet5", "lenet5-wide"),
        "epochs": (34, 70),
        "per_class": (600, 0),
        "lr": (0.01, 0.001),
        "limit": (1000, 0),
    }
    assert about([row(changed=changes(BAT, shorter))]) == (
        "network lenet5 instead of lenet5-wide, 34 epochs instead of 70, 600 training images of each class, "
        "learning rate 0.01 instead of 0.001, 1,000 test images"
    )
    rows = [row(changed={"epochs": (6, 150)}), row(changed={"epochs": (6, 76), "model": ("lenet5", "lenet5-wide")})]
    assert about(rows) == "6 epochs instead of 76 to 150"


def test_rows_carried_to_other_data() -> None:
    for name, like in LIKE.items():
        one, other = recipes.load(name), recipes.load(like)
        assert one.method == other.method
        assert one.training["data"] != other.training["data"]
    found = carried(read(RESULTS / "reproduce" / "2026-11-22-spat-fashion-mnist"))
    spat = next(one for one in found if one.name == "spat-table3.4-spat")
    assert spat.get("autoattack 0.1").printed == 48.33
    assert spat.get("pgd20 from spat-fashion-mnist-madry 0.1").printed is None


def test_averages_of_runs_from_before_there_were_any(tmp_path: Path) -> None:
    """Only where all parts are there; one that the run has is left as it is."""
    parts = [
        Figure("clean", 80.0, 90.86),
        *(Figure(f"autoattack {eps}", 70.0, 80.0) for eps in ("0.007843", "0.01569")),
    ]
    last = Figure("autoattack 0.03137", 50.0, 83.38)
    write(tmp_path / "part", {}, smd_table2b_smd=parts)
    write(tmp_path / "all", {}, smd_table2b_smd=[*parts, last])
    write(tmp_path / "has", {}, smd_table2b_smd=[*parts, last, Figure("average autoattack", 67.0, 87.67)])
    averages = [[row.get("average autoattack") for row in read(tmp_path / run)] for run in ("part", "all", "has")]
    assert averages == [
        [None],
        [Figure("average autoattack", 67.5, 87.67)],
        [Figure("average autoattack", 67.0, 87.67)],
    ]


# The pages.


def test_the_page_is_what_the_program_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m benchmarks.reproduction"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_blocks_are_what_the_program_writes(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == pages.rewritten(path, RESULTS), "run: python -m benchmarks.reproduction"


@pytest.mark.parametrize("path", OF_METHODS, ids=lambda path: path.stem)
def test_the_first_table_of_a_page_says_how_the_claim_stood_up(path: Path) -> None:
    before, _, after = path.read_text(encoding="utf-8").partition("<!-- generated: verdict -->")
    assert "\n|" not in before
    assert "Did the paper's claim stand up here?" in after.partition("<!-- end -->")[0]


def test_every_method_page_has_blocks() -> None:
    on_disk = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} - {"index"}
    assert {path.stem for path in OF_METHODS} == on_disk
    for name in on_disk:
        text = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert ("<!-- generated: measured -->" in text) == (name in pages.TABLES)


def test_every_paper_has_its_verdicts_on_the_page_of_all() -> None:
    block = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8").partition("<!-- generated: verdict -->")[2]
    said = block.partition("<!-- end -->")[0]
    assert all(claim.paper in said for claim in pages.CLAIMS.values())


@pytest.mark.parametrize("name", ["README.md", "docs/index.md", "docs/reproduction.md"])
def test_the_front_pages_say_what_came_of_all_figures(name: str) -> None:
    assert pages.so_far(RESULTS) in " ".join((ROOT / name).read_text(encoding="utf-8").split())


def test_the_record_on_the_front_page_is_that_of_the_file() -> None:
    """Means over the seeds of the seconds to the target, of both sides."""
    rows = [json.loads(line) for line in (RESULTS / "2026-11-30-records.jsonl").read_text().splitlines()]
    usual, own = ([row["seconds"] for row in rows if row["side"] == side] for side in ("torchattacks", "fastadv"))
    assert len(usual) == len(own) == 3
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"after {np.mean(own):.1f} seconds of `free`, after {np.mean(usual):.0f} in a loop" in said


def test_what_was_calibrated_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "run", {}, blind_fashion_mnist_bat=[Figure("clean", 50.0, 88.8)])
    found = recipes.Calibration("net", "dra", 0.1, 20.5, "pgd", 0.03, 20.25)
    (tmp_path / "run" / "calibrations.json").write_text(json.dumps({"key": vars(found)}))
    monkeypatch.setattr(reproduction, "ROOT", tmp_path)
    assert f"- Calibrated: {found}." in reproduction.section(tmp_path / "run")


def test_every_method_has_a_line_among_the_choices() -> None:
    *lines, last = pages.choices_block(RESULTS)
    rows = [line.split("|")[1:-1] for line in lines if "`" in line]
    named = [row[1].split("`")[1].replace("-", "_") for row in rows]
    missing = re.findall("`([a-z-]+)`", last.partition("Not in these runs:")[2])
    assert set(named) == {*pages.CHOICES}
    assert {*named, *(name.replace("-", "_") for name in missing)} == set(METHODS)
    assert all(f"`{name.replace('_', '-')}` *" in "\n".join(lines) for name in pages.CHANGED)


def test_a_group_of_choices_has_a_baseline_and_one_budget() -> None:
    groups: list[list[list[str]]] = []
    for line in pages.choices_block(RESULTS)[:-1]:
        if "`" in line:
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            groups += [[]] if cells[0] else []
            groups[-1].append(cells)
    assert [group[0][0] for group in groups] == [f"**{letter}**" for letter in "ABCDEFG"]
    assert all({"`standard`", "`madry`"} & {row[1] for row in group} for group in groups)
    assert [{row[2] for row in group} for group in groups] == [{"0.1"}] * 4 + [{"8/255"}, {"8/255"}, {"0.05"}]


def test_speed_is_the_ratio_of_the_seconds_in_the_file() -> None:
    """PGD on LeNet-5, read by hand from the file; "x" is of the tuned attack's time."""
    sides = json.loads((RESULTS / "2026-11-22-attacks-passes.json").read_text())["benchmarks"][0]["extra_info"]["sides"]
    ratio = sides["torchattacks"]["seconds"] / sides["tuned"]["seconds"]
    assert f"| PGD, 10 steps | LeNet-5 | {ratio:.1f} x |" in "\n".join(pages.block("speed", "README", RESULTS))


def test_the_home_page_says_the_range_of_the_table() -> None:
    ratios = re.findall(r"([\d.]+) x", "\n".join(pages.block("speed", "README", RESULTS)))
    smallest, largest = min(ratios, key=float), max(ratios, key=float)
    assert f"[{smallest} to {largest} times as long](speed.md)" in (ROOT / "docs" / "index.md").read_text(
        encoding="utf-8"
    )


def test_a_page_that_claims_otherwise_fails(tmp_path: Path) -> None:
    """Where the figures of two rows are exchanged in the files, the page is no longer what the program writes."""
    shutil.copytree(RESULTS / "reproduce", tmp_path / "reproduce")
    run = tmp_path / "reproduce" / "2026-11-21-blind-fashion-mnist"
    names = BAT.name, PGD.name
    texts = [(run / name / "figures.csv").read_text() for name in names]
    for name, text in zip(names, reversed(texts), strict=True):
        (run / name / "figures.csv").write_text(text)
    path = ROOT / "docs" / "methods" / "blind.md"
    assert path.read_text(encoding="utf-8") != pages.rewritten(path, tmp_path)


ORDERINGS = re.compile(
    r"\b(best|worst|better|worse|first|last place|lead(s|ing)?|ahead|behind|above|stronger|weaker|robuster|"
    r"(more|most|less|least) (robust|accurate|natural accuracy)|(out)?performs?|beats?|wins?|highest|lowest|"
    r"orders?|orderings? (hold|stay|remain)s?|revers\w+|as in the (paper|thesis)|as the (paper|thesis) (has|prints))\b",
    re.IGNORECASE,
)
"""Words in which a page could claim by hand that one row is above another."""


def by_hand(text: str) -> str:
    """A page's text outside of generated blocks, links and code."""
    text = re.sub(r"<!-- generated: \w+ -->.*?<!-- end -->", "", text, flags=re.DOTALL)
    return re.sub(r"```.*?```|`[^`]*`|\]\(\S+\)", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_orderings_of_measured_figures_stand_in_blocks_only(path: Path) -> None:
    headings = {"README": "Speed", "index": "What each cost and gave here", "reproduction": "The verdicts"}
    heading = headings.get(path.stem, "Training" if path.stem == "speed" else "Measured")
    said = (path.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2] + "\n## ").partition("\n## ")[0]
    assert said
    assert [found[0] for found in ORDERINGS.finditer(by_hand(said))] == []


@pytest.mark.parametrize(
    "claim",
    [
        "The paper's orderings hold, under DeepFool.",
        "the best of NT, FGSM-AT, PGD-AT, DF-AT and BAT as in the paper",
        "Natural accuracy is above the twin's in all six pairs",
        "The paper's order, in which R-MC-LA is best, is not found here: it is reversed.",
        "62.7 under AutoAttack on 300, the best of twelve rows",
        "That DRA leads is not seen here",
    ],
)
def test_earlier_claims_would_be_caught(claim: str) -> None:
    assert ORDERINGS.search(by_hand(claim))


def test_the_largest_of_a_line_is_marked() -> None:
    rows = [row(Figure("clean", value, None), samples=1000) for value in (80.0, 79.0, 60.0, 80.0)]
    assert pages._cells(rows, "clean", True) == ["**80.0**", "79.0 ~", "60.0", "**80.0**"]
    assert pages._cells(rows, "clean", False) == ["80.0", "79.0", "60.0", "80.0"]


def test_every_measured_figure_is_in_the_page() -> None:
    shown = set(re.findall(r"\d+\.\d+", PAGE.read_text(encoding="utf-8")))
    files = [path for path in (RESULTS / "reproduce").rglob("figures.csv") if "seed-" not in str(path)]
    assert len(files) > 50
    for path in files:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                value = float(line["measured"])
                assert {f"{value:.1f}", f"{value:.4g}"} & shown, (path, line)


def test_figures_of_several_seeds_are_their_means() -> None:
    several = [folder for folder in folders(RESULTS) if (folder / "seed-0").is_dir()]
    assert several
    for path in (path for folder in several for path in folder.glob("[!s]*/figures.csv")):
        parts = [measured_in(each / path.parent.name) for each in sorted(path.parents[1].glob("seed-*"))]
        for place, figure in enumerate(measured_in(path.parent)):
            values = [part[place].measured for part in parts]
            assert {part[place].name for part in parts} == {figure.name}
            assert figure.measured == pytest.approx(np.mean(values))
            assert figure.spread == pytest.approx(stdev(values))


def test_printed_figures_are_those_of_the_recipes() -> None:
    for folder in folders(RESULTS):
        for one in read(folder):
            printed = {}
            for key, figure in one.recipe.printed.items():
                for what, value in recipes._items(key, figure):
                    budget = f"{what:.4g}" if isinstance(what, float) else what
                    printed[key if what is None else f"{key} {budget}"] = value
            assert {figure.name: figure.printed for figure in one.figures}.items() <= printed.items()


def test_the_summary_counts_every_claim() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for folder in folders(RESULTS):
        rows = read(folder)
        told = Counter(one.verdict(figure) for one in rows for figure in one.figures if figure.printed is not None)
        pairs = len(orderings(rows))
        line = next(line for line in lines if line.startswith(f"| {folder.name} |"))
        numbers = list(map(int, line.split("|")[2:-1]))
        assert sum(numbers[1:5]) == pairs
        assert sum(numbers[5:9]) == told.total()
