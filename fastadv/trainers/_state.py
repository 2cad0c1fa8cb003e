"""Everything of a training that changes, a step of it, and what is saved."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from .._processes import processes, rank, shared
from ..attacks import Tuned
from ..attacks._tuned import chosen_format, laid_out
from ..data import Augmentation, Mixed
from ..models.adapted import own_loss
from ._average import averaged, recalibrate
from ._awp import perturbed
from ._method import Batch, Method, Row, Stats
from ._parallel import agree, agreed, alone, total, wrapped
from ._precision import PRECISIONS, Autocast
from ._settings import Settings
from ._sharded import Sharded, remembered
from ._source import Part, Source

State = dict[str, Any]

_FAR_BELOW = 1e-30  # any weight that counts, as the denormal numbers of float16 are not
_COUNT = ""  # the name, beside the sums of an epoch's figures, of how many samples they are of


class Run:
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
        self.average = averaged(model, how.ema) if how.ema else None
        self.history: list[Row] = []
        self.totals: Stats = {}  # of the epoch that has begun
        self.step, self.seconds = 0, 0.0  # of it, too
        self.samples = len(source)
        self.seen = torch.zeros(self.samples, dtype=torch.bool, device=device)
        dtype = PRECISIONS[how.precision]
        # Next to x the divergence from the prediction at x is less than what such a prediction is rounded by.
        near = getattr(getattr(method, "attack", None), "loss", None) in ("kl", "spat")

        def computed(network: nn.Module) -> nn.Module:
            return Autocast(network, dtype, attacks=not near) if dtype else network

        network = computed(torch.compile(model) if how.compiled else model)
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
        self.sharded = Sharded(model, computed) if how.sharded and processes() > 1 else None
        if self.sharded:
            self.sharded.adopt(descent)
        self.network = around(self.sharded or wrapped(network, device))
        self.network.train()

    def train(self, part: Part, size: int, batches: int, augment: Augmentation | None) -> Stats:
        """One step, on this process's part of a batch of so many samples."""
        how, epoch = self.how, len(self.history)
        x, y, index = part
        x = laid_out(x, self.memory_format)
        ids = index + epoch * self.samples
        self.seen[index] = True
        x, mix = augment(x, ids, how.seed) if augment else x, ()
        if isinstance(x, Mixed):
            self.method.check_mixed(self.model)
            (y, *mix), x = x.labels(y), x.x
        parts = min(how.accumulate, size // processes()) or 1  # as many in all processes, and none is empty
        columns = (column.tensor_split(parts) for column in (x, y, index, ids, *mix))
        batches_of = [
            Batch(*each[:4], epoch, size=size, step=self.step, mix=each[4:] or None)
            for each in zip(*columns, strict=True)
        ]
        for group, rate in zip(self.descent.param_groups, self.rates, strict=True):
            group["lr"] = rate * how.lr_at(epoch + self.step / batches)
        self.descent.zero_grad(set_to_none=True)
        self.gather()
        if how.awp:
            for each in batches_of:
                each.made = []
            losses = (self.method.loss(self.network, each) * self.share(each) for each in batches_of)
            with perturbed(self.model, losses, how.awp):
                stats = self.backward(batches_of)
        else:
            stats = self.backward(batches_of)
        if how.clip:
            self.scaler.unscale_(self.descent)
            trained = [p for group in self.descent.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, how.clip)
        self.scaler.step(self.descent)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1
        for name, value in {**stats, _COUNT: torch.ones((), device=self.device)}.items():
            self.totals[name] = self.totals.get(name, 0) + value * len(y)
        return stats

    def recalibrate(self, source: Source, augment: Augmentation | None) -> None:
        """Computes batch norm's statistics of the average from the first batches of the epoch that has ended."""
        if not (self.average and self.how.ema_batch_norm):
            return
        epoch, seed, replays = len(self.history), self.how.seed, self.method.replays
        steps = self.how.ema_batch_norm * replays

        def seen() -> Iterator[Tensor]:
            for (x, _, index), _ in islice(source.epoch(epoch, seed, 0), 0, steps, replays):
                made = augment(x, index + epoch * self.samples, seed) if augment else x
                yield laid_out(made.x if isinstance(made, Mixed) else made, self.memory_format)

        recalibrate(self.average.module, seen())
        if processes() > 1:  # each has seen its part
            agree(self.average)

    def backward(self, parts: list[Batch]) -> Stats:
        """The gradients of a batch, all `parts` of it that this process has; means over them of what they report."""
        stats: Stats = {}
        for batch in parts:
            with nullcontext() if batch is parts[-1] else alone(self.network):
                loss, share = self.method.loss(self.network, batch), self.share(batch)
                self.scaler.scale(loss * share if share != 1 else loss).backward()
            weight = len(batch.y) / sum(len(each.y) for each in parts)
            for name, value in {"loss": loss, **batch.stats}.items():
                value = value.detach() if weight == 1 else value.detach() * weight
                stats[name] = stats[name] + value if name in stats else value
        return stats

    @staticmethod
    def share(batch: Batch) -> float:
        """What this loss counts, since gradients of processes are averaged and those of parts are summed up."""
        return len(batch.y) * processes() / batch.size

    def gather(self) -> None:
        """Makes the weights of the model those that are trained, where these are in shards."""
        if self.sharded:
            self.sharded.gather()

    def agree(self) -> None:
        """Makes what all processes have to know the same in all; the first has the sums over the epoch."""
        if processes() > 1:
            agree(self.model)
            if self.average:
                agree(self.average)
            of_samples = {name: getattr(self.method, name) for name in self.method.per_sample}
            for name, value in agreed(of_samples, self.seen).items():
                setattr(self.method, name, value)
            sums = {name: total(value) for name, value in self.totals.items()}
            self.totals = sums if rank() == 0 else {name: torch.zeros_like(value) for name, value in sums.items()}

    def check(self) -> None:
        """Raises FloatingPointError where a loss of this epoch was NaN or infinite, or the last step led there."""
        self.gather()
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

    @torch.no_grad()
    def flush(self) -> None:
        """Makes 0 of denormal numbers, below 1.2e-38, in weights, their average, and what the optimiser remembers.

        Adam with weight decay leaves such weights where there is no gradient, and CPUs are slow with them.
        """
        trained = [p for group in self.descent.param_groups for p in group["params"]]
        remembered = [value for one in self.descent.state.values() for value in one.values()]
        average = [*self.average.module.parameters()] if self.average else []
        for each in filter(torch.is_tensor, (*trained, *remembered, *average)):
            values = each.to_local() if hasattr(each, "to_local") else each  # of shards
            if values.is_floating_point() and (least := torch.finfo(values.dtype).tiny) < _FAR_BELOW:
                values.masked_fill_(values.abs() < least, 0)

    @property
    def spent(self) -> float:
        """The seconds that training has taken."""
        return sum(row["seconds"] for row in self.history) + self.seconds

    def over(self) -> bool:
        """Whether there is a budget of time that is spent."""
        return 0 < 60 * self.how.minutes <= self.spent

    def end_epoch(self, seconds: float, found: Row) -> Row:
        """The row of the epoch that has ended, which took so long: means over its samples, and what was `found`."""
        sums = {name: float(total(value)) for name, value in self.totals.items()}
        count = sums.pop(_COUNT)  # not all samples, where a loader leaves out some
        means = {name: value / count for name, value in sums.items()}
        row = {"epoch": len(self.history) + 1, **means, **found, "lr": self.descent.param_groups[0]["lr"]}
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

    def learned(self) -> State:
        """What training has made of network, optimiser, scaler, average and method, as a copy."""
        kept = {name: getattr(self.method, name) for name in self.method.kept}
        state = {
            "state": _copied(self.network_now().state_dict()),
            "kept": _on_cpu(kept),
            "optimizer": _on_cpu(self.descent.state_dict()),
            "scaler": self.scaler.state_dict(),
        }
        if self.average:
            state |= {"trained": _copied(self.model.state_dict()), "averaged": int(self.average.n_averaged)}
        return state

    def learn(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `learned` gave."""
        for name in self.method.kept:
            now, value = getattr(self.method, name), state["kept"][name]
            if isinstance(now, Tensor) and isinstance(value, Tensor):
                if now.shape != value.shape:
                    raise ValueError(f"{name} was {tuple(value.shape)}, and would be {tuple(now.shape)}")
                value = value.to(now)
            setattr(self.method, name, copy.deepcopy(value))
        if self.average:
            self.average.module.load_state_dict(state["state"])
            self.average.n_averaged.fill_(state["averaged"])
        self.model.load_state_dict(state["trained" if self.average else "state"])
        now, before = (each["param_groups"] for each in (self.descent.state_dict(), state["optimizer"]))
        free = {"lr": 0, "fused": None}  # the schedule sets the one, and shards the other
        if [group | free for group in now] != [group | free for group in before]:
            raise ValueError("its optimiser had other settings")
        remembers = copy.deepcopy(state["optimizer"]["state"])
        if self.sharded:
            self.sharded.scatter()
            remembers = remembered(remembers, self.descent)
        self.descent.load_state_dict({"state": remembers, "param_groups": now})
        self.scaler.load_state_dict(state["scaler"])

    def state(self) -> State:
        """All that the rest of training depends on, as a copy."""
        state = {
            **self.learned(),
            "epoch": len(self.history),
            "history": [dict(row) for row in self.history],
            "step": self.step,
            "memory_format": self.memory_format,
            "seconds": self.seconds,
            "totals": _copied(self.totals),
            "generator": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes back to where `state` was made."""
        try:
            self.learn(state)
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
    value = value.full_tensor() if hasattr(value, "full_tensor") else value  # of shards
    return value.detach().to("cpu", copy=True)
