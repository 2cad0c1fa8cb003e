"""Starts two runs in one folder: one is refused, nothing is there twice. ``python tests/faults/two_runs.py [10]``."""

import random
import re
import time
from pathlib import Path

from common import TRAINING, Command, Tally, contents, number, timed, workplace


def main(count: int, place: Path) -> None:
    tally, chance = Tally(f"{count} pairs of runs in one folder"), random.Random(0)

    def command(folder: Path) -> list[str]:
        return ["train", "standard", *TRAINING, "--epochs", "30", "--out", str(folder), "--resume", "auto"]

    timed(command(place / "whole"), place / "told")
    wanted = contents(place / "whole")
    for i in range(count):
        folder = place / f"run-{i}"
        first = Command(command(folder), place / "told-1")
        time.sleep(chance.choice([0, chance.uniform(0, 1)]))
        second = Command(command(folder), place / "told-2")
        ends = [each.wait() for each in (first, second)]
        tally("one of two runs ends well, one is refused", sorted(ends) == [0, 2], f"{ends}")
        refused = (first, second)[ends.index(2) if 2 in ends else 1]
        other = second if refused is first else first
        named = re.search(r"fastadv: run folder .* is in use by process (\d+) on .*: fastadv train", refused.words())
        tally("told by which process", bool(named) and int(named[1]) == other.process.pid, refused.words)
        tally("the other's files are those of a run alone", contents(folder) == wanted, f"{i}")
    tally.end()


if __name__ == "__main__":
    with workplace() as place:
        main(number(10), place)
