"""Tables and figures of runs."""

from ._bootstrap import paired_bootstrap
from ._corruptions import corruptions_table, plot_corruptions, write_corruptions
from ._evaluation import write_evaluation, write_samples
from ._features import plot_features
from ._folders import RunFolder, read_run
from ._landing import plot_confusion, write_confusion
from ._page import write_report
from ._plots import plot_aa_curves, plot_examples, plot_gradients, plot_history, plot_margins, plot_noise
from ._recipes import (
    figure_text,
    figures_csv,
    figures_table,
    markdown,
    plot_variant_gradients,
    plot_variants,
    read_figures,
    records_table,
    write_records,
)
from ._seeds import runs_table, write_seeds
from ._sweep import StepsRow, SweepRow, plot_sweep, steps_rows, sweep_rows
from ._table import Entry, attack_rows, attacks_table, findings, outcomes, rows, table, write_table
from ._transfer import plot_transfer

__all__ = [
    "Entry",
    "RunFolder",
    "StepsRow",
    "SweepRow",
    "attack_rows",
    "attacks_table",
    "corruptions_table",
    "figure_text",
    "figures_csv",
    "figures_table",
    "findings",
    "markdown",
    "outcomes",
    "paired_bootstrap",
    "plot_aa_curves",
    "plot_confusion",
    "plot_corruptions",
    "plot_examples",
    "plot_features",
    "plot_gradients",
    "plot_history",
    "plot_margins",
    "plot_noise",
    "plot_sweep",
    "plot_transfer",
    "plot_variant_gradients",
    "plot_variants",
    "read_figures",
    "read_run",
    "records_table",
    "rows",
    "runs_table",
    "steps_rows",
    "sweep_rows",
    "table",
    "write_confusion",
    "write_corruptions",
    "write_evaluation",
    "write_records",
    "write_report",
    "write_samples",
    "write_seeds",
    "write_table",
]
