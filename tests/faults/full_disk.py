"""Fills a small disk so that each write of a command fails in turn: ``full_disk.py [12] [COMMAND ...]``.

It mounts a tmpfs, which needs root. Every command runs with ever more room, in so many steps, until there is enough.
Each time that it fails it must say so in one line that names a file, the cause and what to do, lose no file that was
there, and leave none empty; then it is resumed, where it can be, with room.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common import TRAINING, Tally, contents, finished, number, timed, workplace

SIZE = 8 << 20


def room(disk: Path, left: int) -> None:
    """Leaves so many bytes on the disk."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - left
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main(steps: int, place: Path, disk: Path) -> None:
    tally, told = Tally(f"a full disk, in {steps} steps"), place / "told"
    network, epochs = place / "network", ["--epochs", "1", "--save-every", "0"]
    timed(["train", "standard", *TRAINING, *epochs, "--out", str(network)], told)
    quick = ["--attacks", "fgsm,deepfool", "--limit", "20", "--at-once", "10", "--checks", "0"]
    comparison = ["--per-class", "3", "--epochs", "1", "--attacks", "fgsm", "--limit", "10"]
    commands = {
        "train": (["train", "standard", *TRAINING], "auto"),
        "evaluate": (["evaluate", str(network), *quick], "true"),
        "reproduce": (["reproduce", "self-paced-loss"], "true"),
        "compare": (["compare", "standard", *comparison], "auto"),
        "report": (["report", str(network)], None),
        "landing": (["landing", str(network), "--limit", "20"], None),
        "corruptions": (["corruptions", str(network), "--limit", "10", "--corruptions", "fog"], None),
    }
    for name in sys.argv[2:] or commands:
        arguments, resume = commands[name]
        whole, folder = place / f"whole-{name}", disk / name
        timed([*arguments, "--out", str(whole)], told)
        wanted = contents(whole)
        need = sum(path.stat().st_size + 4096 for path in whole.rglob("*") if path.is_file())
        resumed = ["--resume", resume] if resume else []
        for step in range(steps):
            room(disk, need * step // steps)
            before = files(folder) if folder.exists() else {}
            end = finished([*arguments, "--out", str(folder), *resumed], told)
            words = end.words()
            if end.process.exitcode == 0:
                break
            lines = [line for line in words.splitlines() if "No space left on device" in line]
            clear = all("cannot write " in line and "Make room" in line for line in lines) and lines
            clear = clear and end.process.exitcode == 2
            promise = f"{name}: one line says which file, why and what to do"
            tally(promise, bool(clear) and "Traceback" not in words, words)
            now = files(folder) if folder.exists() else {}
            kept = all(path in now for path in before if path.name not in ("metrics.csv", "metrics.jsonl"))
            tally(f"{name}: nothing that was there is lost", kept, f"{set(before) - set(now)}")
            empty = [path.name for path, content in now.items() if not content and path.name != "log.txt"]
            left = [path.name for path in now if path.name.startswith(".")]
            tally(f"{name}: no empty or unfinished file", not empty and not left, f"{empty} {left}")
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
        (disk / "filler").unlink()
        if end.process.exitcode:
            end = finished([*arguments, "--out", str(folder), *resumed], told)
        found = contents(folder)
        differ = [each for each in {**found, **wanted} if found.get(each) != wanted.get(each)]
        tally(f"{name}: with room, the same files", end.process.exitcode == 0 and not differ, f"{differ} {end.words()}")
        shutil.rmtree(folder)
    tally.end()


if __name__ == "__main__":
    with workplace() as place:
        disk = place / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], capture_output=True, text=True
        )
        if mounted.returncode:
            sys.exit(f"skipped: it needs root, to mount a tmpfs: {mounted.stderr.strip()}")
        try:
            main(number(12), place, disk)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)
