"""From raw footage to a training table: cut, score, caption, filter, dedup, export, report."""

from importlib.metadata import version

__version__ = version("vader-data")
