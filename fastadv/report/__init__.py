"""Tables and figures of runs."""

from ._plots import plot_aa_curves, plot_examples, plot_history
from ._recipes import figures_table, plot_variants, read_figures, records_table, write_figures, write_markdown
from ._table import Entry, rows, table, write_table

__all__ = [
    "Entry",
    "figures_table",
    "plot_aa_curves",
    "plot_examples",
    "plot_history",
    "plot_variants",
    "read_figures",
    "records_table",
    "rows",
    "table",
    "write_figures",
    "write_markdown",
    "write_table",
]
