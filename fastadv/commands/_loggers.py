"""Where metrics go beside metrics.csv and metrics.jsonl."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    """A run of the project fastadv at Weights & Biases, with files in the run folder; WANDB_MODE=offline stays here."""
    try:
        import wandb
    except ImportError:
        raise ImportError("log wandb needs it: pip install 'fastadv[wandb]'") from None
    run = wandb.init(project="fastadv", name=folder.name, dir=folder, config=dict(config), resume="allow")

    def log(row: Mapping[str, float]) -> None:
        run.log(dict(row), step=int(row["epoch"]))

    return log


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], int], Log]] = {"tensorboard": tensorboard, "wandb": wandb}
