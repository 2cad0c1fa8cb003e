"""Tables and figures of runs.

Functions ``plot_*`` draw into `path`, as PNG or SVG by its suffix, and return it; ``write_*`` write the other files.
Both write a whole file or nothing, and raise OSError where they cannot. Functions ``*_table`` are for a terminal. Sizes
of perturbations are RMS norms, as shares of the inputs' range.
"""

from ._attackbench import NORM_NAMES, bench_page, write_bench
from ._bootstrap import paired_bootstrap
from ._certified import Band, CertifiedRow, certified_rows, plot_band, plot_smoothed
from ._corruptions import corruptions_table, plot_corruptions, write_corruptions
from ._crosscheck import CrossRow, crosscheck_rows, write_crosscheck
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
    measured_text,
    plot_curves,
    plot_histograms,
    plot_landings,
    plot_variant_gradients,
    plot_variants,
    printed_text,
    read_figures,
    records_table,
    write_records,
)
from ._seeds import runs_table, write_seeds
from ._sweep import StepsRow, SweepRow, plot_sweep, steps_rows, sweep_rows
from ._table import Entry, attack_rows, attacks_table, findings, outcomes, rows, table, write_table
from ._transfer import plot_transfer

__all__ = [
    "NORM_NAMES",
    "Band",
    "CertifiedRow",
    "CrossRow",
    "Entry",
    "RunFolder",
    "StepsRow",
    "SweepRow",
    "attack_rows",
    "attacks_table",
    "bench_page",
    "certified_rows",
    "corruptions_table",
    "crosscheck_rows",
    "figure_text",
    "figures_csv",
    "figures_table",
    "findings",
    "markdown",
    "measured_text",
    "outcomes",
    "paired_bootstrap",
    "plot_aa_curves",
    "plot_band",
    "plot_confusion",
    "plot_corruptions",
    "plot_curves",
    "plot_examples",
    "plot_features",
    "plot_gradients",
    "plot_histograms",
    "plot_history",
    "plot_landings",
    "plot_margins",
    "plot_noise",
    "plot_smoothed",
    "plot_sweep",
    "plot_transfer",
    "plot_variant_gradients",
    "plot_variants",
    "printed_text",
    "read_figures",
    "read_run",
    "records_table",
    "rows",
    "runs_table",
    "steps_rows",
    "sweep_rows",
    "table",
    "write_bench",
    "write_confusion",
    "write_corruptions",
    "write_crosscheck",
    "write_evaluation",
    "write_records",
    "write_report",
    "write_samples",
    "write_seeds",
    "write_table",
]
