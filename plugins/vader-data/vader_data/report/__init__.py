"""The report: one page that shows what was kept, and why the rest was not."""

from __future__ import annotations

from .page import write_report

__all__ = ["write_report"]
