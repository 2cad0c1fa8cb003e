"""``fastadv evaluate``."""

from .. import report
from ..info import environment
from ..runs import Run
from ._networks import data_of, load_model
from ._settings import Data, Testing, as_yaml
from ._terminal import console
from ._train import conclude


def evaluate_checkpoint(
    checkpoint: str, source: Data, testing: Testing, out: str | None, transfer_from: str | None
) -> None:
    """``fastadv evaluate MODEL``, on the data it was trained with unless others are named."""
    source.data = source.data or data_of(checkpoint)
    test = testing.samples(source)
    model, name = load_model(checkpoint, test)
    other = load_model(transfer_from, test)[0] if transfer_from else None
    config = as_yaml(source, testing, checkpoint=checkpoint, transfer_from=transfer_from)
    run = Run(out, config, environment()) if out else None
    entry = report.Entry(name, testing.evaluate(model, test, name, other))
    console.print(report.attacks_table([entry]))
    if run:
        conclude(run.folder, [entry], [model], test, testing.theta)
    else:
        console.print(report.table([entry], testing.theta))
