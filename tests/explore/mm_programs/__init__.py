"""Programs that use the memory management code from two CPUs, each a part of it."""

from __future__ import annotations

from concmem.workloads import WORKLOADS
from concmem.workloads.hunting import hunting_program

from . import leaks, pages, processes, services, slab, slab_interrupts, virtual
from .base import PROGRAMS

__all__ = [
    "PROGRAMS",
    "leaks",
    "pages",
    "processes",
    "services",
    "slab",
    "slab_interrupts",
    "virtual",
]

for workload in WORKLOADS:
    PROGRAMS[workload] = hunting_program(workload, 4)
