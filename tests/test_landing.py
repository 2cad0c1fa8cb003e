"""Where attacks land: against plain loops and what must hold, and the command end to end."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import BatchNormNet, Wavy, labels, linear, partly_frozen, samples, traces

import fastadv
from fastadv import report
from fastadv.__main__ import main
from fastadv.attacks import DRA, PGD
from fastadv.data import Dataset
from fastadv.evaluation import landing, weight_norms

pytestmark = pytest.mark.usefixtures("seed_zero")

ATTACK = PGD(0.05, 0.02, 5)


def wavy(n: int = 200, classes: int = 5) -> tuple[Wavy, Dataset]:
    """A network, and samples three quarters of which it classifies correctly."""
    model, x = Wavy(48, classes).float(), samples(n, 3, 4, 4)
    y = model(x).argmax(1)
    y[::4] = labels(len(y[::4]), classes)
    return model, Dataset(x, y, classes=tuple("abcdefgh"[:classes]))


def test_landing_against_plain_loops():
    model, data = wavy()
    found = landing(model, data, ATTACK, batch_size=33)
    x_adv = ATTACK(model, data.x, data.y)
    confusion, gone = torch.zeros(5, 5, dtype=torch.int64), {k: [] for k in range(5)}
    for x, moved, y in zip(data.x, x_adv, data.y.tolist(), strict=True):
        order, after = model(x[None])[0].argsort(descending=True).tolist(), int(model(moved[None]).argmax())
        confusion[y, after] += 1
        if order[0] == y != after:
            gone[y].append((after, after == order[1]))
    assert torch.equal(found.confusion, confusion)
    gone["all"] = [each for some in gone.values() for each in some]
    assert 0 < sum(near for _, near in gone["all"]) < len(gone["all"]) > 50
    right = [int(((model(data.x).argmax(1) == data.y) & (data.y == k)).sum()) for k in range(5)]
    assert [row.right for row in found.rows] == [*right, sum(right)]
    for row, some in zip(found.rows, gone.values(), strict=True):
        classes = [after for after, _ in some]
        most = max(set(classes), key=lambda k: (classes.count(k), -k))
        assert (row.fooled, row.lands_in) == (len(some), data.classes[most])
        assert row.share == pytest.approx(classes.count(most) / len(some))
        assert row.runner_up == pytest.approx(sum(near for _, near in some) / len(some))


def test_of_two_classes_the_other_is_the_runner_up():
    model, x = linear(48, 2), samples(60, 3, 4, 4)
    data = Dataset(x, model(x).argmax(1), classes=("a", "b"))
    *_, everything = landing(model, data, PGD(0.3, 0.1, 5)).rows
    assert everything.fooled > 20
    assert everything.runner_up == 1


def test_a_small_step_lands_in_the_runner_up_and_a_large_one_need_not():
    """The lemma of section 3.3: the class of the largest probability beside the label's decides the direction."""
    model, data = wavy(400)
    near, far = (landing(model, data, PGD(eps, eps / 4, 10)).rows[-1] for eps in (0.002, 0.1))
    assert near.fooled > 5
    assert near.runner_up > 0.9 > far.runner_up > 0.25  # a quarter would be by lot


def test_an_attack_that_fools_nobody():
    model, data = wavy(40)
    rows = landing(model, data, PGD(0.0, 0.0, 1)).rows
    assert {row[2:] for row in rows} == {(0, None, None, None)}


def test_landing_leaves_no_trace_and_keeps_the_bounds():
    model, seen = partly_frozen(BatchNormNet()), []
    data = Dataset(samples(12, 3, 6, 6) - 0.5, labels(12, 5), classes=tuple("abcde"), bounds=(-0.5, 0.5))
    before = traces(model, data.x, data.y)
    landing(model, data, ATTACK)
    assert traces(model, data.x, data.y) == before
    landing(lambda x: seen.append(x) or model(x), data, PGD(0.6, 0.3, 3))
    assert [limit(torch.cat(seen)) for limit in (torch.min, torch.max)] == [-0.5, 0.5]


def test_landing_refuses():
    model, data = wavy(10)
    with pytest.raises(ValueError, match="PGD is targeted, and would lead towards the labels"):
        landing(model, data, PGD(targeted=True))
    for classes in ("abcd", "abcdefgh"):
        with pytest.raises(ValueError, match=f"data has {len(classes)} classes, but the model 5"):
            landing(model, Dataset(data.x, data.y.clamp(max=3), classes=tuple(classes)), ATTACK)


def test_weight_norms_are_of_the_rows_of_the_last_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.ReLU(), nn.Linear(3, 2))
    model[3].weight.data = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    assert weight_norms(model, ("a", "b")) == [("a", 5.0), ("b", 2.0)]
    for wrong, classes in ((model, "abc"), (nn.Conv2d(1, 2, 3), "ab")):
        with pytest.raises(
            ValueError, match=f"does not end in a linear layer with a row for each of {len(classes)} classes"
        ):
            weight_norms(wrong, tuple(classes))


def test_figures(monkeypatch):
    drawn = []
    monkeypatch.setattr("fastadv.report._landing.save", lambda figure, path: drawn.append(figure))
    monkeypatch.setattr("fastadv.report._plots.save", lambda figure, path: drawn.append(figure))
    report.plot_confusion(torch.tensor([[3, 1], [0, 0]]), ("a", "b"), "title", Path())
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["75", "25", "0", "0"]
    model, data = wavy(20)
    report.plot_noise(model, data, {"PGD": ATTACK, "DRA": DRA(0.02, p=0.5)}, Path(), count=3)
    assert len(drawn[1].axes) == 3 * (1 + 2 * 2)
    assert [axes.get_ylabel() for axes in drawn[1].axes[3::6]] == ["PGD\nperturbation", "DRA\nperturbation"]
    pgd, dra = (axes.get_images()[0].get_array() for axes in drawn[1].axes[3::6])
    assert (dra == 0.5).mean() == pytest.approx(0.5, abs=0.05)  # grey: not moved
    assert (pgd == 0.5).mean() < 0.2


# ---------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run on 200 images."""
    train, test = (fastadv.load("fashion-mnist-mini", split) for split in ("train", "test"))
    folder = tmp_path_factory.mktemp("landing")
    arrays = {"x_train": train.x[:200], "y_train": train.y[:200], "x_test": test.x[:200], "y_test": test.y[:200]}
    np.savez(folder / "small.npz", **{name: array.numpy() for name, array in arrays.items()})
    flags = ["--data", str(folder / "small.npz"), "--epochs", "1", "--test.attacks", "noise", "--test.limit", "20"]
    assert main(["train", "standard", *flags, "--out", str(folder / "run")]) == 0
    return str(folder / "run")


@pytest.mark.usefixtures("rendered")
def test_the_command_draws_and_tells(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    command = ["landing", run, "--limit", "60", "--eps", "0.2", "--steps", "5", "--out", str(out)]
    assert main(command) == 0
    assert "PGD-5 at eps 0.2 on 60 test samples" in capsys.readouterr().out
    tables = {}
    for name in ("landing", "confusion", "weight_norms", "gradient_norms"):
        with (out / f"{name}.csv").open() as file:
            tables[name] = list(csv.reader(file))
    assert tables["landing"][0] == ["label", "right", "fooled", "lands_in", "share", "runner_up"]
    assert [row[0] for row in tables["landing"][1:]] == [*map(str, range(10)), "all"]
    assert sum(int(count) for row in tables["confusion"][1:] for count in row[1:]) == 60
    assert len(tables["weight_norms"]) == 11
    counts = {row[0]: int(row[1]) for row in tables["gradient_norms"][1:]}
    assert counts == {"all": 60, "correct": int(tables["landing"][-1][1]), "wrong": 60 - counts["correct"]}
    for name in ("confusion.png", "noise.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG\r\n")
    assert (out / "config.yaml").is_file()
    assert main(command) == 2
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--limit", "-1"], "limit and at_once must be numbers of samples"),
        (["--eps", "8"], "did you mean 8/255"),
        (["--steps", "-1"], "steps must be a whole number of at least 0"),
        (["--data", "two-circles"], "choose other data with --data"),
    ],
)
def test_bad_input_gets_one_clear_line_and_no_folder(
    run: str, flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["landing", run, *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert not (tmp_path / "out").exists()
