"""What a run found, in words, tables and charts: one table for the terminal, one page that needs nothing else."""

from __future__ import annotations

from lilliput.report.compared import summary
from lilliput.report.inside import answers, inside
from lilliput.report.landscape import draw
from lilliput.report.page import add, render
from lilliput.report.verdict import verdict

__all__ = ["add", "answers", "draw", "inside", "render", "summary", "verdict"]
