"""What fit and evaluate show and hand back: bars, log lines, results as text and as tables, keywords with types."""

import dataclasses
import inspect
import io
import logging
import math
import re
import sys
import types
import typing

import pytest
import torch
from rich.console import Console
from toys import linear, samples

import fastadv
from fastadv import _progress
from fastadv.attacks import FGSM, PGD, DeepFool, Noise
from fastadv.commands import _terminal
from fastadv.data import Dataset
from fastadv.evaluation import AACurve, CorruptionAccuracy, Evaluation, Finding, Landing, LandingRow, Outcome, Result
from fastadv.trainers import Madry, Settings, Standard, fit
from fastadv.trainers._settings import SettingsDict


def data(n: int = 24) -> Dataset:
    return Dataset(samples(n, 4), torch.arange(n) % 3, ("a", "b", "c"), name="toys")


# --------------------------------------------------------------------------------------------------------------- bars


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns, on which every change is drawn as it is made."""
    file = io.StringIO()

    def made(**_: object) -> Console:
        return Console(file=file, width=80, force_terminal=True, color_system=None)

    monkeypatch.setattr("rich.console.Console", made)
    clock = iter(range(10**6))
    monkeypatch.setattr(_progress, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    return file


def drawn_lines(file: io.StringIO) -> list[str]:
    """What was drawn, line by line, without what moves the cursor."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip("\r") for line in file.getvalue().splitlines()]


def test_a_bar_has_two_lines_of_80_columns(screen: io.StringIO) -> None:
    figures = {"loss": 0.25, "adversarial_accuracy": torch.tensor(0.5), "lr": 0.001}
    with _progress.bar("friendly_trades", "steps", 10) as step:
        for done in range(1, 4):
            step(done, 40, figures | {"epoch": 3, "images_per_second": 12345.6})
    lines = drawn_lines(screen)
    assert max(map(len, lines)) <= 80
    bars = [line for line in lines if "friendly_trades: epoch 3/10" in line]
    assert bars
    assert "12,346 images/s" in bars[-1]
    assert "━" in bars[-1]
    assert any(line.strip() == "loss 0.25, adversarial accuracy 0.5, lr 0.001" for line in lines)


def test_more_figures_than_a_line_holds_are_cut(screen: io.StringIO) -> None:
    with _progress.bar("it", "batches") as step:
        step(1, 2, {f"a_figure_with_a_name_{i}": 1.0 for i in range(9)})
    lines = drawn_lines(screen)
    assert max(map(len, lines)) <= 80
    assert any(line.endswith("…") for line in lines)
    assert any("batches/s" in line for line in lines)


def test_fit_and_evaluate_show_a_bar_where_they_are_asked_to(screen: io.StringIO) -> None:
    model, given = linear(4, 3), data()
    fit(model, Madry(), given, epochs=1, batch_size=8, memory_format="preserve")
    fastadv.evaluate(model, given, {"fgsm": FGSM()}, checks=0, memory_format="preserve")
    assert screen.getvalue() == ""
    seen = []
    more = {"on_step": lambda *tick: seen.append(tick), "progress": True, "memory_format": "preserve"}
    fit(model, Madry(), given, epochs=1, batch_size=8, **more)
    assert any("Madry: epoch 1/1" in line for line in drawn_lines(screen))
    assert [(done, total, stats["epoch"]) for done, total, stats in seen] == [(i, 3, 1) for i in (1, 2, 3)]
    fastadv.evaluate(model, given, {"fgsm": FGSM()}, checks=0, progress=True, memory_format="preserve")
    assert any("evaluating toys" in line for line in drawn_lines(screen))


def test_there_is_no_bar_without_a_terminal(capfd: pytest.CaptureFixture) -> None:
    model, given = linear(4, 3), data()
    fit(model, Standard(), given, epochs=1, batch_size=8, progress=True)
    fastadv.evaluate(model, given, {"fgsm": FGSM()}, checks=0, progress=True)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------------------------- log


def test_a_line_an_epoch_and_a_line_an_attack(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastadv")
    model, given = linear(4, 3), data()
    history = fit(model, Madry(), given, epochs=2, batch_size=8, memory_format="preserve")
    attacks = {"fgsm": FGSM(eps=0.1), "noise": Noise(eps=0.1)}
    fastadv.evaluate(model, given, attacks, checks=0, memory_format="preserve")
    said = [(record.name, record.getMessage()) for record in caplog.records]
    assert [name for name, _ in said] == ["fastadv.fit"] * 2 + ["fastadv.evaluate"] * 2
    assert said[1][1].startswith(f"Madry: epoch 2/2: loss {history[1]['loss']:.4g}, ")
    assert said[2][1].startswith("fgsm: Result(FGSM, eps 0.1, accuracy ")


def test_commands_do_not_say_it_twice(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_terminal, "console", Console(width=200))
    with _terminal.said_aloud():
        fit(linear(4, 3), Standard(), data(), epochs=1, batch_size=8, memory_format="preserve")
        logging.getLogger("fastadv").info("images are contiguous")
    assert capsys.readouterr().out == "images are contiguous\n"


# --------------------------------------------------------------------------------------------------- results as text


def found() -> Evaluation:
    """Of 100 samples 80 are right, 50 under FGSM, 60 under noise; of the rest, both fool the last."""
    place, grads = torch.arange(100), torch.ones(100, dtype=torch.int64)
    flips = torch.full((100, 1), 0.05)
    return Evaluation(
        "toys",
        "true",
        Outcome(place < 80),
        {
            "fgsm": Result(place < 50, FGSM(eps=0.1), torch.full((100,), 0.1), grads, 2.0),
            "noise": Result(place >= 40, Noise(eps=0.1), torch.full((100,), 0.05), 0 * grads, 1.0),
            "deepfool": Result(place < 0, DeepFool(), flips[:, 0], 9 * grads, 3.0, AACurve(place < 80, flips)),
        },
        (Finding("budget", "it differs"),),
    )


def test_results_are_readable() -> None:
    """The intervals are Wilson's, by his formula written anew."""

    def said(count: int) -> str:
        z = 1.959964
        middle, half = (count + z * z / 2) / (100 + z * z), z * math.sqrt(count * (100 - count) / 100 + z * z / 4)
        half /= 100 + z * z
        return f"{count:.1f} % ({100 * (middle - half):.1f}-{100 * (middle + half):.1f})"

    it = found()
    assert repr(it).splitlines() == [
        "Evaluation of 100 samples of toys, attacked label: true",
        f"  clean     {said(80)}",
        f"  fgsm      {said(50)}, eps 0.1",
        f"  noise     {said(60)}, eps 0.1",
        "  deepfool  0.0 % (0.0-3.7), median RMS 0.05",
        f"  worst     {said(10)}",
        "  findings:",
        "    budget: it differs",
    ]
    assert repr(it.natural) == f"Outcome(accuracy {said(80)}, 100 samples)"
    result = f"Result(FGSM, eps 0.1, accuracy {said(50)}, 100 samples, mean RMS 0.1, 1 gradients a sample, 2 s)"
    assert repr(it.results["fgsm"]) == result
    assert repr(it.results["deepfool"].curve) == "AACurve(100 samples, 80.0 % at 0, 20.0 % from 0.05 on)"
    x = samples(6, 4)
    attacked = PGD(eps=0.1, steps=3).run(linear(4, 3), x, torch.arange(6) % 3)
    norm = sum(attacked.norm.tolist()) / 6
    fooled = f"AttackResult({int(attacked.success.sum())} of 6 samples fooled, mean norm {norm:.4g}, 3 gradients"
    assert repr(attacked) == f"{fooled} a sample, x_adv [6, 4])"
    assert "tensor(" not in repr(it) + repr(it.results) + repr(attacked)


# ------------------------------------------------------------------------------------------------- results as tables


class Frame(dict):
    """What stands for a pandas.DataFrame: its columns."""


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))


@pytest.mark.usefixtures("columns")
def test_results_are_tables() -> None:
    it = found()
    whole = it.to_dataframe()
    assert whole["attack"] == ["clean", "fgsm", "noise", "deepfool", "worst"]
    assert whole["accuracy"] == pytest.approx([0.8, 0.5, 0.6, 0.0, 0.1])
    assert whole["eps"] == [None, 0.1, 0.1, None, None]
    assert whole["gradients"] == [None, 1, 0, 9, None]
    assert whole["seconds"] == [None, 2, 1, 3, None]
    assert (whole["low"][1], whole["high"][1]) == it.results["fgsm"].interval
    a_sample = it.results["noise"].to_dataframe()
    assert a_sample["right"] == [False] * 40 + [True] * 60
    assert set(a_sample) == {"right", "size", "gradients"}
    assert it.natural.to_dataframe() == {"right": [True] * 80 + [False] * 20}
    assert it.results["deepfool"].curve.to_dataframe() == {
        "eps": [0, pytest.approx(0.05)],
        "accuracy": [0.8, pytest.approx(0.2)],
    }
    attacked = PGD(eps=0.1, steps=3).run(linear(4, 3), samples(6, 4), torch.arange(6) % 3)
    assert {name: len(values) for name, values in attacked.to_dataframe().items()} == dict.fromkeys(
        ("success", "steps", "queries", "grads", "norm", "target", "ended"), 6
    )
    weather = CorruptionAccuracy({"fog": {1: 0.5, 2: 0.25}, "snow": {1: 0.75}})
    assert weather.to_dataframe() == {
        "corruption": ["fog", "fog", "snow"],
        "severity": [1, 2, 1],
        "accuracy": [0.5, 0.25, 0.75],
    }
    landed = Landing(torch.ones(1, 1), [LandingRow("a", 3, 2, "b", 0.5, None)])
    assert landed.to_dataframe()["lands_in"] == ["b"]


def test_tables_are_those_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    table = found().to_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert table.set_index("attack").accuracy["fgsm"] == 0.5


def test_tables_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_dataframe needs pandas\. To fix: pip install pandas"):
        found().to_dataframe()


# ----------------------------------------------------------------------------------------------------------- keywords


def test_the_keywords_of_fit_are_typed() -> None:
    """All fields of Settings but the optimiser, which fit takes by name or as an object."""
    fields = typing.get_type_hints(Settings)
    assert typing.get_type_hints(SettingsDict) == {name: kind for name, kind in fields.items() if name != "optimizer"}
    assert not SettingsDict.__required_keys__
    taken = inspect.signature(fit).parameters
    assert taken["settings"].annotation == "Unpack[SettingsDict]"
    assert "optimizer" in taken
    assert not set(SettingsDict.__annotations__) & set(taken)
    assert {field.name for field in dataclasses.fields(Settings)} == {*SettingsDict.__annotations__, "optimizer"}


def test_wrong_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="batchsize"):
        fit(linear(4, 3), Standard(), data(), batchsize=8)
