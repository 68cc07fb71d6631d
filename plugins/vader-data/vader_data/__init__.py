"""From raw footage to a training table: cut, score, caption, filter, dedup, export, report."""

__version__ = "0.1.0"
