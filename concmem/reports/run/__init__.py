"""A run as plain data: what ``concmem stress --json`` writes, and everything that reports are made of."""

from __future__ import annotations

from concmem.reports.run.rows import plain
from concmem.reports.run.run import KIND, SCHEMA, Run, missing, parse_run, read_run

__all__ = ["KIND", "SCHEMA", "Run", "missing", "parse_run", "plain", "read_run"]
