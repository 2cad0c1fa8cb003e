"""``fastadv transfer``."""

from .. import report
from ..evaluation import transfer
from ..info import environment
from ..runs import Run, names_apart
from ._networks import load_model, trained_on
from ._plan import plan_evaluation
from ._settings import Data, Testing, as_yaml
from ._terminal import console, drawn, progress, say


def transfer_between(given: list[str], source: Data, testing: Testing, out: str) -> None:
    """``fastadv transfer MODEL MODEL ...``, on the data that the first was trained with unless others are named.

    At the budget that all were trained at, where there is one.
    """
    if len(given) < 2:
        raise ValueError(f"transfer is between models: give at least two, got {len(given)}")
    trained = [trained_on(each) for each in given]
    source = source.named(trained[0], given[0])
    budgets = {about.get("eps") for about in trained}
    plan = plan_evaluation(testing, source, budgets.pop() if len(budgets) == 1 else None)
    models = {name: load_model(each, plan.test)[0] for name, each in zip(names_apart(given), given, strict=True)}
    run = Run(out, as_yaml(source, plan.testing, models=given), environment())
    folder = run.folder
    say(plan.budgets)
    with progress("transferring", "batches") as step:
        how = {"label": testing.label, "batch_size": plan.batch_size}
        rows = transfer(models, plan.test, plan.attacks, **how, on_step=step)
    title = f"accuracy on {plan.samples}"
    console.print(report.records_table(rows, title))
    written = [report.write_records(rows, folder / "transfer.csv")]
    written += drawn(report.plot_transfer, rows, title, folder / "transfer.png")
    say("written: " + ", ".join(map(str, written)))
