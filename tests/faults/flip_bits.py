"""Flips bits of checkpoints: each flip is noticed, or changes no value. ``python tests/faults/flip_bits.py [300]``.

Every 20th is followed through: the run goes on, from the checkpoint before where the flip was noticed, to the same bits
as one without damage, and an evaluation of the file says in one line what is wrong, or finds the same.
"""

import random
import shutil
from pathlib import Path

from common import TRAINING, Tally, contents, finished, number, timed, workplace

from fastadv.runs import digest, load_checkpoint


def command(folder: Path) -> list[str]:
    return ["train", "friendly", *TRAINING, "--out", str(folder), "--resume", "auto"]


def evaluation(checkpoint: Path, out: Path) -> list[str]:
    return ["evaluate", str(checkpoint), "--attacks", "fgsm", "--limit", "10", "--checks", "0", "--out", str(out)]


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    bit = chance.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def main(count: int, place: Path) -> None:
    tally, chance, told = Tally(f"{count} flipped bits"), random.Random(0), place / "told"
    timed(command(place / "whole"), told)
    wanted = contents(place / "whole")
    finished(command(place / "stopped"), told, write=7)  # in the second epoch
    whole = load_checkpoint(place / "stopped")
    timed(evaluation(place / "stopped", place / "measured"), told)
    measured = contents(place / "measured")
    for i in range(count):
        folder = place / f"run-{i}"
        shutil.copytree(place / "stopped", folder)
        path = folder / "checkpoint.pt"
        flip(path, chance)
        noticed = same = False
        try:
            same = digest(load_checkpoint(path)) == digest(whole)
        except ValueError as error:
            noticed = str(path) in str(error) and "\n" not in str(error)
        except BaseException as error:
            print(repr(error))
        tally("a flipped bit is noticed, or changes no value", noticed or same, f"flip {i}")
        if i % 20 == 0:
            found = finished(evaluation(path, place / f"measured-{i}"), told)
            words = found.words().strip()
            if noticed:
                clear = f"fastadv: {path} is damaged" in words and "Traceback" not in words
                tally("evaluate names the damaged file", found.process.exitcode == 2 and clear, words)
            else:
                tally("evaluate finds the same", contents(place / f"measured-{i}") == measured, words)
            found = finished(command(folder), told)
            words = found.words()
            tally("the run goes on to the same bits", contents(folder) == wanted, words)
            if noticed:
                tally("with a warning", "going on from previous.pt" in words, words)
        shutil.rmtree(folder)
    tally.end()


if __name__ == "__main__":
    with workplace() as place:
        main(number(300), place)
