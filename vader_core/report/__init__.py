"""Web pages of runs, batches and comparisons: one file, readable without a network and without scripts."""

from vader_core.report.batch import batch_body, write_batch_page
from vader_core.report.curves import breakable
from vader_core.report.numbers import number
from vader_core.report.page import resource, run_body, write_report

__all__ = [
    "batch_body",
    "breakable",
    "number",
    "resource",
    "run_body",
    "write_batch_page",
    "write_report",
]
