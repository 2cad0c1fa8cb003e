"""Tables and figures of runs."""

from ._plots import plot_aa_curves, plot_examples, plot_history
from ._table import Entry, rows, table, write_table

__all__ = ["Entry", "plot_aa_curves", "plot_examples", "plot_history", "rows", "table", "write_table"]
