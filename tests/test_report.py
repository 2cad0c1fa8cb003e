"""fastadv report: every number is a file's, differences are told from chance, and the page needs nothing else."""

import csv
import hashlib
import json
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from toys import linear, samples

from fastadv import report
from fastadv.__main__ import main
from fastadv.attacks import FGSM, DeepFool
from fastadv.data import Dataset
from fastadv.evaluation import AACurve, CorruptionAccuracy, Evaluation, Finding, Outcome, Result, evaluate
from fastadv.recipes import Figure
from fastadv.report import (
    Entry,
    _compare,
    _seeds,
    paired_bootstrap,
    read_run,
    write_evaluation,
    write_samples,
    write_table,
)
from fastadv.report._plots import draw_examples, plot_lines
from fastadv.report._verdict import verdict
from fastadv.runs import Run

N = 200
THETA = 0.1
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def evaluation(clean: int, fgsm: int, *, eps: float = 0.1, flip: float = 0.05) -> Evaluation:
    """Of N samples the first `clean` are classified correctly, `fgsm` of them under attack; all flip at `flip`."""
    place, grads = torch.arange(N), torch.ones(N, dtype=torch.int64)
    attacked = Result(place < fgsm, FGSM(eps=eps), torch.full((N,), eps), grads, 1.0)
    flips = torch.full((N, 1), flip)
    nearest = Result(place < 0, DeepFool(), flips[:, 0], 9 * grads, 1.0, AACurve(place < clean, flips))
    return Evaluation("toys", "true", Outcome(place < clean), {"fgsm": attacked, "deepfool": nearest})


def toys(seed: int = 0) -> Dataset:
    return Dataset(samples(N, 4, seed=seed), torch.arange(N) % 3, ("a", "b", "c"), name="toys")


def run_folder(path: Path, models: dict[str, Evaluation], test: Dataset, config: str = "data: toys\n") -> Path:
    run = Run(path, config, {"torch": "2"})
    sha = hashlib.sha256(test.x.numpy().tobytes() + test.y.numpy().tobytes()).hexdigest()
    entries = [Entry(name, replace(found, test_sha256=sha), 2.0) for name, found in models.items()]
    write_table(entries, THETA, path / "table.csv")
    write_evaluation(write_samples(entries, THETA, path), path)
    for epoch in (1, 2):
        run.log({"epoch": epoch, "loss": 1 / epoch, "clean_accuracy": 0.25 * epoch, "lr": 0.1 / epoch, "seconds": 1.0})
    return path


@dataclass
class Shown:
    """A number in the page, in the row of the model called `model`."""

    model: str
    text: str
    mark: str
    value: float
    file: Path
    row: str
    column: str


class Reader(HTMLParser):
    """The numbers of a page's tables, the heads of the rows in their order, and what elements point to."""

    def __init__(self, page: str):
        super().__init__()
        self.numbers: list[Shown] = []
        self.models: list[str] = []
        self.links: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        about = dict(attributes)
        self.links += [about[name] for name in ("src", "href", "srcset", "action") if about.get(name)]
        if tag == "th" and about.get("scope") == "row":
            self.inside = "model"
        if tag == "td" and "data-value" in about:
            file, row, column = about["data-file"], about["data-row"], about["data-column"]
            mark, value = about["class"], float(about["data-value"])
            self.numbers.append(Shown(self.models[-1], "", mark, value, Path(file), row, column))
        if tag == "span" and about.get("class") != "note":
            self.inside = "number"

    def handle_data(self, data: str) -> None:
        if self.inside == "model":
            self.models.append(data)
        if self.inside == "number":
            self.numbers[-1].text = data
        self.inside = ""

    def compared(self) -> list[str]:
        """The rows of the comparison; those of single attacks are called ``model: attack``."""
        return [name for name in self.models if ": " not in name]

    def marks(self, column: str) -> dict[str, str]:
        return {number.model: number.mark for number in self.numbers if number.column == column}


def page_of(out: Path, *runs: Path) -> str:
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    return (out / "report.html").read_text()


def assert_traceable(page: Reader) -> None:
    """Every number is in the file, row and column that it names, and is shown as that."""
    assert page.numbers
    for number in page.numbers:
        with number.file.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if next(iter(row.values())) == number.row]
        assert str(number.value) in [str(float(row[number.column])) for row in rows if row[number.column]]
        shown = float(number.text)
        assert any(shown == pytest.approx(number.value * unit, rel=1e-3, abs=0.051) for unit in (1, 100))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on the same samples, a third on the same by itself, and one on others."""
    path = tmp_path_factory.mktemp("runs")
    both = {"blind": evaluation(180, 100), "pgd": evaluation(120, 102)}
    run_folder(path / "both", both, toys())
    run_folder(path / "again", {"blind": evaluation(179, 20)}, toys())
    run_folder(path / "elsewhere", {"standard": evaluation(190, 0)}, toys(seed=1))
    return path


# -------------------------------------------------------------------------------------------------------------- seeds


def test_means_over_seeds(tmp_path: Path) -> None:
    """Of 200 samples, 100 and 104 are right in two runs: 51 % on average, and 2 / sqrt(2) to either side."""
    whole = Run(tmp_path / "c", "data: toys\n", {}).folder
    right = {("blind", 0): 100, ("blind", 1): 104, ("pgd", 0): 90}
    for (method, seed), count in right.items():
        run_folder(whole / method / f"seed-{seed}", {method: evaluation(count, 80)}, toys())
    runs = {(method, seed): read_run(whole / method / f"seed-{seed}") for method, seed in right}
    report.write_seeds(runs, whole)
    blind, pgd = csv.DictReader((whole / "summary.csv").read_text().splitlines())
    assert [float(blind[name]) for name in ("seeds", "clean", "fgsm", "fgsm_std")] == [2, 0.51, 0.4, 0]
    assert float(blind["clean_std"]) == pytest.approx(0.02 / 2**0.5)
    assert (pgd["seeds"], float(pgd["clean"]), pgd["clean_std"]) == ("1", 0.45, "")
    for _ in range(2):  # a page beside the runs is written anew, and is no run
        text = report.write_report([read_run(whole)], whole).read_text()
        page = Reader(text)
        assert_traceable(page)
        assert page.compared() == ["blind, n = 2", "pgd, n = 1", "blind/seed-0", "blind/seed-1", "pgd/seed-0"]
        means = [number for number in page.numbers if number.file.name == "summary.csv"]
        assert [(n.model, n.text, n.mark) for n in means if n.column == "clean"] == [
            ("blind, n = 2", "51.0", "best"),
            ("pgd, n = 1", "45.0", ""),
        ]
        assert "<small>± 1.4</small>" in text
        assert "training loss of" not in text
        assert not (whole / "training_loss-1.svg").exists()


# ------------------------------------------------------------------------------------------------------- significance


def test_the_interval_is_scipys() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(0.1, 1, 300), random.normal(0, 1, 300)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert paired_bootstrap(first, second) == pytest.approx((theirs.low, theirs.high), abs=0.015)


def test_the_interval_of_a_rare_difference_is_poissons() -> None:
    first, second = np.zeros(1000), np.zeros(1000)
    first[:40] = 1  # resampled, the count is nearly Poisson with mean 40
    low, high = paired_bootstrap(first, second)
    assert (1000 * low, 1000 * high) == pytest.approx(stats.poisson(40).interval(0.95), abs=1.5)


def test_pairing_sees_what_totals_do_not() -> None:
    right = np.arange(1000) < 500
    better = np.arange(1000) < 510  # right wherever the other is, and on ten more
    assert paired_bootstrap(better, right)[0] > 0
    unrelated = np.roll(better, 250)  # as many, elsewhere
    low, high = paired_bootstrap(unrelated, right)
    assert low < 0 < high


def test_equal_models_do_not_differ_and_the_seed_decides() -> None:
    right = np.arange(100) % 2
    assert paired_bootstrap(right, right) == (0, 0)
    other = np.roll(right, 1) * (np.arange(100) < 60)
    assert paired_bootstrap(right, other, seed=1) == paired_bootstrap(right, other, seed=1)
    assert paired_bootstrap(right, other) == pytest.approx([-x for x in paired_bootstrap(other, right)][::-1], abs=0.02)


@pytest.mark.parametrize("second", [np.ones(3), np.ones((4, 1))])
def test_samples_must_be_the_same(second: np.ndarray) -> None:
    with pytest.raises(ValueError, match="each of the same samples"):
        paired_bootstrap(np.ones(4), second)


def test_marks(folders: Path, tmp_path: Path) -> None:
    found = Reader(page_of(tmp_path / "out", folders / "both", folders / "again", folders / "elsewhere"))
    ours, again = "both/blind", next(name for name in found.models if name.endswith("/again"))
    assert found.marks("clean") == {ours: "best", "pgd": "", again: "tied", "standard": ""}  # of 60 points, and of half
    assert found.marks("fgsm") == {ours: "tied", "pgd": "best", again: "", "standard": ""}
    assert [number.mark for number in found.numbers if number.model == "standard"] == [""] * 5  # alone on its samples


# ----------------------------------------------------------------------------------------------------------- the page


def test_known_numbers_are_in_the_page(folders: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "out", folders / "both")
    found = Reader(page)
    assert_traceable(found)
    shown = {(number.model, number.column): number.text for number in found.numbers}
    assert shown["blind", "clean"] == "90.0"
    assert shown["pgd", "fgsm"] == "51.0"
    assert shown["blind", "deepfool_avg_aa"] == "50.0"  # right up to 0.05 of 0.1 in 90 %, then in the other 10 %
    assert shown["blind", "deepfool_norm"] == "0.0500"
    for head in ("fgsm eps 0.1", "deepfool-50 avg-AA(0.1)", "deepfool-50 norm (RMS)", "s/epoch"):
        assert f"<button>{head}</button>" in page
    names = {path.name for path in (tmp_path / "out").iterdir()}
    drawn = {"aa_deepfool", "margins_deepfool", "training_loss", "training_clean_accuracy", "training_lr"}
    assert names >= {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}


@pytest.mark.usefixtures("rendered")
def test_the_page_needs_nothing_from_elsewhere(folders: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "out", folders / "both")
    links = Reader(page).links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert sum(link.startswith("data:image/svg+xml;base64,") for link in links) == len(list(tmp_path.glob("out/*.svg")))
    assert not re.search(r"https?:|url\(|@import|<link rel=.stylesheet", page)
    ids = set(re.findall(r' id="([^"]+)"', page))
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    for file in ("both/table.csv", "both/evaluation.npz", "both/metrics.jsonl"):
        assert f"<code>{folders / file}</code>" in page


@pytest.mark.usefixtures("rendered")
def test_the_same_runs_make_the_same_files(folders: Path, tmp_path: Path) -> None:
    assert page_of(tmp_path / "first", folders / "both") == page_of(tmp_path / "second", folders / "both")


def test_a_model_evaluated_again_is_one_row(folders: Path, tmp_path: Path) -> None:
    config = f"checkpoint: {folders / 'both' / 'blind'}\n"
    run_folder(tmp_path / "later", {"blind": evaluation(180, 40, eps=0.2)}, toys(), config)
    found = Reader(page_of(tmp_path / "out", folders / "both", tmp_path / "later"))
    assert found.compared() == ["blind", "pgd"]
    blind = [number for number in found.numbers if number.model == "blind"]
    assert [number.text for number in blind if number.column == "fgsm"] == ["50.0", "20.0"]
    assert (tmp_path / "out" / "eps_fgsm.svg").is_file()  # two budgets are a curve


def test_samples_made_on_another_network_are_apart(folders: Path, tmp_path: Path) -> None:
    config = f"checkpoint: {folders / 'both' / 'blind'}\ntransfer_from: runs/source\n"
    run_folder(tmp_path / "black", {"blind": evaluation(180, 150)}, toys(), config)
    page = page_of(tmp_path / "out", folders / "both", tmp_path / "black")
    assert "<button>fgsm eps 0.1 from source</button>" in page
    assert (tmp_path / "out" / "transfer.png").is_file()


@pytest.mark.usefixtures("rendered")
def test_transfer_between_the_models_of_other_runs(folders: Path, tmp_path: Path) -> None:
    models = [str(folders / "again"), str(folders / "elsewhere")]
    Run(tmp_path / "transfer", yaml.safe_dump({"models": models}), {})
    lines = ["attack,source,target,accuracy,low,high", "clean,,again,0.9,0.8,1", "pgd,elsewhere,again,0.5,0.4,0.6"]
    (tmp_path / "transfer" / "transfer.csv").write_text("\n".join(lines) + "\n")
    page_of(tmp_path / "out", folders / "again", folders / "elsewhere", tmp_path / "transfer")
    drawn = (tmp_path / "out" / "transfer.svg").read_text()
    for text in ("pgd from standard", "blind", "50.0"):  # called as in the tables
        assert f"<!-- {text} -->" in drawn
    assert "90.0" not in drawn


def test_published_figures_and_corruptions(tmp_path: Path) -> None:
    Run(tmp_path / "all", "names: [row]\n", {})
    Run(tmp_path / "all" / "row", "data: toys\n", {})
    figures = [Figure("clean", 85.0, 88.8), Figure("pgd 0.1", 40.0, None), Figure("pgd 0.2", 21.0, 20.0)]
    figures.append(Figure("pgd from other 0.1", 71.0, None))
    (tmp_path / "all" / "row" / "figures.csv").write_text(report.figures_csv(figures))
    Run(tmp_path / "weather", "checkpoint: runs/some\n", {})
    lines = ["corruption,severity 1,mean", "fog,50.00,50.00", "clean,,80.00"]
    (tmp_path / "weather" / "corruptions.csv").write_text("\n".join(lines) + "\n")
    page = page_of(tmp_path / "out", tmp_path / "all", tmp_path / "weather")
    found = Reader(page)
    assert_traceable(found)
    assert [number.text for number in found.numbers] == ["85.0", "40.0", "21.0", "71.0", "80.0", "50.0"]
    assert "(88.8; -3.8)" in page
    assert "(20; +1.0)" in page
    assert {path.stem for path in tmp_path.glob("out/*.svg")} == {"eps_pgd", "transfer", "corruptions"}


def verdicts(page: str) -> list[str]:
    """What the page says first, without the titles of the sections."""
    return re.findall(r'<p class="verdict"[^>]*><a href="#part-\d+">[^<]+</a>: (.*?)</p>', page)


def test_the_verdict_comes_first(folders: Path, tmp_path: Path) -> None:
    """The ends of the intervals are Wilson's, of 102, 0 and 100 of 200 samples."""
    page = page_of(tmp_path / "out", folders / "both", folders / "again", folders / "elsewhere")
    assert page.index('class="verdict"') < page.index("<nav>") < page.index("<table")
    three, one = verdicts(page)
    assert three == (
        "Best under fgsm eps 0.1: pgd, which classifies 51.0 % of 200 test samples (44.1-57.8) correctly. The choice "
        "of test samples may explain its lead over both/blind. The checks found nothing."
    )
    assert "What the checks found" not in page
    assert one.startswith("standard classifies 0.0 % of 200 test samples (0.0-1.9) correctly under fgsm eps 0.1.")
    (ahead,) = verdicts(
        page_of(tmp_path / "ahead", folders / "again", run_folder(tmp_path / "x", {"x": evaluation(180, 100)}, toys()))
    )
    assert "Best under fgsm eps 0.1: x, which classifies 50.0 % of 200 test samples (43.1-56.9) correctly. " in ahead
    assert "Its lead over blind is larger than the choice of test samples explains." in ahead


def test_the_worst_case_is_of_attacks_that_all_had(tmp_path: Path) -> None:
    """The first 50 are right under one attack, all but the first 20 under the other, which one model only had."""

    def models(name: str, found: Evaluation, config: str = "data: toys\n") -> list[_compare.Tested]:
        return _seeds.tested(read_run(run_folder(tmp_path / name, {name: found}, toys(), config)))

    first = evaluation(180, 50)
    second = replace(first.results["fgsm"], right=torch.arange(N) >= 20, attack=FGSM(eps=0.2))
    masked = (Finding("zero gradients", "so"),)
    one = models("one", replace(first, results=first.results | {"second": second}, findings=masked))
    assert verdict(one) == (
        "one classifies 15.0 % of 200 test samples (10.7-20.6) correctly in the worst case of fgsm eps 0.1 and second "
        "eps 0.2. The checks found: zero gradients (one)."
    )
    two = models("two", evaluation(180, 40), "checks: 0\n")
    assert verdict(one + two).startswith("Best under fgsm eps 0.1: one, which classifies 25.0 % of 200")
    assert verdict(two + models("three", evaluation(180, 40, eps=0.3), "checks: 0\n")) == (
        "No attack with a budget was run on all models, so there is no worst case to compare. No checks were made of "
        "two and three."
    )


@pytest.mark.usefixtures("rendered")
def test_training_on_different_attacks_says_so(tmp_path: Path) -> None:
    """Curves on the samples of different attacks name these; those of one attack are told to be that."""

    def run(name: str, steps: int) -> Path:
        attack = {"class_path": "PGD", "init_args": {"eps": 0.1, "steps": steps, "loss": "ce"}}
        folder = run_folder(tmp_path / name, {name: evaluation(180, 100)}, toys(), yaml.safe_dump({"attack": attack}))
        rows = [{"epoch": epoch, "loss": 1.0, "adversarial_accuracy": 0.5} for epoch in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    page = page_of(tmp_path / "differ", run("a", 10), run("b", 20))
    assert "only lines of the same attack can be compared" in page
    drawn = (tmp_path / "differ" / "training_adversarial_accuracy.svg").read_text()
    for text in (
        "a: PGD steps 10 eps 0.1",
        "b: PGD steps 20 eps 0.1",
        "(each run under its own attack)",
    ):
        assert f"<!-- {text} -->" in drawn
    page = page_of(tmp_path / "same", tmp_path / "a", run("c", 10))
    assert "On training samples under the same attack." in page
    assert "<!-- a -->" in (tmp_path / "same" / "training_adversarial_accuracy.svg").read_text()


def test_every_figure_says_what_to_read_from_it(folders: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "out", folders / "both")
    captions = re.findall(r"<figcaption><strong>(.+?)\.</strong> (.+?)\. From ", page)
    assert len(captions) == page.count("<figure>") > 4
    assert all(len(read) > 30 for _, read in captions)


def test_findings_are_shown(tmp_path: Path) -> None:
    masked = replace(evaluation(180, 100), findings=(Finding("zero gradients", "attack without them"),))
    run_folder(tmp_path / "run", {"blind": masked}, toys())
    page = page_of(tmp_path / "out", tmp_path / "run")
    assert re.search(r"blind: zero gradients\..*attack without them", page.partition('id="runs"')[0], re.DOTALL)


def test_every_field_of_an_evaluation_is_kept(tmp_path: Path) -> None:
    model, test = linear(4, 3), toys()
    found = evaluate(model, test, {"fgsm": FGSM(eps=0.1), "deepfool": DeepFool(steps=10)})
    write_evaluation(write_samples([Entry("it", found)], THETA, tmp_path), tmp_path)
    assert found.test_sha256 == hashlib.sha256(test.x.numpy().tobytes() + test.y.numpy().tobytes()).hexdigest()
    about, arrays = json.loads((tmp_path / "evaluation.json").read_text())["it"], np.load(tmp_path / "evaluation.npz")
    assert found.clean == arrays["it/natural/right"].mean()
    for name, result in found.results.items():
        assert result.accuracy == arrays[f"it/results/{name}/right"].mean()
        assert result.norm == pytest.approx(arrays[f"it/results/{name}/sizes"].mean())
        assert about["results"][name]["seconds"] == result.seconds
    attack = vars(found.results["fgsm"].attack) | {"class": "FGSM", "bounds": [0, 1]}
    assert about["results"]["fgsm"]["attack"] == attack
    curve = AACurve(*(torch.from_numpy(arrays[f"it/results/deepfool/curve/{part}"]) for part in ("correct", "flips")))
    assert curve.average(THETA) == found.results["deepfool"].curve.average(THETA)
    assert float(curve.averages(THETA).mean()) == pytest.approx(curve.average(THETA))


@pytest.mark.thorough
def test_from_training_to_the_page(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    flags = [
        "--data",
        "fashion-mnist-mini",
        "--per-class",
        "6",
        "--epochs",
        "1",
        "--attacks",
        "fgsm,pgd",
        "--limit",
        "20",
    ]
    assert main(["compare", "standard", "fgsm", *flags, "--out", str(runs / "both")]) == 0
    again = ["evaluate", str(runs / "both" / "fgsm"), "--limit", "20", "--attacks", "fgsm", "--out"]
    assert main([*again, str(runs / "half"), "--eps", "0.05"]) == 0
    assert main(["evaluate", str(runs / "both" / "fgsm"), "--config", str(runs / "half" / "config.yaml")]) == 0
    found = Reader(page_of(out, runs / "both", runs / "half"))
    assert_traceable(found)
    assert found.compared() == ["standard", "fgsm"]


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("evaluation.json", "{", "evaluation.json is damaged"),
        ("evaluation.json", "[]", "evaluation.json is damaged, or was not written by fastadv: it holds a list"),
        ("evaluation.npz", "PK", "evaluation.npz is damaged"),
        ("metrics.jsonl", "{}\nno", "metrics.jsonl is damaged"),
        ("figures.csv", "a,b\n1,2\n", "figures.csv is damaged"),
        ("config.yaml", "a: [", "config.yaml is damaged"),
        ("table.csv", "method,clean\nother,0.5\n", "evaluation.json has a model 'blind', table.csv has not"),
    ],
)
def test_a_damaged_run(file: str, text: str, message: str, folders: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(folders / "again", tmp_path / "run")
    (tmp_path / "run" / file).write_text(text)
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match="give the --out of train"):
        read_run(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"is no run folder of fastadv: it has no config\.yaml"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="holds no results yet"):
        read_run(Run(tmp_path / "begun", "data: toys\n", {}).folder)
    assert main(["report", "--out", str(tmp_path / "out")]) == 2
    assert "give a run folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------- in the browser


@pytest.mark.usefixtures("rendered")
@pytest.mark.thorough
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: the page is not looked at in a browser")
@pytest.mark.parametrize("width", [375, 1280])
def test_in_chromium(width: int, folders: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "out", folders / "both", folders / "again", folders / "elsewhere")
    script = f"""<iframe id="it" src="report.html" style="width: {width}px; height: 800px"></iframe>
    <script>
    addEventListener("load", () => {{
      const page = document.getElementById("it").contentDocument, table = page.querySelector(".sortable");
      const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join();
      const buttons = table.querySelectorAll("th button"), clicked = (place) => (buttons[place].click(), order());
      const pictures = [...page.images];
      document.body.textContent = "SEEN" + JSON.stringify({{
        wide: page.documentElement.scrollWidth, pictures: pictures.every((one) => one.naturalWidth > 0),
        fit: pictures.every((one) => one.getBoundingClientRect().right <= {width}),
        orders: [clicked(1), clicked(1), clicked(0)], sorted: buttons[0].parentElement.ariaSort,
      }}) + "SEEN";
    }});
    </script>"""
    (tmp_path / "out" / "frame.html").write_text(script)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
    ]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run([*command, f"file://{tmp_path / 'out' / 'frame.html'}"], capture_output=True, timeout=600)
    seen = json.loads(shown.stdout.decode().split("SEEN")[1])
    again = next(name for name in Reader(page).models if name.endswith("/again"))
    falling = ["both/blind", again, "pgd"]
    assert seen["wide"] <= width  # tables scroll, the page does not
    assert seen["pictures"]
    assert seen["fit"]
    assert seen["orders"] == [",".join(falling), ",".join(falling[::-1]), ",".join(sorted(falling))]
    assert seen["sorted"] == "ascending"


@pytest.mark.usefixtures("rendered")
def test_figures_grow_with_their_legends(tmp_path: Path) -> None:
    """Else the lines of sixteen models had no room, and a warning said so."""
    heights = []
    for models in (4, 16):
        lines = {f"a model with a long name {i}": {0.0: 0.1, 1.0: 0.2} for i in range(models)}
        path = plot_lines(lines, "eps", "accuracy", tmp_path / f"{models}.png")
        heights.append(int.from_bytes(path.read_bytes()[20:24], "big"))  # of the PNG, in pixels
    assert heights[1] > 1.5 * heights[0]


@pytest.mark.parametrize(("second", "drawn"), [(0.1, False), (0.01, True)])
def test_a_learning_rate_that_never_changes_is_not_drawn(second: float, drawn: bool, tmp_path: Path) -> None:
    rows = [{"epoch": epoch, "loss": 1.0, "lr": rate} for epoch, rate in enumerate((0.1, second), 1)]
    log = run_folder(tmp_path / "run", {"blind": evaluation(180, 100)}, toys()) / "metrics.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page_of(tmp_path / "out", tmp_path / "run")
    assert (tmp_path / "out" / "training_lr.png").exists() == drawn
    assert (tmp_path / "out" / "training_loss.png").exists()


# --------------------------------------------------------------------------------------------- whole files, any images


@pytest.mark.usefixtures("rendered")
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6, 13])
def test_examples_of_images_with_any_number_of_bands(bands: int) -> None:
    """One band is grey, three are colours; of others, as many of the first are drawn, and the title says so."""
    data = Dataset(samples(6, bands, 4, 4), torch.arange(6) % 3, ("a", "b", "c"))
    figure = draw_examples({"it": (linear(16 * bands, 3), FGSM(0.1))}, data, "FGSM", 3)
    first = figure.axes[0].images[0].get_array()
    image = data.x[0].permute(1, 2, 0).numpy()
    assert np.array_equal(first, image[:, :, :3] if bands >= 3 else image[:, :, 0])
    said = {1: "", 2: "; drawn: band 1 of 2", 3: ""}.get(bands, f"; drawn: bands 1 to 3 of {bands}")
    assert figure.get_suptitle() == f"FGSM: predicted classes, red where wrong in the end{said}"


@pytest.mark.usefixtures("rendered")
def test_examples_of_a_network_with_more_classes_than_the_data():
    """As one of ten classes on a folder with images of three: what only the network knows is a number."""
    model = linear(16, 5)
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([0, 0, 0, 0, 9.0]))
    figure = draw_examples(
        {"it": (model, FGSM(0.01))}, Dataset(samples(3, 1, 4, 4), torch.arange(3), tuple("abc")), "", 3
    )
    assert figure.axes[-1].get_title() == "clean: 4\nhere: 4"


WRITERS: dict[str, Callable[[Path], object]] = {
    "table.csv": lambda path: write_table([Entry("it", evaluation(180, 100))], THETA, path),
    "records.csv": lambda path: report.write_records([report.StepsRow("pgd" * 40, 1, 0.5, 0.4, 0.6)], path),
    "confusion.csv": lambda path: report.write_confusion(torch.ones(40, 40), [str(i) for i in range(40)], path),
    "corruptions.csv": lambda path: report.write_corruptions(CorruptionAccuracy({"blur" * 40: {1: 0.5}}), {}, path),
    "figure.png": lambda path: plot_lines({"a": {0.0: 1.0}}, "x", "y", path),
    "figure.svg": lambda path: plot_lines({"a": {0.0: 1.0}}, "x", "y", path),
    "report.html": lambda path: report.write_report([], path.parent),
}


@pytest.mark.usefixtures("rendered")
@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_a_full_disk_leaves_what_was_there(name: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    """No file grows beyond 64 bytes here, as on a disk that is full."""
    (tmp_path / name).write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "before"}
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 64
