"""Runs that are killed, interrupted or short of disk, in processes of their own, and how they go on."""

import errno
import fcntl
import gc
import json
import math
import multiprocessing
import os
import pickle
import random
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from toys import quick

import fastadv.__main__ as command_line
from fastadv.commands import _train
from fastadv.commands._launch import broken
from fastadv.commands._loggers import LOGGERS
from fastadv.commands._terminal import drawn
from fastadv.runs import Run, digest, in_use, load_checkpoint, replace_file
from fastadv.trainers import METHODS

SERVER = multiprocessing.get_context("forkserver")  # its children have torch already
SERVER.set_forkserver_preload(["fastadv.__main__", "torch._dynamo"])
QUICK = ["--per-class", "3", "--epochs", "2", "--batch-size", "8", "--save-every", "2"]
QUICK += ["--test.attacks", "fgsm", "--test.limit", "10"]
TIMES = ("seconds", "images_per_second")


def command(method: str, folder: Path, *more: str) -> list[str]:
    return ["train", method, *QUICK, "--out", str(folder), "--resume", "auto", *more]


def errors(arguments: list[str]) -> str:
    """Where a child says what is wrong: beside its run folder."""
    return arguments[arguments.index("--out") + 1] + ".err"


def child(arguments: list[str], step: int, write: int, bytes_at_most: int) -> None:
    """The command, in a process that kills itself after a step, or in the midst of writing a file; 0 does not."""
    torch.set_num_threads(1)
    os.dup2(os.open(errors(arguments), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    _train.conclude = lambda *_: None  # what comes after training takes longer than it
    counts = {"steps": 0, "writes": 0}

    def die(what: str, at: int) -> None:
        counts[what] += 1
        if counts[what] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(lambda *_: die("steps", step))
    fsync = os.fsync
    os.fsync = lambda file: (die("writes", write), fsync(file))
    if bytes_at_most:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_at_most, bytes_at_most))
    sys.exit(command_line.main(arguments))


def run(arguments: list[str], step: int = 0, write: int = 0, bytes_at_most: int = 0) -> int:
    process = SERVER.Process(target=child, args=(arguments, step, write, bytes_at_most))
    process.start()
    process.join()
    return process.exitcode


def result(folder: Path) -> tuple[Tensor, list[dict[str, float]]]:
    """The weights of a run, with all that the optimiser and the method remember, and its metrics without times."""
    found = load_checkpoint(folder)
    values = [*found["state"].values(), *(each for each in found["kept"].values() if isinstance(each, Tensor))]
    moments = [value for each in found["optimizer"]["state"].values() for value in each.values()]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
    return torch.cat([value.flatten().double() for value in [*values, *moments]]), rows


def same(one: Path, other: Path) -> bool:
    (bits, rows), (others, told) = result(one), result(other)
    return torch.equal(bits, others) and json.dumps(rows) == json.dumps(told)  # NaN is equal to itself here


@pytest.mark.parametrize("method", quick(METHODS, "standard", "smd", "cat"))
def test_a_killed_run_goes_on_to_the_same_bits(method, tmp_path):
    """Killed after a random step, or in the midst of writing a checkpoint: the third of its files, or a later one."""
    chance = random.Random(method)
    place = chance.choice([{"step": chance.randint(1, 7)}, {"write": chance.randint(3, 9)}])
    assert run(command(method, tmp_path / "whole")) == 0
    assert run(command(method, tmp_path / "killed"), **place) == -signal.SIGKILL
    assert run(command(method, tmp_path / "killed")) == 0
    assert same(tmp_path / "killed", tmp_path / "whole")


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path):
    folder = tmp_path / "run"
    # environment.json, config.yaml, the checkpoint after 2 steps, the metrics, the checkpoints after 4, 6 and 8.
    assert run(command("standard", folder), write=7) == -signal.SIGKILL
    assert (load_checkpoint(folder)["epoch"], load_checkpoint(folder)["step"]) == (1, 0)
    assert [path.name for path in folder.glob(".checkpoint*")], "it was in the midst"
    assert run(command("standard", folder)) == 0
    assert not list(folder.glob(".*")), "and what it left is gone, the lock as well"


@pytest.mark.parametrize("write", [1, 2])
def test_a_kill_before_the_first_step_is_no_dead_end(write, tmp_path):
    assert run(command("standard", tmp_path / "run"), write=write) == -signal.SIGKILL
    assert run(command("standard", tmp_path / "run")) == 0
    assert (tmp_path / "run" / "environment.json").is_file()
    assert not list((tmp_path / "run").glob(".*"))


def test_a_folder_of_other_files_is_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="never overwritten"):
        Run(tmp_path / "run", "epochs: 2\n", {}, resume=True)


def test_what_may_change_when_a_run_goes_on(tmp_path):
    config = "lr: 0.1\nat_once: 500\ntest: {at_once: 500, limit: 10}\n"
    Run(tmp_path / "run", config, {})
    Run(tmp_path / "run", config.replace("at_once: 500", "at_once: 100"), {}, resume=True)
    with pytest.raises(ValueError, match=r"test was \{'limit': 10\} and is now \{'limit': 20\}"):
        Run(tmp_path / "run", config.replace("limit: 10", "limit: 20"), {}, resume=True)


def test_a_setting_that_an_earlier_version_did_not_have_had_its_default(tmp_path):
    before, now = (
        "lr: 0.1\nattack: {init_args: {eps: 0.3}}\n",
        "lr: 0.1\nattack: {init_args: {eps: 0.3, new: 1}}\nsize: 0\n",
    )
    known = {"lr": 0.5, "attack": {"init_args": {"eps": 0.1, "new": 1}}, "size": 0}
    Run(tmp_path / "run", before, {})
    Run(tmp_path / "run", now, {}, resume=True, defaults=known)
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    with pytest.raises(ValueError, match="size was 0 and is now 64"):
        Run(tmp_path / "run", now.replace("size: 0", "size: 64"), {}, resume=True, defaults=known)
    with pytest.raises(ValueError, match=r"'new': 1.*is now.*'new': 2"):
        Run(tmp_path / "run", now.replace("new: 1", "new: 2"), {}, resume=True, defaults=known)
    with pytest.raises(ValueError, match=r"lr was 0.1 and is now 0.5"):  # which was given then
        Run(tmp_path / "run", now.replace("lr: 0.1", "lr: 0.5"), {}, resume=True, defaults=known)


def without(path: Path, *names: str) -> None:
    """Takes settings out of a ``config.yaml``, as an earlier version wrote it."""
    lines = [line for line in path.read_text().splitlines() if line.split(":")[0].strip() not in names]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("method", ["friendly", "dra"])
def test_a_run_of_an_earlier_version_goes_on(method, tmp_path, capfd):
    """Its config.yaml lacks options of the run, of its method, of the attack within that and of the test."""
    first = [*command(method, tmp_path / "run"), "--attack.steps", "2"]
    assert command_line.main([*first, "--epochs", "1"]) == 0
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 1\n", "epochs: 2\n"))
    before = config.read_text()
    without(config, "resize", "crop", "clip", "omega", "random_start", "eps_warmup", "alternate", "at_once", "theta")
    assert len(config.read_text()) < len(before)
    assert command_line.main([*first, "--clip", "8"]) == 2
    assert "clip was 0.0 and is now 8.0" in capfd.readouterr().err
    assert command_line.main(first) == 0
    assert load_checkpoint(tmp_path / "run")["epoch"] == 2


def test_an_evaluation_of_an_earlier_version_goes_on(tmp_path, capfd):
    assert command_line.main(command("standard", tmp_path / "run", "--epochs", "1")) == 0
    again = ["evaluate", str(tmp_path / "run"), "--attacks", "fgsm", "--limit", "10", "--checks", "0"]
    again += ["--out", str(tmp_path / "out"), "--resume", "true"]
    assert command_line.main(again) == 0
    without(tmp_path / "out" / "config.yaml", "resize", "crop", "memory_format", "samples_as")
    assert command_line.main(again) == 0
    assert command_line.main([*again, "--memory-format", "contiguous"]) == 2
    assert "is now 'contiguous'" in capfd.readouterr().err


def test_metrics_stand_in_the_column_of_their_name(tmp_path):
    run = Run(tmp_path / "run", "epochs: 2\n", {})
    run.log({"epoch": 1, "gradients": 5.0, "accuracy": 0.25})
    run.log({"epoch": 2, "accuracy": 0.75, "gradients": math.nan, "late": 1.0})
    assert (tmp_path / "run" / "metrics.csv").read_text().split() == [
        "epoch,gradients,accuracy",
        "1,5.0,0.25",
        "2,nan,0.75",
    ]
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert last == {"epoch": 2, "accuracy": 0.75, "gradients": None, "late": 1.0}


ABOUT = {"method": "standard", "model": "lenet5", "data": "toys", "shape": [3], "classes": ["a", "b"]}


def checkpoint(epoch: int) -> dict[str, object]:
    return {**ABOUT, "state": {"weight": torch.full((3,), float(epoch))}, "history": [], "epoch": epoch}


def test_a_kill_after_a_damaged_checkpoint_leaves_the_good_one(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", "epochs: 9\n", {})
    for epoch in range(3):
        run.save(checkpoint(epoch))
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"damaged")
    del run
    with pytest.warns(UserWarning, match="going on from previous.pt"):
        run = Run(tmp_path / "run", "epochs: 9\n", {}, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.save(checkpoint(2))
    assert run.resumed()["epoch"] == 1
    assert load_checkpoint(tmp_path / "run" / "previous.pt")["epoch"] == 1


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_checkpoint_does_not_stay_in_memory(tmp_path):
    """Also where no one looks for cycles: every epoch of a large network would keep a copy of it."""
    run, size = Run(tmp_path / "run", "epochs: 9\n", {}), 4 * 12345
    gc.collect()
    gc.disable()
    try:
        for epoch in range(3):
            run.save({**checkpoint(epoch), "state": {"weight": torch.zeros(12345)}})
        kept = [each for each in gc.get_objects() if type(each) in (Tensor, torch.UntypedStorage)]
        assert not [each for each in kept if (each.nbytes if isinstance(each, Tensor) else each.nbytes()) == size]
    finally:
        gc.enable()


def test_the_previous_checkpoint_stands_in_for_a_missing_one(tmp_path):
    run = Run(tmp_path / "run", "epochs: 9\n", {})
    for epoch in range(2):
        run.save(checkpoint(epoch))
    (tmp_path / "run" / "checkpoint.pt").unlink()
    with pytest.warns(UserWarning, match="no checkpoint at .*going on from previous.pt"):
        assert run.resumed()["epoch"] == 0


@pytest.mark.parametrize("links", [True, False])
def test_the_best_is_never_older_than_the_last_tells(links, tmp_path, monkeypatch):
    """However many of its files a save has put in place before it is killed."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    for place in range(1, 9):
        folder, counts, replace = tmp_path / f"{links}-{place}", [], os.replace
        run = Run(folder, "epochs: 9\n", {})
        run.save(checkpoint(0), "best.pt", "epoch-0000.pt")

        def killed(old: str, new: str, counts=counts, place=place, replace=replace) -> None:
            counts.append(new)
            if len(counts) == place:
                raise KeyboardInterrupt
            replace(old, new)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", killed)
            run.save(checkpoint(1), "best.pt", "epoch-0001.pt")
        last = run.resumed()["epoch"]
        assert last == int(len(counts) < place), "nothing is done half"
        for also in ("best.pt", "epoch-0001.pt") if last else ():
            assert load_checkpoint(folder / also)["epoch"] == 1
    assert len(counts) == 4, "previous.pt, best.pt, epoch-0001.pt, checkpoint.pt"


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    Run(tmp_path / "run", "epochs: 9\n", {}).save(checkpoint(0))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=r"cannot read .*checkpoint.pt \(Permission denied\): make it readable"):
        load_checkpoint(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_stop(number, tmp_path):
    long = command("standard", tmp_path / "run", "--epochs", "400")
    process = SERVER.Process(target=child, args=(long, 0, 0, 0))
    process.start()
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.is_alive() and not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert f"stopped and saved: continue with --resume auto --out {tmp_path / 'run'}" in Path(errors(long)).read_text()
    saved = load_checkpoint(tmp_path / "run")
    assert 3 < saved["epoch"] < 400
    assert len(saved["history"]) == saved["epoch"]
    assert run(long, step=1) == -signal.SIGKILL  # it goes on


def test_a_signal_after_the_last_step_is_heard(tmp_path, monkeypatch, capfd):
    """It would be lost, and what comes after training would begin."""
    fit = _train.fit

    def asked_late(*args: object, **settings: object) -> object:
        history = fit(*args, **settings)
        if "stop" in settings:
            os.kill(os.getpid(), signal.SIGTERM)
        return history

    with monkeypatch.context() as patch:
        patch.setattr(_train, "fit", asked_late)
        assert command_line.main(command("standard", tmp_path / "run")) == 143
    assert "stopped and saved: continue with --resume auto" in capfd.readouterr().err
    assert load_checkpoint(tmp_path / "run")["epoch"] == 2
    assert command_line.main(command("standard", tmp_path / "run")) == 0


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    for name in ("whole", "run"):
        assert run(command("smd", tmp_path / name)) == 0
    last, before = tmp_path / "run" / "checkpoint.pt", tmp_path / "run" / "previous.pt"
    assert load_checkpoint(before)["step"] == 2
    last.write_bytes(last.read_bytes()[:1000])
    assert run(command("smd", tmp_path / "run")) == 0
    told = Path(errors(command("smd", tmp_path / "run"))).read_text()
    assert re.search("checkpoint.pt is damaged.*going on from previous.pt", told)
    assert same(tmp_path / "run", tmp_path / "whole")


def test_with_both_damaged_a_run_says_so(tmp_path, capfd):
    assert run(command("standard", tmp_path / "run")) == 0
    for name in ("checkpoint.pt", "previous.pt"):
        (tmp_path / "run" / name).write_bytes(b"something else")
    with pytest.warns(UserWarning, match="is damaged"):
        assert command_line.main(command("standard", tmp_path / "run")) == 2
    assert "previous.pt is damaged, or no checkpoint of fastadv" in capfd.readouterr().err


def test_a_full_disk_loses_nothing(tmp_path):
    folder, short = tmp_path / "run", ["--epochs", "1"]
    assert run(command("standard", folder, *short)) == 0
    before = (folder / "checkpoint.pt").read_bytes()
    longer = [each.replace("epochs: 1", "epochs: 2") for each in (folder / "config.yaml").read_text().splitlines(True)]
    (folder / "config.yaml").write_text("".join(longer))
    assert run(command("standard", folder), bytes_at_most=100_000) == 2
    told = Path(errors(command("standard", folder))).read_text()
    assert (
        f"cannot write {folder / 'checkpoint.pt'} (File too large): what was there stays as it was. Make room" in told
    )
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert not list(folder.glob(".checkpoint*"))
    assert run(command("standard", folder)) == 0
    assert run(command("standard", tmp_path / "whole")) == 0
    assert same(folder, tmp_path / "whole")


def test_checkpoints_that_are_kept(tmp_path):
    more = ["--epochs", "4", "--keep-every", "2", "--held-out", "8", "--save-every", "0"]
    assert run(command("standard", tmp_path / "run", *more)) == 0
    names = {path.name for path in (tmp_path / "run").glob("*.pt")}
    assert names == {"checkpoint.pt", "previous.pt", "best.pt", "epoch-0002.pt", "epoch-0004.pt"}
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    figures = [row["avg_aa"] for row in load_checkpoint(tmp_path / "run")["history"]]
    assert figures[best["epoch"] - 1] == max(figures)
    assert load_checkpoint(tmp_path / "run" / "epoch-0002.pt")["epoch"] == 2
    assert all("held_out_accuracy" in row for row in best["history"])


def test_others_may_read_what_their_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "file", lambda file: file.write(b"it"))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


# Damage


def flipped(path: Path, bit: int) -> bytes:
    """The bytes of a file with one bit flipped."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    assert run(command("standard", tmp_path / "run", "--epochs", "1", "--save-every", "0")) == 0
    whole, path = tmp_path / "run" / "checkpoint.pt", tmp_path / "flipped.pt"
    wanted, chance, noticed = load_checkpoint(whole), random.Random(0), 0
    for bit in chance.sample(range(8 * whole.stat().st_size), 60):
        path.write_bytes(flipped(whole, bit))
        try:
            found = load_checkpoint(path)
        except ValueError as error:
            noticed += 1
            assert f"{path} is damaged" in str(error)  # noqa: PT017 - or it is harmless
        else:
            assert digest(found) == digest(wanted)
    assert noticed >= 57


def test_values_are_verified_whatever_the_file_says(tmp_path):
    """The CRCs of this file are right."""
    Run(tmp_path / "run", "epochs: 9\n", {}).save(checkpoint(0))
    path = tmp_path / "run" / "checkpoint.pt"
    stored = torch.load(path, weights_only=True)
    stored["state"]["weight"][1] = 1.5e36
    torch.save(stored, path)
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged.*digest"):
        load_checkpoint(path)
    del stored["digest"]  # as older versions wrote it
    torch.save(stored, path)
    assert load_checkpoint(path)["state"]["weight"][1] == 1.5e36


def test_digests_tell_values_apart():
    values = [
        {"a": torch.zeros(2)}, {"b": torch.zeros(2)}, {"a": torch.zeros(2, 1)}, {"a": torch.zeros(2).bfloat16()},
        {"a": torch.tensor([0.0, -0.0])}, {"a": [1, 2]}, {"a": [1, 2.0]}, {"a": [True, 2]}, {"a": "[1, 2]"}, {},
        {"a": torch.zeros(())}, {"a": torch.zeros(0)}, {"a": torch.zeros(2, dtype=torch.bool)},
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)
    grid = torch.arange(24.0).view(1, 4, 3, 2)
    assert digest(grid) == digest(grid.contiguous(memory_format=torch.channels_last))
    assert digest({"a": math.nan}) == digest({"a": math.nan})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 1, "state": {}}, "no checkpoint of fastadv train: 'method' is missing"),
        ({"format": "x", "state": {}}, "its format is 'x', not a number"),
        ({"format": 1, **ABOUT, "state": [1]}, "'state' is a list"),
        ({"format": 1, **ABOUT, "state": {"weight": 1}}, "other values than tensors"),
        ({"format": 1, **ABOUT, "state": {}, "shape": 3}, "'shape' is a int"),
        ({"format": 1, **ABOUT, "state": {}, "history": [1]}, "'history' has other values than rows"),
    ],
)
def test_checkpoints_of_something_else(content, message, tmp_path, capfd):
    torch.save(content, tmp_path / "other.pt")
    assert command_line.main(["evaluate", str(tmp_path / "other.pt")]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"a: [\n", b"\xff\xfe", b"!!python/object/apply:os.getcwd []"])
def test_a_damaged_config_is_named(content, tmp_path, capfd):
    Run(tmp_path / "run", "epochs: 2\n", {})
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    assert command_line.main(command("standard", tmp_path / "run")) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{tmp_path / 'run' / 'config.yaml'} is damaged" in line
    assert "choose another --out" in line


def test_a_torn_line_of_metrics_is_mended(tmp_path):
    first = Run(tmp_path / "run", "epochs: 9\n", {})
    row = {"epoch": 1, "loss": 0.5}
    first.log(row)
    first.save({**checkpoint(1), "history": [row]})
    whole = [(tmp_path / "run" / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")]
    del first
    for name, content in zip(("metrics.jsonl", "metrics.csv"), whole, strict=True):
        (tmp_path / "run" / name).write_bytes(content + content[:5])
    Run(tmp_path / "run", "epochs: 9\n", {}, resume=True)
    assert [(tmp_path / "run" / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")] == whole


# Two runs in one folder


def hold(folder: Path, held: Any, over: Any) -> None:
    sys.argv = ["fastadv", "train", "standard"]
    run = Run(folder, "epochs: 2\n", {}, resume=True)
    held.set()
    over.wait(60)
    del run


def test_a_folder_is_of_one_run_at_a_time(tmp_path, capfd):
    held, over = SERVER.Event(), SERVER.Event()
    process = SERVER.Process(target=hold, args=(tmp_path / "run", held, over))
    process.start()
    assert held.wait(60)
    assert command_line.main(command("standard", tmp_path / "run")) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{tmp_path / 'run'} is in use by process {process.pid} on " in line
    assert "fastadv train standard. Wait for it, stop it" in line
    assert in_use(tmp_path / "run")
    process.kill()
    process.join()
    assert (tmp_path / "run" / ".lock").is_file(), "a killed run leaves it"
    assert in_use(tmp_path / "run") is None, "but not the lock"
    run = Run(tmp_path / "run", "epochs: 2\n", {}, resume=True)
    with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()}"):
        Run(tmp_path / "run", "epochs: 2\n", {}, resume=True)
    assert {path.name for path in run.folder.iterdir()} == {"config.yaml", "environment.json", ".lock"}
    del run
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "environment.json"}


def test_a_run_killed_before_its_config_leaves_only_its_lock(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("process 1")
    assert Run(tmp_path / "run", "epochs: 2\n", {}, resume=True).folder.is_dir()


def test_what_killed_processes_were_writing_goes_but_not_what_a_run_within_writes(tmp_path):
    run = Run(tmp_path / "run", "epochs: 2\n", {})
    inner = Run(run.folder / "inner", "epochs: 2\n", {})
    (run.folder / "batches" / "it").mkdir(parents=True)
    left = [run.folder / ".config.yaml.1.new", run.folder / "batches" / "it" / ".pgd-0-2.npz.1.new"]
    for path in (*left, inner.folder / ".checkpoint.pt.2.new"):
        path.touch()
    del run
    run = Run(tmp_path / "run", "epochs: 2\n", {}, resume=True)
    assert [path.name for path in run.folder.rglob(".*.new")] == [".checkpoint.pt.2.new"]


def test_a_forked_process_leaves_the_lock(tmp_path):
    run = Run(tmp_path / "run", "epochs: 2\n", {})
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            del run
        os._exit(0)
    os.waitpid(child, 0)
    assert in_use(tmp_path / "run")
    assert run.folder.is_dir()


def test_a_run_that_another_process_receives_locks_nothing(tmp_path):
    run = Run(tmp_path / "run", "epochs: 2\n", {})
    pickle.loads(pickle.dumps(run))  # as torchrun's processes get it
    assert in_use(run.folder)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\): make sure that no other process"):
        run = Run(tmp_path / "run", "epochs: 2\n", {})
    assert (run.folder / "config.yaml").is_file()


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for fail_at in (0, 1):
        calls = []
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "fsync", lambda *_, at=fail_at, calls=calls: calls.append(0) or len(calls) <= at or full()
            )
            name = ("environment.json", "config.yaml")[fail_at]
            with pytest.raises(OSError, match=rf"cannot write .*{name} \(No space left on device\).*Make room"):
                Run(tmp_path / "run", "epochs: 2\n", {})
        assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_every_file_as_it_was(tmp_path, monkeypatch):
    """Whichever of the files of a run is being written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = Run(tmp_path / "run", "epochs: 9\n", {})
    run.log({"epoch": 1})
    run.save(checkpoint(1), "best.pt")
    run.save(checkpoint(2))
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    for write, name in (
        (lambda: run.log({"epoch": 2}), "metrics.jsonl"),
        (lambda: run.save(checkpoint(3)), "checkpoint.pt"),
    ):
        with pytest.raises(
            OSError, match=rf"^cannot write .*run/{name} \(No space left on device\): what was there stays"
        ):
            write()
        assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_figure_that_finds_no_room_ends_the_command(tmp_path, monkeypatch):
    """A run without it is not done, and is resumed; one that cannot be drawn is left out."""

    def plot(path: Path) -> Path:
        replace_file(path, lambda file: file.write(b"it"))
        return path

    assert drawn(plot, tmp_path / "a.png") == [tmp_path / "a.png"]
    assert drawn(lambda path: path.missing, tmp_path / "b.png") == []
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=r"cannot write .*c.png \(No space left on device\).*Make room"):
        drawn(plot, tmp_path / "c.png")


# Several processes

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
WORKER = """
import os, sys, torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from fastadv.__main__ import main

steps = []

def die(*_):
    steps.append(1)
    if os.environ["RANK"] == "1" and len(steps) == {at}:
        os._exit(9)

register_optimizer_step_post_hook(die)
sys.exit(main(sys.argv[1:]))
"""


def torchrun(tmp_path: Path, arguments: list[str], at: int = 0) -> subprocess.CompletedProcess:
    """The command in two processes; the second ends after step `at`, if that is not 0."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(at=at))
    told = {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run([*LAUNCH, str(script), *arguments], env=environ(), **told)


def environ() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.thorough
def test_torchrun_trains_as_one_process_and_goes_on_after_a_death(tmp_path):
    sgd = ["--optimizer", "sgd", "--lr", "0.01"]  # Adam makes whole steps of what rounding leaves of no gradient
    killed = torchrun(tmp_path, command("smd", tmp_path / "two", *sgd), at=6)
    assert killed.returncode != 0
    assert "exitcode" in killed.stderr, "torchrun says which process died"
    assert "stopped and saved" not in killed.stderr
    assert load_checkpoint(tmp_path / "two")["epoch"] == 1
    again = torchrun(tmp_path, command("smd", tmp_path / "two", *sgd))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("smd: epoch 2/2") == 1, "one of them speaks"
    assert run(command("smd", tmp_path / "one", *sgd)) == 0
    (weights, rows), (alone, expected) = result(tmp_path / "two"), result(tmp_path / "one")
    torch.testing.assert_close(weights, alone, rtol=2e-3, atol=2e-3)
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, rel=2e-2, abs=1e-3)
    assert (tmp_path / "two" / "table.csv").is_file()


@pytest.mark.thorough
def test_torchrun_that_is_told_to_end_saves(tmp_path):
    folder = tmp_path / "two"
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(at=0))
    with subprocess.Popen(
        [
            *LAUNCH,
            str(script),
            *command("madry", folder, "--epochs", "400", "--save-every", "0", "--attack.steps", "1"),
        ],
        env=environ(),
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        while launcher.poll() is None and not (folder / "previous.pt").is_file():
            time.sleep(0.05)
        launcher.terminate()
        _, told = launcher.communicate(timeout=600)
    assert f"stopped and saved: continue with --resume auto --out {folder}" in told
    saved = load_checkpoint(folder)
    assert 2 <= saved["epoch"] < 400
    assert len(saved["history"]) == saved["epoch"]


SRUN = """#!/bin/bash
# Runs a command in two tasks, and passes SIGTERM on to them; gives the highest status.
while [[ $1 == --* ]]; do shift; done
trap 'kill -TERM "${tasks[@]}"' TERM
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 "$@" & tasks+=($!)
done
highest=0
for task in "${tasks[@]}"; do
    while wait "$task"; status=$?; kill -0 "$task" 2>/dev/null; do :; done
    ((status > highest)) && highest=$status
done
exit $highest
"""
SCONTROL = """#!/bin/bash
if [[ $1 == requeue ]]; then echo "$2" >> "$REQUEUED"; else echo localhost; fi
"""


@pytest.mark.thorough
def test_the_job_of_the_documentation_saves_and_is_queued_again(tmp_path):
    """Its script, with stand-ins for what Slurm has: a real SIGTERM to the script, and then the job once more."""
    page = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text()
    (script,) = (block for block in re.findall("```sh\n(.*?)```", page, re.DOTALL) if "#SBATCH" in block)
    training = shlex.join(["-m", "fastadv", *command("standard", tmp_path / "run", "--epochs", "12")])
    script, found = re.subn("python -m fastadv .*?\n}", f"{sys.executable} {training}\n}}", script, flags=re.DOTALL)
    assert found == 1
    with socket.socket() as free:
        free.bind(("", 0))
        script = script.replace("29500", str(free.getsockname()[1]))
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "job.sh": script}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REQUEUED": str(tmp_path / "requeued")}
    slurm |= {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_CPUS_PER_TASK": "1"}
    how = {"env": environ() | slurm, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(["bash", str(tmp_path / "job.sh")], **how) as job:
        while job.poll() is None and not (tmp_path / "run" / "previous.pt").is_file():
            time.sleep(0.05)
        job.terminate()
        _, told = job.communicate(timeout=600)
    assert "stopped and saved" in told
    assert job.returncode == 143
    assert (tmp_path / "requeued").read_text() == "17\n"
    assert load_checkpoint(tmp_path / "run")["epoch"] < 12
    again = subprocess.run(["bash", str(tmp_path / "job.sh")], **how, timeout=600)
    assert again.returncode == 0, again.stderr
    assert load_checkpoint(tmp_path / "run")["epoch"] == 12
    assert (tmp_path / "requeued").read_text() == "17\n", "what is done is not queued again"


@pytest.mark.thorough
def test_what_one_process_finds_wrong_all_say(tmp_path):
    (tmp_path / "two").mkdir()
    found = torchrun(tmp_path, ["train", "standard", *QUICK, "--out", str(tmp_path / "two")])
    assert found.returncode != 0
    assert "runs are never overwritten" in found.stderr
    assert "fastadv/commands" not in found.stderr, "and none of them shows where"


def left_alone(rank: int, address: str, told: Path) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        os._exit(0)
    try:
        while True:
            dist.all_reduce(torch.ones(3))
    except RuntimeError as error:
        told.write_text(str(broken(error)))
    os._exit(0)


def test_only_a_process_that_is_gone_is_called_so(tmp_path, monkeypatch, capfd):
    torch.multiprocessing.spawn(left_alone, (f"file://{tmp_path}/meeting", tmp_path / "told"), nprocs=2)
    assert (tmp_path / "told").read_text() == "True"
    monkeypatch.setattr(command_line, "launched", lambda: True)
    for words, gone in (("Connection closed by peer [gloo/transport/tcp]", True), ("mat1 and mat2 shapes", False)):

        def fail(*_: object, words: str = words) -> None:
            raise RuntimeError(words)

        monkeypatch.setattr(command_line, "run_command", fail)
        with nullcontext() if gone else pytest.raises(RuntimeError, match="mat1 and mat2"):
            assert command_line.main(["info"]) == 1
        assert ("a process of the run was lost" in capfd.readouterr().err) == gone


# Where metrics go


@pytest.mark.thorough
def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(command("standard", tmp_path / "run", "--log", "tensorboard")) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [each.value for each in events.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])
    assert [each.step for each in events.Scalars("clean_accuracy")] == [1, 2]


@pytest.mark.thorough
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert (
        subprocess.run(
            [sys.executable, "-m", "fastadv", *command("standard", tmp_path / "run", "--log", "wandb")],
            capture_output=True,
            timeout=600,
        ).returncode
        == 0
    )
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert kept.stat().st_size > 0


@pytest.mark.thorough
def test_wandb_has_a_run_for_each_method_and_goes_on_with_it(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = []
    for name in ("one", "two", "one"):
        (tmp_path / name).mkdir(exist_ok=True)
        LOGGERS["wandb"](tmp_path / name, {}, 1)({"epoch": 1, "loss": 0.5})
        found.append(wandb.run.id)
    wandb.finish()
    assert found[0] == found[2] != found[1]
    assert list((tmp_path / "two" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_an_unknown_log(tmp_path, capfd):
    assert command_line.main(command("standard", tmp_path / "run", "--log", "tensorbord")) == 2
    assert "log must be of tensorboard, wandb, got 'tensorbord'" in capfd.readouterr().err
