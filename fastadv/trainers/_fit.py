"""The one training loop."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._processes import processes, rank
from .._progress import bar, figures
from ..data import AnyData, Augmentation
from ..models.adapted import own_loss
from ._blocks import checkpointed
from ._guard import Guard
from ._method import Method, Row
from ._parallel import total
from ._settings import Settings, SettingsDict
from ._source import Replayed, extended, source_of
from ._state import Run, State
from ._watch import best, enough

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger("fastadv.fit")

_LOOK = 50  # steps between looks at the loss, each of which waits for the device, and at denormal weights
_ASK = 16  # steps after which several processes ask each other whether to stop


class Stopped(Exception):
    """Training was asked to stop, and has handed its state to `on_save`."""


def fit(
    model: nn.Module,
    method: Method,
    train: AnyData,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    extra: AnyData | None = None,
    optimizer: str | torch.optim.Optimizer = "adam",
    augment: Augmentation | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    resume: Mapping[str, Any] | None = None,
    on_step: Callable[[int, int, Mapping[str, Any]], None] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
    on_save: Callable[[State], None] | None = None,
    save_every: int = 0,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
    **settings: "Unpack[SettingsDict]",
) -> list[Row]:
    """Trains `model` in place by `method` on `train` and returns the history.

    The history has a row an epoch: ``epoch`` from 1, ``loss``, what the method reports, ``lr`` of the last step,
    ``seconds``, ``images_per_second``, and what `validate` finds. With `guard`, it has ``pgd_accuracy`` at the last
    check and ``rollbacks``, too. ``pandas.DataFrame(history)`` is its table.

    Data order, augmentation and random starts depend on the seed alone. The model (dropout) has torch's global
    generator to itself. Under ``torchrun``, with a process group, the processes share every batch, and all end with the
    same network.

    Args:
        model: any network from samples to logits, in whatever form, or one with a loss of your own, which is minimised
            (see `fastadv.adapt` for both); it is trained on the device it is on, and left in train mode.
        method: what is minimised, one of `fastadv.trainers`. With `guard`, a steadier one may replace it in the run.
        train: a data set with random access (a `Dataset`, or one of PyTorch or Hugging Face; see
            `fastadv.data.samples_of`), tensors (x, y), or a DataLoader of (x, y) or (x, y, index). A loader has its own
            order: `resume` gives the same bits where torch's generator makes that order the same again. Data without a
            length, as from files in shards, are a `fastadv.data.Stream` with a count.
        bounds: the least and the greatest value of samples that come as tensors or from a loader.
        extra: further samples, such as generated ones, of the same kind; `extra_share` of each batch are of these. An
            epoch has as many samples as `train`.
        optimizer: by name, or one of your own, whose groups' learning rates the schedule then multiplies.
        augment: called with (x, ids, seed) for every batch before the method sees it, one of `fastadv.data`.
        validate: called with the model after every epoch, by every process. It returns figures for the history;
            `patience` and `collapse` watch the first of them, the higher the better.
        resume: what `on_save` was given by a run with the same arguments. Training continues from there to the same
            bits. It sets the state of torch's global generator for that.
        on_step: called after every step with (steps done, steps in all, figures): what the step reports, on the
            device, ``lr``, ``epoch`` from 1, and ``images_per_second`` in this epoch.
        on_epoch: called after every epoch with its row of the history, in the first process.
        on_save: called in the first process with the state to resume from: after every epoch, after every `save_every`
            steps if these are not 0, and before stopping. It holds tensors on the CPU and plain values: ``state`` has
            the network's weights, and ``best`` says whether the last epoch is the best yet.
        stop: asked after every step. When it returns true, training stops with `Stopped`.
        progress: whether to show a bar; there is none where standard error is no terminal. The log ``fastadv.fit`` has
            a line an epoch either way, of level INFO.
        settings: the fields of `Settings`.

    Raises:
        ValueError: for settings out of range, or that the method or the device does not allow, a method that needs
            classes where the model has a loss of its own, `patience` or `collapse` with nothing to watch, an `extra` of
            another kind or without a share, an `augment` that mixes labels where the method takes one, a `validate`
            whose figures have taken names, or a `resume` of another network or optimiser.
        TypeError: for a setting or a `train` of an unknown kind.
        FloatingPointError: when a loss or a weight is NaN or infinite; what was saved last is from before.
        Stopped: when `stop` says so.
    """
    name = optimizer if isinstance(optimizer, str) else Settings.optimizer
    how = Settings(optimizer=name, **settings)
    if own_loss(model):
        method.check_own_loss()
        for name in ("precision", "graphs"):
            if getattr(how, name) != getattr(Settings, name):
                raise ValueError(f"{name} is for classifiers: with a loss of your own, leave it out")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if (how.patience or how.collapse) and not validate:
        name = "patience" if how.patience else "collapse"
        raise ValueError(f"{name} {getattr(how, name)} needs a figure to watch: give validate, or {name} 0")
    if how.guard:
        Guard.check(method)
    if how.awp and not method.repeatable:
        raise ValueError(f"awp computes the loss twice, which {type(method).__name__} does not allow: set awp to 0")
    if how.accumulate > 1 and method.whole_batch:
        raise ValueError(
            f"accumulate {how.accumulate} makes parts of a batch, and {type(method).__name__} needs it whole: "
            f"{method.whole_batch}. Set accumulate to 1"
        )
    for name in ("sync_batch_norm", "sharded"):
        if getattr(how, name) and method.per_sample:
            raise ValueError(
                f"{name} needs the same passes of all processes, and those of {type(method).__name__} depend on its "
                "samples: leave it out"
            )
    if how.sharded and method.second_order:
        raise ValueError(
            f"networks in shards have no second derivatives, as {type(method).__name__} takes: leave it out"
        )
    if how.sharded and not isinstance(optimizer, str):
        raise ValueError("sharded needs an optimizer of weights in shards: give it by name, adam, adamw or sgd")
    for name in ("graphs", "sync_batch_norm"):
        if getattr(how, name) and device.type != "cuda":
            raise ValueError(f"{name} works on GPUs only: leave it out")
    if how.sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place, but for a model that is a single layer
    source = source_of(train, how.batch_size, bounds, device, bool(method.per_sample), own_loss(model))
    if (extra is None) != (not how.extra_share):
        raise ValueError("extra and extra_share go together: give both, or leave both out")
    if extra is not None:
        source = extended(source, extra, how.extra_share, bounds, own_loss(model))
    source = Replayed(source, method.replays) if method.replays > 1 else source
    descent = how.make_optimizer(model) if isinstance(optimizer, str) else optimizer
    memory_format = resume.get("memory_format", "preserve") if resume else how.memory_format
    run = Run(model, method, descent, how, device, source, memory_format)
    method.begin(source, how.seed, how.epochs)
    guard = Guard(run, source) if how.guard else None
    if resume:
        if guard:
            guard.load(resume)
        run.load(resume)

    def save(is_best: bool = False) -> None:
        run.agree()
        run.check()
        state = run.state() if how.sharded or rank() == 0 else {}
        if on_save and rank() == 0:
            on_save({**state, **(guard.state() if guard else {}), "best": is_best})

    what, planned = type(method).__name__, 0 if how.minutes else how.epochs
    with ExitStack() as stack:
        if how.checkpointing:
            stack.enter_context(checkpointed(model))
            if run.sharded:
                stack.enter_context(checkpointed(run.sharded.shards))
        tick = stack.enter_context(bar(what, "steps", planned)) if progress and rank() == 0 else None
        # Figures may differ between processes in their last bits, and all have to stop where one does.
        over = run.over()
        while (
            not over and (how.minutes or len(run.history) < how.epochs) and not _any(enough(run.history, how), device)
        ):
            epoch, started = len(run.history), time.perf_counter() - run.seconds
            for part, size in source.epoch(epoch, how.seed, skip=run.step):
                stats = run.train(part, size, source.batches, augment)
                if guard:
                    guard.look(part, size, source.batches, stats)
                run.seconds = time.perf_counter() - started
                if on_step or tick:
                    done = epoch * source.batches + run.step
                    in_all = done * 60 * how.minutes / run.spent if how.minutes else how.epochs * source.batches
                    speed = {"lr": descent.param_groups[0]["lr"], "images_per_second": run.step * size / run.seconds}
                    for each in filter(None, (on_step, tick)):
                        each(done, max(done, round(in_all)), stats | speed | {"epoch": epoch + 1})
                if run.step % _LOOK == 0:
                    run.check()
                    run.flush()
                ask = run.step % _ASK == 0 or run.step == source.batches or processes() == 1
                if ask and _any(stop(), device):
                    save()
                    raise Stopped
                over = ask and bool(how.minutes) and _any(run.over(), device)
                if over:
                    break
                if save_every and run.step % save_every == 0 and run.step < source.batches:
                    save()
            run.agree()
            run.check()  # waits for the device
            run.flush()
            run.recalibrate(source, augment)
            row = run.end_epoch(time.perf_counter() - started, guard.end_epoch() if guard else {})
            if validate:
                row |= _checked(validate(run.network_now()), row)
                run.network.train()
            run.method.end_epoch(row)
            run.history.append(row)
            if rank() == 0:
                shown = figures({name: value for name, value in row.items() if name != "epoch"})
                _log.info(f"{what}: epoch {row['epoch']}{f'/{planned}' if planned else ''}: {shown}")
            if on_epoch and rank() == 0:
                on_epoch(row)
            save(is_best=bool(validate) and best(run.history) == len(run.history) - 1)
    run.finish()
    return run.history


def _any(here: bool, device: torch.device) -> bool:
    """Whether any process says so."""
    return bool(total(torch.tensor(int(here), device=device)) > 0) if processes() > 1 else here


def _checked(found: dict[str, float], row: Row) -> dict[str, float]:
    """What `validate` gave. Raises ValueError where that has the name of a figure in `row`, or nothing in it."""
    taken = [name for name in found if name in row]
    if taken or not found:
        raise ValueError(f"validate must give figures with names of their own, got {taken[0] if taken else 'none'!r}")
    return found
