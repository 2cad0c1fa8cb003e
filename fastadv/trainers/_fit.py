"""The one training loop."""

import copy
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .._processes import processes, rank, shared
from .._progress import bar, figures
from ..attacks import Tuned
from ..attacks._tuned import chosen_format, laid_out
from ..data import AnyData
from ..models.adapted import own_loss
from ._awp import perturbed
from ._method import Batch, Method, Row, Source, Stats
from ._parallel import agree, agree_on_samples, total, wrapped
from ._precision import PRECISIONS, Autocast
from ._settings import Settings, SettingsDict
from ._source import Part, Replayed, source_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

Augment = Callable[[Tensor, Tensor, int], Tensor]
State = dict[str, Any]

_log = logging.getLogger("fastadv.fit")

_LOOK = 50  # steps between looks at the loss, each of which waits for the device
_COUNT = ""  # the name, beside the sums of an epoch's figures, of how many samples they are of
_ASK = 16  # steps after which several processes ask each other whether to stop


class Stopped(Exception):
    """Training was asked to stop, and has handed its state to `on_save`."""


def fit(
    model: nn.Module,
    method: Method,
    train: AnyData,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    optimizer: str | torch.optim.Optimizer = "adam",
    augment: Augment | None = None,
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
    ``seconds``, ``images_per_second``, and what `validate` finds. ``pandas.DataFrame(history)`` is its table.

    Data order, augmentation and random starts depend on the seed alone. The model (dropout) has torch's global
    generator to itself. Under ``torchrun``, with a process group, the processes share every batch, and all end with the
    same network.

    Args:
        model: any network from samples to logits, in whatever form, or one with a loss of your own, which is minimised
            (see `fastadv.adapt` for both); it is trained on the device it is on, and left in train mode.
        method: what is minimised, one of `fastadv.trainers`.
        train: a data set with random access (a `Dataset`, or one of PyTorch or Hugging Face; see
            `fastadv.data.samples_of`), tensors (x, y), or a DataLoader of (x, y) or (x, y, index). A loader has its own
            order: `resume` gives the same bits where torch's generator makes that order the same again.
        bounds: the least and the greatest value of samples that come as tensors or from a loader.
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
        ValueError: for settings out of range, a method that needs classes where the model has a loss of its own,
            `patience` or `collapse` with nothing to watch, a `validate` whose figures have taken names, or a `resume`
            of another network or optimiser.
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
    if how.awp and not method.repeatable:
        raise ValueError(f"awp computes the loss twice, which {type(method).__name__} does not allow: set awp to 0")
    if how.sync_batch_norm and method.per_sample:
        raise ValueError(
            f"sync_batch_norm needs the same passes of all processes, and those of {type(method).__name__} depend on "
            "its samples: leave it out"
        )
    for name in ("graphs", "sync_batch_norm"):
        if getattr(how, name) and device.type != "cuda":
            raise ValueError(f"{name} works on GPUs only: leave it out")
    if how.sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place, but for a model that is a single layer
    source = source_of(train, how.batch_size, bounds, device, bool(method.per_sample), own_loss(model))
    source = Replayed(source, method.replays) if method.replays > 1 else source
    descent = how.make_optimizer(model) if isinstance(optimizer, str) else optimizer
    memory_format = resume.get("memory_format", "preserve") if resume else how.memory_format
    run = _Run(model, method, descent, how, device, source, memory_format)
    method.begin(source, how.seed, how.epochs)
    if resume:
        run.load(resume)

    def save(best: bool = False) -> None:
        run.agree()
        run.check()
        if on_save and rank() == 0:
            on_save({**run.state(), "best": best})

    what, planned = type(method).__name__, 0 if how.minutes else how.epochs
    with ExitStack() as stack:
        tick = stack.enter_context(bar(what, "steps", planned)) if progress and rank() == 0 else None
        # Figures may differ between processes in their last bits, and all have to stop where one does.
        over = run.over()
        while (
            not over and (how.minutes or len(run.history) < how.epochs) and not _any(_enough(run.history, how), device)
        ):
            epoch, started = len(run.history), time.perf_counter() - run.seconds
            for part, size in source.epoch(epoch, how.seed, skip=run.step):
                stats = run.train(part, size, source.batches, augment)
                run.seconds = time.perf_counter() - started
                if on_step or tick:
                    done = epoch * source.batches + run.step
                    in_all = done * 60 * how.minutes / run.spent if how.minutes else how.epochs * source.batches
                    speed = {"lr": descent.param_groups[0]["lr"], "images_per_second": run.step * size / run.seconds}
                    for each in filter(None, (on_step, tick)):
                        each(done, max(done, round(in_all)), stats | speed | {"epoch": epoch + 1})
                if run.step % _LOOK == 0:
                    run.check()
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
            row = run.end_epoch(started)
            if validate:
                row |= _checked(validate(run.network_now()), row)
                run.network.train()
            method.end_epoch(row)
            run.history.append(row)
            if rank() == 0:
                shown = figures({name: value for name, value in row.items() if name != "epoch"})
                _log.info(f"{what}: epoch {row['epoch']}{f'/{planned}' if planned else ''}: {shown}")
            if on_epoch and rank() == 0:
                on_epoch(row)
            save(best=bool(validate) and _best(run.history) == len(run.history) - 1)
    run.finish()
    return run.history


class _Run:
    """Everything of a training that changes, and so is saved."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        descent: torch.optim.Optimizer,
        how: Settings,
        device: torch.device,
        source: Source,
        memory_format: str,
    ):
        self.model, self.method, self.descent, self.how, self.device = model, method, descent, how, device
        self.rates = [group["lr"] / how.lr if how.lr else 0.0 for group in descent.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=how.precision == "float16")
        average = functools.partial(_averaged, how.ema)
        self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if how.ema else None
        self.history: list[Row] = []
        self.totals: Stats = {}  # of the epoch that has begun
        self.step, self.seconds = 0, 0.0  # of it, too
        self.samples = len(source)
        self.seen = torch.zeros(self.samples, dtype=torch.bool, device=device)
        dtype = PRECISIONS[how.precision]
        network = torch.compile(model) if how.compiled else model
        if dtype:
            # Next to x the divergence from the prediction at x is less than what such a prediction is rounded by.
            loss = getattr(getattr(method, "attack", None), "loss", None)
            network = Autocast(network, dtype, attacks=loss not in ("kl", "spat"))
        around = model.around if own_loss(model) else lambda network: network
        if memory_format == "auto":
            gradients = how.epochs * self.samples * (1 + getattr(getattr(method, "attack", None), "steps", 0))
            of = source.sample_shape, torch.get_default_dtype(), device, gradients
            memory_format = shared(lambda: chosen_format(around(network), *of))
        self.memory_format = memory_format
        if memory_format == "channels_last" and device.type == "cuda":
            model.to(memory_format=torch.channels_last)
        if how.graphs:
            network = Tuned(network, graphs=True)
        self.network = around(wrapped(network, device))
        self.network.train()

    def train(self, part: Part, size: int, batches: int, augment: Augment | None) -> Stats:
        """One step, on this process's part of a batch of so many samples."""
        how, epoch = self.how, len(self.history)
        x, y, index = part
        x = laid_out(x, self.memory_format)
        ids = index + epoch * self.samples
        self.seen[index] = True
        batch = Batch(augment(x, ids, how.seed) if augment else x, y, index, ids, epoch, size=size, step=self.step)
        for group, rate in zip(self.descent.param_groups, self.rates, strict=True):
            group["lr"] = rate * how.lr_at(epoch + self.step / batches)
        self.descent.zero_grad(set_to_none=True)
        if how.awp:
            batch.made = []
            with perturbed(self.model, self.method.loss(self.network, batch) * self.share(batch, size), how.awp):
                loss = self.backward(batch, size)
        else:
            loss = self.backward(batch, size)
        if how.clip:
            self.scaler.unscale_(self.descent)
            trained = [p for group in self.descent.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, how.clip)
        self.scaler.step(self.descent)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1
        stats = {"loss": loss.detach(), **{name: value.detach() for name, value in batch.stats.items()}}
        for name, value in {**stats, _COUNT: torch.ones((), device=loss.device)}.items():
            self.totals[name] = self.totals.get(name, 0) + value * len(y)
        return stats

    def backward(self, batch: Batch, size: int) -> Tensor:
        loss = self.method.loss(self.network, batch)
        share = self.share(batch, size)
        self.scaler.scale(loss * share if share != 1 else loss).backward()
        return loss

    @staticmethod
    def share(batch: Batch, size: int) -> float:
        """What this process's loss counts, since gradients are averaged and parts may differ by a sample."""
        return len(batch.y) * processes() / size

    def agree(self) -> None:
        """Makes what all processes have to know the same in all; the first has the sums over the epoch."""
        if processes() > 1:
            agree(self.model)
            if self.average:
                agree(self.average)
            agree_on_samples(self.method, self.seen)
            sums = {name: total(value) for name, value in self.totals.items()}
            self.totals = sums if rank() == 0 else {name: torch.zeros_like(value) for name, value in sums.items()}

    def check(self) -> None:
        """Raises FloatingPointError where a loss of this epoch was NaN or infinite, or the last step led there."""
        loss = float(self.totals.get("loss", 0.0))
        trained = [p.detach() for p in self.model.parameters() if p.requires_grad]
        if not math.isfinite(loss):
            what = f"the loss became {loss}"
        elif trained and not torch.stack([p.isfinite().all() for p in trained]).all():
            what = "weights became NaN or infinite"
        else:
            return
        raise FloatingPointError(
            f"{what} in epoch {len(self.history) + (self.step > 0)}; try a smaller lr than {self.how.lr:g}, or clip "
            "gradients"
        )

    @property
    def spent(self) -> float:
        """The seconds that training has taken."""
        return sum(row["seconds"] for row in self.history) + self.seconds

    def over(self) -> bool:
        """Whether there is a budget of time that is spent."""
        return 0 < 60 * self.how.minutes <= self.spent

    def end_epoch(self, started: float) -> Row:
        """The row of the epoch that has ended; its means are over the samples seen."""
        sums = {name: float(total(value)) for name, value in self.totals.items()}  # waits for the device
        self.check()
        count = sums.pop(_COUNT)  # not all samples, where a loader leaves out some
        means = {name: value / count for name, value in sums.items()}
        seconds = time.perf_counter() - started
        row = {"epoch": len(self.history) + 1, **means, "lr": self.descent.param_groups[0]["lr"]}
        row |= {"seconds": seconds, "images_per_second": count / seconds}
        self.totals, self.step, self.seconds = {}, 0, 0.0
        return row

    def network_now(self) -> nn.Module:
        """The network to be validated and kept."""
        return self.average.module if self.average else self.model

    def finish(self) -> None:
        """Leaves that network in the model, and the optimiser with the learning rates that it came with."""
        for group, rate in zip(self.descent.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.how.lr
        if self.average:
            self.model.load_state_dict(self.average.module.state_dict())
        self.model.train()

    def state(self) -> State:
        """All that the rest of training depends on, as a copy."""
        kept = {name: getattr(self.method, name) for name in self.method.kept}
        state = {
            "state": _copied(self.network_now().state_dict()),
            "kept": _on_cpu(kept),
            "optimizer": _on_cpu(self.descent.state_dict()),
            "scaler": self.scaler.state_dict(),
            "epoch": len(self.history),
            "history": [dict(row) for row in self.history],
            "step": self.step,
            "memory_format": self.memory_format,
            "seconds": self.seconds,
            "totals": _copied(self.totals),
            "generator": torch.get_rng_state(),
        }
        if self.average:
            state |= {"trained": _copied(self.model.state_dict()), "averaged": int(self.average.n_averaged)}
        if self.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes back to where `state` was made."""
        try:
            for name in self.method.kept:
                now, value = getattr(self.method, name), state["kept"][name]
                if isinstance(now, Tensor):
                    if now.shape != value.shape:
                        raise ValueError(f"{name} was {tuple(value.shape)}, and would be {tuple(now.shape)}")
                    value = value.to(now)
                setattr(self.method, name, value)
            if self.average:
                self.average.module.load_state_dict(state["state"])
                self.average.n_averaged.fill_(state["averaged"])
            self.model.load_state_dict(state["trained" if self.average else "state"])
            now, before = (each["param_groups"] for each in (self.descent.state_dict(), state["optimizer"]))
            if [group | {"lr": 0} for group in now] != [group | {"lr": 0} for group in before]:
                raise ValueError("its optimiser had other settings")
            self.descent.load_state_dict(copy.deepcopy(state["optimizer"]))
            self.scaler.load_state_dict(state["scaler"])
            self.history = [dict(row) for row in state["history"]]
            self.step, self.seconds = state["step"], state["seconds"]
            first = float(rank() == 0)  # has the sums
            self.totals = {name: value.to(self.device) * first for name, value in state["totals"].items()}
            torch.set_rng_state(state["generator"])
            if self.device.type == "cuda" and "cuda_generator" in state:  # a run may go on on another device
                torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                "cannot resume from this state, which is incomplete or from another training: "
                f"{type(error).__name__} {error}"
            ) from None


def _averaged(decay: float, averages: list[Tensor], now: list[Tensor], _: Tensor) -> None:
    """Moves averages towards what is now; of whole numbers, as counts and indices are, there is no average."""
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, now, 1 - decay)
    else:
        torch._foreach_copy_(averages, now)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _copy(value) for name, value in tensors.items()}


def _on_cpu(tree: Any) -> Any:
    """A copy of nested dicts and lists, with tensors on the CPU."""
    if isinstance(tree, Tensor):
        return _copy(tree)
    if isinstance(tree, dict):
        return {key: _on_cpu(value) for key, value in tree.items()}
    return [_on_cpu(value) for value in tree] if isinstance(tree, list) else copy.deepcopy(tree)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _any(here: bool, device: torch.device) -> bool:
    """Whether any process says so."""
    return bool(total(torch.tensor(int(here), device=device)) > 0) if processes() > 1 else here


def _checked(found: dict[str, float], row: Row) -> dict[str, float]:
    """What `validate` gave. Raises ValueError where that has the name of a figure in `row`, or nothing in it."""
    taken = [name for name in found if name in row]
    if taken or not found:
        raise ValueError(f"validate must give figures with names of their own, got {taken[0] if taken else 'none'!r}")
    return found


def _watched(history: list[Row]) -> list[float]:
    """The first figure of `validate`, by epoch; NaN is below all others."""
    names = list(history[0])
    name = names[names.index("images_per_second") + 1]  # after the loop's own
    return [-math.inf if math.isnan(row[name]) else row[name] for row in history]


def _best(history: list[Row]) -> int:
    """Which epoch has the highest, from 0."""
    figures = _watched(history)
    return figures.index(max(figures))


def _enough(history: list[Row], how: Settings) -> bool:
    """Whether the watched figure has not risen for `patience` epochs, or has fallen below a share of its best."""
    if not history or not (how.patience or how.collapse):
        return False
    figures = _watched(history)
    stale = bool(how.patience) and len(figures) - 1 - _best(history) >= how.patience
    return stale or figures[-1] < how.collapse * max(figures)
