"""
A failure, for people: as a table, as a page with a slider, as a file for trace viewers, and in words.

Everything here works on plain data, a `Failure` with its `Trace`; nothing is run.
"""

from concmem.explore.render.page import render_lanes_fragment, render_page
from concmem.explore.render.summary import summarize
from concmem.explore.render.table import render_failure, render_table

__all__ = ["render_failure", "render_lanes_fragment", "render_page", "render_table", "summarize"]
