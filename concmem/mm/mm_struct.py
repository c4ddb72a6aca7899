"""
``struct mm_struct``: one address space, all of it.

What it holds is in :mod:`concmem.mm.mm_state`; what it does is in the files of the layers that
:class:`MmStruct` consists of: merging and splitting, faults, munmap, brk, mmap, mprotect, accesses.
"""

from __future__ import annotations

from concmem.mm.access import Access
from concmem.mm.brk import Brk


class MmStruct(Access, Brk):
    """The address space of a process."""

    def exit_mmap(self) -> bool:
        """
        Unmap everything and let nothing be mapped any more; whether that was still to be done.

        Other CPUs that use the address space get segmentation faults. May sleep. On a CPU.
        """
        self.context.rt.smp_processor_id()  # pages are freed here: only on a CPU, or nothing happens
        with self.mmap_lock.write():
            if self.exited:
                return False
            self.exited = True
            if self.before_exit is not None:
                self.before_exit()
            self._do_munmap(0, 1 << 47, downgrade=False)
            return True
