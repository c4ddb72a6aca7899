"""
Debugging and monitoring: what can be switched on, read, and concluded.

A ``/proc`` file is in the chart each time it is read; a stress run reads them when memory is fullest. A report
counts each of its parts when it is made of a run (:mod:`concmem.reports.report`).
"""

from __future__ import annotations

from typing import Final

from concmem.reports.flows.flow import Edge, Flow

DEBUGGING: Final = Flow(
    "debugging",
    "Debugging and monitoring",
    nodes={
        "A": "Memory debugging starts",
        "B": "Kind of debugging?",
        "C": "Enable SLUB_DEBUG",
        "D": "Enable DEBUG_KMEMLEAK",
        "E": "Enable PAGE_POISONING",
        "F": "Track slab allocations",
        "G": "Track objects not freed",
        "H": "Fill freed pages",
        "I": "/proc/slabinfo",
        "J": "/sys/kernel/debug/kmemleak",
        "K": "Detect illegal accesses",
        "L": "Performance monitoring",
        "M": "Memory usage statistics",
        "N": "/proc/meminfo",
        "O": "/proc/buddyinfo",
        "P": "/proc/pid/smaps",
        "Q": "System memory overview",
        "R": "Buddy system state",
        "S": "Process memory details",
        "T": "Analysis report",
        "U": "Slab cache analysis",
        "V": "Memory leak report",
        "W": "Access error report",
        "X": "Locating the problem",
        "Y": "Performance advice",
    },
    edges=(
        Edge("A", "B", "", "slub_debug_on + kmemleak_on + page_poisoning_on"),
        Edge("B", "C", "slab debugging", "slub_debug_on"),
        Edge("B", "D", "leak detection", "kmemleak_on"),
        Edge("B", "E", "page poisoning", "page_poisoning_on"),
        Edge("C", "F", "", "slub_debug_tracked"),
        Edge("D", "G", "", "kmemleak_tracked"),
        Edge("E", "H", "", "page_poisoned"),
        Edge("F", "I", "", "slub_debug.slabinfo"),
        Edge("G", "J", "", "kmemleak_read"),
        Edge("H", "K", "", "page_poison_checked"),
        # Statistics are made for the file that is read: L-M is the sum of the three.
        Edge("L", "M", "", "proc.meminfo + proc.buddyinfo + proc.smaps"),
        Edge("M", "N", "", "proc.meminfo"),
        Edge("M", "O", "", "proc.buddyinfo"),
        Edge("M", "P", "", "proc.smaps"),
        Edge("N", "Q", "", "report_memory"),
        Edge("O", "R", "", "report_buddies"),
        Edge("P", "S", "", "report_processes"),
        Edge("Q", "T", "", "report_memory"),
        Edge("R", "T", "", "report_buddies"),
        Edge("S", "T", "", "report_processes"),
        Edge("I", "U", "", "report_slabs"),
        Edge("J", "V", "", "report_leaks"),
        Edge("K", "W", "", "report_bad_accesses"),
        # A report names the place: to make it is to locate the problem.
        Edge("U", "X", "", "report_slabs"),
        Edge("V", "X", "", "report_leaks"),
        Edge("W", "X", "", "report_bad_accesses"),
        Edge("T", "Y", "", "report_advice"),
    ),
)
