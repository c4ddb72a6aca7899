"""
04609ccc40c4 ``kmemleak: Reduce the false positives by checking for modified objects`` (2009).

A scan does not see all memory at one moment. A pointer that is moved from a place that is still to be scanned to one
that was scanned already is in neither.

    CPU 0 (scans)                           CPU 1
    scans the first place: no pointer
                                            moves the pointer there, from the second place
    scans the second place: no pointer
    reports the block                       ... which is in use

Symptom: a leak that is none. Fix: what has changed since the last scan is not reported: who moves a block mostly
writes to it.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.mm.debug.kmemleak_object import OBJECT_ALLOCATED, KmemleakObject


class _NoChecksum(Kmemleak):
    """Reports also what has changed."""

    def _gray_if_modified(self, obj: KmemleakObject) -> None:
        with obj.lock:
            if obj.flags & OBJECT_ALLOCATED:
                self._update_checksum(obj)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 0 scans, CPU 1 moves the only pointer to a block from another block to the data, and writes to it."""
    m = Machine(2, memory="4M", runtime=rt, kmemleak=True, classes=classes)
    data = m.data(2)
    blocks: list[int] = []

    def prepare() -> None:
        blocks.extend(m.kzalloc(64) or 0 for _ in range(2))
        holder, block = blocks
        data[0] = holder
        m.memory.write_u64(holder, block)
        m.memory.write(block, b"x" * 64)

    m.run([prepare])
    lock = rt.spinlock("clock")
    queue = rt.waitqueue(lock, "clock")

    def grow_old() -> None:
        with lock:
            queue.wait(6.0)  # the detector does not report what is younger

    m.run([grow_old])

    def move() -> None:
        rt.cond_resched()
        holder, block = blocks
        m.memory.write_u64(block, 1)
        data[1] = block
        m.memory.write_u64(holder, 0)

    def scan() -> None:
        assert not m.kmemleak.scan(), m.kmemleak.report()

    return Program([scan, move], verify=m.verify)


BUG = Bug(
    name="kmemleak-no-checksum",
    number="B80",
    title="the leak detector reports a block whose pointer is being moved",
    fixed_by="04609ccc40c4 kmemleak: Reduce the false positives by checking for modified objects (2009)",
    subsystem="kmemleak",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={Kmemleak: _NoChecksum},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:12.0",
    executions={"pb": 30, "pct": 40},  # pct: seeds 0 and 1 need 4 and 1
    note="a false report: nothing is damaged",
)
