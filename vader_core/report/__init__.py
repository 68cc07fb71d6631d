"""The run's web page: one file, readable without a network and without scripts."""

from vader_core.report.page import write_report

__all__ = ["write_report"]
