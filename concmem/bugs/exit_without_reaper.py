"""
27ae357fa82b ``mm, oom: fix concurrent munlock and oom reaper unmap, v3`` (2018).

A process that was chosen to die gives its memory back at once: the oom reaper unmaps it, with mmap_sem held for
reading. The process itself, when it comes to its end, unmapped everything without the semaphore, since nobody else
had any business there.

    CPU 0 (the process ends)                CPU 1 (oom reaper)
                                            holds mmap_sem for reading, goes through the VMAs
    takes the VMAs out, unmaps them
                                            unmaps what is not there any more

Symptom: munlock finds an empty entry, and follows it. Fix: exit runs the reaper's part first, says so (MMF_OOM_SKIP),
and takes the semaphore for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mm_struct import MmStruct
from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.page import Page


class _Unlocked(MmStruct):
    """Ends without mmap_lock."""

    def exit_mmap(self) -> bool:
        if self.exited:
            return False
        self.exited = True
        if self.before_exit is not None:
            self.before_exit()
        self._do_munmap(0, 1 << 47, downgrade=False)
        return True


def _oom_reap(mm: MmStruct) -> None:
    """Unmap and free all pages, and leave the VMAs (``__oom_reap_task_mm``)."""
    with mm.mmap_lock.read():
        if mm.exited:
            return
        end = 0
        while (vma := mm.vmas.find(end)) is not None:
            gather: list[Page] = []
            end = vma.vm_end
            mm._zap_pages(vma.vm_start, end, gather)
            mm._tlb_finish(gather, [])


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A process ends while its memory is reaped."""
    m = Machine(2, memory="4M", runtime=rt, classes=classes)
    p = m.process()

    def prepare() -> None:
        address = p.mmap(PAGE_SIZE)
        assert address is not None
        p.touch(address)

    m.run([prepare])

    def end() -> None:
        rt.cond_resched()
        p.exit()

    return Program([end, lambda: _oom_reap(p.mm)], verify=m.verify)


BUG = Bug(
    name="exit-without-reaper",
    number="B69",
    title="a process unmaps its memory at its end while the oom reaper does",
    fixed_by="27ae357fa82b mm, oom: fix concurrent munlock and oom reaper unmap, v3 (2018)",
    subsystem="mmap",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={MmStruct: _Unlocked},
    expect=frozenset({"DataRace"}),
    workload=_workload,
    witness="v1:0.0,1.0,4.0",
    executions={"pb": 20, "random": 50},  # random: seeds 0 to 2 need 4 at the median
    note="the model has no oom reaper and no mlock: the program reaps; each entry is looked at under the lock of "
    "the page tables, so what is seen is the race for the VMAs",
)
