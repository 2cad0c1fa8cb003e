"""Published experiments, run again: each module has a `reproduce` that writes its tables and figures to a folder."""

from . import propositions, two_circles

__all__ = ["propositions", "two_circles"]
