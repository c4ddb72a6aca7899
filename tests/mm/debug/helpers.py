"""What the tests of debugging share: a machine with debug caches, and what it has reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from concmem.machine import Machine
from concmem.mm.debug.report import DebugReport
from concmem.mm.kmem_cache import KmemCache

from ..slab_helpers import create


@contextmanager
def debug_cache(
    letters: str = "FZPU", size: int = 40, **options: Any
) -> Iterator[tuple[Machine, KmemCache]]:
    """A machine of two CPUs, and its only debug cache, ``thing``."""
    machine_options = {
        key: options.pop(key) for key in ("classes", "freelist_hardened") if key in options
    }
    with Machine(cpus=2, memory="32M", slab_debug=f"{letters},thing", **machine_options) as machine:
        yield machine, create(machine, "thing", size, **options)


def reasons(m: Machine) -> list[str]:
    """Why there were reports, the oldest first."""
    return [report.reason for report in m.debug_reports]


def the_report(m: Machine) -> DebugReport:
    """The only one there is."""
    (report,) = m.debug_reports
    return report


def fixes(m: Machine) -> list[str]:
    """What the log says was done about it, without times and the name of the cache."""
    return [
        line.partition("FIX ")[2].partition(": ")[2]
        for line in m.log.read().splitlines()
        if "FIX " in line
    ]
