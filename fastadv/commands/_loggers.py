"""Where metrics go beside metrics.csv and metrics.jsonl."""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..runs import write_text

Log = Callable[[Mapping[str, float]], None]


def tensorboard(folder: Path, config: Mapping[str, Any], first: int) -> Log:
    """Scalars in ``tensorboard/`` in the run folder, from epoch `first` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("log tensorboard needs it: pip install 'fastadv[tensorboard]'") from None
    writer = SummaryWriter(folder / "tensorboard", purge_step=first)

    def log(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    return log


def wandb(folder: Path, config: Mapping[str, Any], first: int) -> Log:
    """A run of the project fastadv at Weights & Biases, with files in the run folder; WANDB_MODE=offline stays here.

    A run that goes on is the same one there, by the name in ``wandb.txt``.
    """
    try:
        import wandb
    except ImportError:
        raise ImportError("log wandb needs it: pip install 'fastadv[wandb]'") from None
    if wandb.run:  # of the method before: init would go on with it
        wandb.finish()
    name = folder / "wandb.txt"
    if not name.is_file():
        write_text(name, uuid.uuid4().hex)
    about = {"name": folder.name, "dir": folder, "config": dict(config)}
    run = wandb.init(project="fastadv", id=name.read_text(), resume="allow", **about)

    def log(row: Mapping[str, float]) -> None:
        run.log(dict(row), step=int(row["epoch"]))

    return log


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], int], Log]] = {"tensorboard": tensorboard, "wandb": wandb}
