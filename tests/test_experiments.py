"""Experiments and recipes that were killed in the midst: what is not whole is made again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fastadv import recipes
from fastadv.__main__ import main

NAME = "self-paced-loss"  # the quickest; tests/faults/kill_commands.py kills all


def reproduce(out: Path) -> int:
    return main(["reproduce", NAME, "--out", str(out), "--resume", "true"])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_experiment_that_was_killed_is_made_again(tmp_path: Path, capsys) -> None:
    assert reproduce(tmp_path / "whole") == 0
    whole = files(tmp_path / "whole" / NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", interrupt)  # in the midst of its figures
        assert reproduce(tmp_path / "killed") == 130
    assert list((tmp_path / "killed" / NAME).glob("*.csv"))
    assert reproduce(tmp_path / "killed") == 0
    assert files(tmp_path / "killed" / NAME) == whole
    assert "already" not in capsys.readouterr().out
    assert reproduce(tmp_path / "killed") == 0
    assert f"has the table of {NAME} already" in capsys.readouterr().out


def test_files_of_experiments_are_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    """Whichever of them is being written when the process ends."""
    fsync, count = os.fsync, []

    def stop_at(place: int) -> Callable[[int], None]:
        def stop(file: int) -> None:
            count.append(file)
            if len(count) > place:
                raise KeyboardInterrupt
            fsync(file)

        return stop

    (tmp_path / "whole").mkdir()
    recipes.EXPERIMENTS[NAME](tmp_path / "whole")
    whole = files(tmp_path / "whole")
    for place in range(len(whole)):
        count.clear()
        monkeypatch.setattr(os, "fsync", stop_at(place))
        with pytest.raises(KeyboardInterrupt):
            recipes.EXPERIMENTS[NAME](tmp_path / str(place))
        found = files(tmp_path / str(place))
        assert len(found) == place
        assert found.items() <= whole.items()


def test_damaged_figures_are_measured_again(tmp_path: Path) -> None:
    quick = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "1", "--limit", "3"]
    quick += ["--attacks", "fgsm", "--resume", "true", "--out", str(tmp_path / "out")]
    command = ["reproduce", "friendly-table3-trades", *quick]
    assert main(command) == 0
    (figures,) = tmp_path.rglob("figures.csv")
    whole = figures.read_bytes()
    for content in ("", "figure,measured,printed\n", "figure,measured\nclean,1.0\n", "a,b\n1,2\n"):
        figures.write_text(content)
        with pytest.warns(UserWarning, match=r"figures.csv is damaged .*measured again"):
            assert main(command) == 0
        assert figures.read_bytes() == whole
