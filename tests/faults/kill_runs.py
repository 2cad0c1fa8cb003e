"""Kills training runs of ten methods at random moments, lets them go on, and compares with runs that never stopped.

``python tests/faults/kill_runs.py [40]``. A quarter of the kills falls into the midst of writing a file.
"""

import random
from pathlib import Path

from common import TRAINING, Command, Tally, contents, finished, number, timed, workplace

METHODS = ["standard", "madry", "trades", "mart", "friendly", "smd", "gairat", "dat", "spat", "blind"]


def command(method: str, folder: Path) -> list[str]:
    return ["train", method, *TRAINING, "--out", str(folder), "--resume", "auto"]


def main(count: int, place: Path) -> None:
    tally, chance = Tally(f"{count} killed runs"), random.Random(0)
    whole = {}
    for i in range(count):
        method = METHODS[i % len(METHODS)]
        told = place / "told"
        if method not in whole:
            whole[method] = timed(command(method, place / method), told), contents(place / method)
        seconds, wanted = whole[method]
        folder = place / f"{method}-{i}"
        if i % 4 == 3:
            finished(command(method, folder), told, write=chance.randint(1, 14))
        else:
            running = Command(command(method, folder), told)
            running.wait(chance.uniform(0, seconds))
            running.kill()
        end = finished(command(method, folder), told)
        tally("a killed run goes on to its end", end.process.exitcode == 0, end.words)
        found = contents(folder) if end.process.exitcode == 0 else {}
        differ = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        tally("with the same files, tensors to the bit", not differ, f"{method}: {differ}")
    tally.end()


if __name__ == "__main__":
    with workplace() as place:
        main(number(40), place)
