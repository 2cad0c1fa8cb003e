"""Kills evaluate, reproduce, compare and the experiments at random moments, and resumes them to the same files.

``python tests/faults/kill_commands.py [4] [COMMAND ...]`` kills each so many times. Every other compare is killed
without its children, which outlive it: it is resumed until they have ended.
"""

import random
import shutil
import sys
from pathlib import Path

from common import TRAINING, Command, Tally, contents, finished, number, timed, workplace

SMALL = ["--data", "fashion-mnist-mini", "--model", "lenet5", "--epochs", "1", "--per-class", "2", "--limit", "10"]
EVALUATION = ["--attacks", "fgsm,pgd,deepfool", "--limit", "30", "--at-once", "5", "--checks", "0"]
COMPARISON = ["--per-class", "3", "--epochs", "2", "--attacks", "fgsm", "--limit", "10", "--device", "cpu"]


def main(count: int, place: Path) -> None:
    tally, chance, told = Tally(f"every command killed {count} times"), random.Random(0), place / "told"
    timed(["train", "standard", *TRAINING, "--out", str(place / "network")], told)
    commands = {
        "evaluate": ["evaluate", str(place / "network"), *EVALUATION],
        "recipe": ["reproduce", "blind-fashion-mnist-bat", *SMALL, "--attacks", "fgsm"],
        "two-circles": ["reproduce", "two-circles", "--epochs", "20"],
        "propositions": ["reproduce", "propositions"],
        "equations": ["reproduce", "equations"],
        "self-paced-loss": ["reproduce", "self-paced-loss"],
        "compare": ["compare", "standard", "fgsm", *COMPARISON, "--at-a-time", "2"],
    }
    for name in sys.argv[2:] or commands:
        arguments, whole = commands[name], place / "whole" / name
        whole.parent.mkdir(exist_ok=True)
        seconds = timed([*arguments, "--out", str(whole)], told)
        wanted = contents(whole)
        for i in range(count):
            folder = place / f"killed-{i}" / whole.name
            folder.parent.mkdir(exist_ok=True)
            command = [*arguments, "--out", str(folder), "--resume", "auto" if name == "compare" else "true"]
            running = Command(command, told)
            running.wait(chance.uniform(0, seconds))
            running.kill(children=name != "compare" or i % 2 == 0)
            end = finished(command, told)
            while "still trains it" in end.words() or "is in use by" in end.words():
                end = finished(command, told)
            tally(f"{name}: goes on to its end", end.process.exitcode == 0, end.words)
            found = contents(folder)
            differ = [each for each in {**found, **wanted} if found.get(each) != wanted.get(each)]
            tally(f"{name}: with the same files", not differ, f"{differ}")
            shutil.rmtree(folder.parent)
    tally.end()


if __name__ == "__main__":
    with workplace() as place:
        main(number(4), place)
