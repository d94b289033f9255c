"""What a run found, in words, tables and charts: one table for the terminal, one page that needs nothing else."""

from __future__ import annotations

from lilliput.report.compared import summary
from lilliput.report.landscape import draw
from lilliput.report.page import render
from lilliput.report.verdict import verdict

__all__ = ["draw", "render", "summary", "verdict"]
