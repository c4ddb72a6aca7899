"""What the tests of processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem.errors import SegmentationFault
from concmem.machine import Machine
from concmem.mm.mman import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, STACK_TOP
from concmem.mm.process import Process

PAGE = 4096
ANON = MAP_PRIVATE | MAP_ANONYMOUS
SHARED = MAP_SHARED | MAP_ANONYMOUS
FIXED = ANON | MAP_FIXED
STACK_START = STACK_TOP - 33 * PAGE


def ranges(p: Process) -> list[tuple[int, int]]:
    """Start and end of every VMA but the stack of a new process."""
    return [(v.vm_start, v.vm_end) for v in p.mm.vmas if v.vm_end != STACK_TOP]


def committed(m: Machine) -> int:
    """Pages promised."""
    return m.processes.context.commit.vm_committed_as.sum()


def segfaults(fn: Callable[..., Any], *args: Any) -> str:
    """The message of the segmentation fault that *fn* gets."""
    with pytest.raises(SegmentationFault) as caught:
        fn(*args)
    return str(caught.value)


def free_pages(m: Machine) -> int:
    """Free pages of a quiet machine, page sets included."""
    return sum(
        zone.nr_free_pages_exact() + sum(pcp.count for pcp in zone.pageset.all())
        for zone in m.zones
    )
