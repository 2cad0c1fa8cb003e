"""``fastadv transfer``."""

from pathlib import Path

from .. import report
from ..evaluation import transfer
from ..info import environment
from ..runs import Run
from ._networks import data_of, load_model
from ._settings import Data, Testing, as_yaml
from ._terminal import console, progress, say


def transfer_between(given: list[str], source: Data, testing: Testing, out: str) -> None:
    """``fastadv transfer MODEL MODEL ...``, on the data that the first was trained with unless others are named."""
    source.data = source.data or data_of(given[0])
    if not source.data:
        raise ValueError(f"what data {given[0]} is for is not known: name it with --data")
    test = testing.samples(source)
    if len(given) < 2:
        raise ValueError(f"transfer is between models: give at least two, got {len(given)}")
    short = [Path(name).name for name in given]
    names = short if len(set(short)) == len(given) else given
    models = {name: load_model(each, test)[0] for name, each in zip(names, given, strict=True)}
    if len(models) < len(given):
        raise ValueError(f"transfer is between models that differ: {', '.join(given)} has one twice")
    run = Run(out, as_yaml(source, testing, models=given), environment())
    folder = run.folder
    with progress("transferring", "batches") as step:
        how = {"label": testing.label, "batch_size": testing.batch_size(test)}
        rows = transfer(models, test, testing.chosen(), **how, on_step=step)
    title = f"accuracy on {len(test)} test samples of {test.name}"
    console.print(report.records_table(rows, title))
    written = report.write_records(rows, folder / "transfer.csv")
    say(f"written: {written}, {report.plot_transfer(rows, title, folder / 'transfer.png')}")
