"""Results as tables of pandas, which need not be installed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


def frame(columns: Mapping[str, Sequence[Any]]) -> "pandas.DataFrame":
    """The table of these columns. Raises ImportError without pandas."""
    try:
        import pandas
    except ImportError:
        raise ImportError("to_dataframe needs pandas. To fix: pip install pandas") from None
    return pandas.DataFrame(dict(columns))


def frame_of_rows(rows: Sequence[Any]) -> "pandas.DataFrame":
    """The table of named tuples of one kind, at least one. Raises ImportError without pandas."""
    return frame({name: [getattr(row, name) for row in rows] for name in rows[0]._fields})
