"""``fastadv evaluate``."""

from .. import report
from ..info import environment
from ..runs import Run, load_checkpoint
from ._networks import load_network
from ._settings import Data, Testing, as_yaml
from ._terminal import console
from ._train import conclude


def evaluate_checkpoint(
    checkpoint: str, source: Data, testing: Testing, out: str | None, transfer_from: str | None
) -> None:
    """``fastadv evaluate CHECKPOINT``, on the data it was trained with unless others are named."""
    source.data = source.data or load_checkpoint(checkpoint)["data"]
    test = testing.samples(source)
    model, saved = load_network(checkpoint, test)
    other = load_network(transfer_from, test)[0] if transfer_from else None
    config = as_yaml(source, testing, checkpoint=checkpoint, transfer_from=transfer_from)
    run = Run(out, config, environment()) if out else None
    name = saved["method"]
    entry = report.Entry(name, testing.evaluate(model, test, name, other))
    if run:
        conclude(run.folder, [entry], [model], test, testing.theta)
    else:
        console.print(report.table([entry], testing.theta))
