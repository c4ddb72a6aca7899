"""
What processes report of themselves: frozen, plain numbers, bytes unless named otherwise.

The texts of ``/proc/<pid>`` are pure functions of these.
"""

from __future__ import annotations

from typing import NamedTuple


class VmaStatistics(NamedTuple):
    """One VMA, with what ``smaps`` counts. Pss in units of 2**-12 bytes, as the kernel sums it."""

    start: int
    end: int
    perms: str
    """Such as ``rw-p``."""
    offset: int
    """Into the file; 0 for anonymous memory."""
    device: tuple[int, int] = (0, 0)
    inode: int = 0
    name: str = ""
    """File, ``[heap]``, ``[stack]``, or nothing."""
    vm_flags: tuple[str, ...] = ()
    """Two letters each."""
    rss: int = 0
    pss: int = 0
    pss_dirty: int = 0
    pss_anon: int = 0
    pss_shmem: int = 0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    anonymous: int = 0

    @property
    def size(self) -> int:
        return self.end - self.start


class ProcessStatistics(NamedTuple):
    """One process (``task_struct`` and ``mm_struct``); sizes in pages."""

    pid: int
    name: str
    cpus: tuple[int, ...]
    """The CPUs that may run its threads."""
    start_jiffies: int
    total_vm: int
    data_vm: int
    exec_vm: int
    stack_vm: int
    hiwater_vm: int
    hiwater_rss: int
    rss_anon: int
    rss_shmem: int
    nr_page_tables: int
    map_count: int
    start_brk: int
    """Address, as `brk` and `start_stack`."""
    brk: int
    start_stack: int
    vmas: tuple[VmaStatistics, ...]

    @property
    def rss(self) -> int:
        return self.rss_anon + self.rss_shmem


class UserNodeStatistics(NamedTuple):
    """Pages of processes on one NUMA node."""

    node: int
    nr_anon_pages: int = 0
    nr_mapped: int = 0
    """Of shared memory, those that some process maps."""
    nr_shmem: int = 0
    nr_page_table_pages: int = 0


class UserStatistics(NamedTuple):
    """All processes, and what they have together; pages."""

    processes: tuple[ProcessStatistics, ...]
    nodes: tuple[UserNodeStatistics, ...]
    committed_as: int
    commit_limit: int

    def total(self, name: str) -> int:
        """Field *name* of `UserNodeStatistics`, over all nodes."""
        return sum(int(getattr(node, name)) for node in self.nodes)
