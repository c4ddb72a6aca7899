"""
Processes: what has an address space, and the table of all of them.

The threads of a process are the machine's CPUs: any CPU may use any process, several at once.

Locks:
    tasklist_lock       the table of processes; a leaf
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.commit import CommitAccounting
from concmem.mm.mm_state import Limits, MmContext
from concmem.mm.mm_struct import MmStruct
from concmem.mm.mman import (
    DEFAULT_MAX_MAP_COUNT,
    DEFAULT_STACK_LIMIT,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    RLIM_INFINITY,
    STACK_VM_PAGES,
)
from concmem.mm.shmem import Shmem, ShmemFs
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.vmstat import VmEvents
    from concmem.mm.zone import Zone
    from concmem.runtime.api import Runtime

FIRST_PID: Final = 1000
_DEFAULT_FLAGS: Final = MAP_PRIVATE | MAP_ANONYMOUS


class Process:
    """
    A process. Made by `ProcessTable.create`; its calls are made on a CPU, and may sleep.

    Attributes:
        read(address, n), write(address, data), read_u64, write_u64, touch(address, write=True):
            use its memory, see :class:`~concmem.mm.access.Access`.
        munmap(addr, length), mprotect(addr, length, prot): see the modules of these names.
        mm: its address space.
        cpus: the CPUs that are its threads.
    """

    def __init__(self, table: ProcessTable, pid: int, name: str, mm: MmStruct) -> None:
        self._table = table
        self.pid = pid
        self.name = name
        self.mm = mm
        self.cpus: Sequence[int] = range(table.context.rt.nr_cpus)
        self.start_time = table.context.rt.jiffies
        # Bound here, not found at each call.
        self.brk = mm.sys_brk
        self.munmap = mm.munmap
        self.mprotect = mm.mprotect
        self.touch = mm.touch
        self.read = mm.read
        self.write = mm.write
        self.read_u64 = mm.read_u64
        self.write_u64 = mm.write_u64

    def sbrk(self, increment: int = 0) -> int | None:
        """
        Move the end of the heap by *increment* bytes; the old end, or ``None`` if that cannot be.

        As that of the C library: two threads must not do it at once.
        """
        if isinstance(increment, bool) or not isinstance(increment, int):
            raise BadArgumentType(f"increment: expected bytes, got {increment!r}")
        old = self.brk(0)
        if not increment:
            return old
        if old + increment < self.mm.start_brk:
            return None
        return old if self.brk(old + increment) == old + increment else None

    def mmap(
        self,
        length: int,
        prot: int = PROT_READ | PROT_WRITE,
        flags: int = _DEFAULT_FLAGS,
        addr: int = 0,
        file: Shmem | None = None,
        offset: int = 0,
    ) -> int | None:
        """Map *length* bytes; the address or ``None``. See `Mmap.mmap`."""
        return self.mm.mmap(length, prot, flags, addr, file, offset)

    def exit(self) -> None:
        """
        Give everything back. Whoever still uses the process's memory gets a segmentation fault.

        Raises:
            BadArgument: it has exited already.
        """
        if not self.mm.exit_mmap():
            raise BadArgument(f"process: {self.pid} has exited already")
        self._table.remove(self)

    def __repr__(self) -> str:
        return f"<process {self.pid} {self.name}>"


class ProcessTable:
    """All processes and all shared memory of a machine."""

    __guarded_by__: Final = {"_processes": "_lock", "_next_pid": "_lock"}

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        mem_map: MemMap,
        page_alloc: PageAllocator,
        zones: Sequence[Zone],
        events: VmEvents,
        classes: tuple[type[MmStruct], type[Shmem]] = (MmStruct, Shmem),
    ) -> None:
        self._mm_class, shmem_class = classes
        commit = CommitAccounting(
            rt,
            lambda: sum(zone.managed_pages for zone in zones),
            lambda: sum(zone.nr_free_pages_exact() for zone in zones),
        )
        self.context = MmContext(
            rt,
            memory,
            mem_map,
            page_alloc,
            commit,
            ShmemFs(rt, page_alloc, commit, shmem_class),
            events,
            rt.percpu(lambda: [0], "user_access"),
        )
        self.make_process: Callable[[ProcessTable, int, str, MmStruct], Process] = Process
        """What `create` makes; the C library puts its own class in."""
        self._lock = rt.spinlock("tasklist_lock")
        # _lock
        self._processes: dict[int, Process] = {}
        self._next_pid = FIRST_PID
        rt.watch(self)

    def create(
        self,
        name: str = "process",
        *,
        rlimit_as: int = RLIM_INFINITY,
        rlimit_data: int = RLIM_INFINITY,
        rlimit_stack: int = DEFAULT_STACK_LIMIT,
        max_map_count: int = DEFAULT_MAX_MAP_COUNT,
    ) -> Process:
        """
        A process with a stack and an empty heap. From any thread.

        Args:
            name: at most 15 characters are shown.
            rlimit_as, rlimit_data, rlimit_stack: bytes.
            max_map_count: VMAs of the address space.

        Raises:
            BadArgument: something cannot be, or mode 2 of the commit accounting allows no stack.
        """
        if not isinstance(name, str):
            raise BadArgumentType(f"name: expected a text, got {name!r}")
        if not name or not name.isprintable() or "/" in name:
            raise BadArgument(f"name: expected printable text without a slash, got {name!r}")
        limits = Limits(
            _limit("rlimit_as", rlimit_as),
            _limit("rlimit_data", rlimit_data),
            _limit("rlimit_stack", rlimit_stack),
            _limit("max_map_count", max_map_count),
        )
        with self._lock:
            pid, self._next_pid = self._next_pid, self._next_pid + 1
        mm = self._mm_class(self.context, f"{name}[{pid}]", limits)
        if not mm.setup_stack():
            raise BadArgument(
                f"process: its stack of {STACK_VM_PAGES << PAGE_SHIFT} bytes is more than may be committed"
            )
        process = self.make_process(self, pid, name, self.context.rt.watch(mm))
        with self._lock:
            self._processes[pid] = process
        return process

    def remove(self, process: Process) -> None:
        """Forget *process*, which has exited."""
        with self._lock:
            del self._processes[process.pid]

    def processes(self) -> list[Process]:
        """Those that have not exited, oldest first."""
        with self._lock:
            return list(self._processes.values())


def _limit(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    if not 0 <= value <= RLIM_INFINITY:
        raise BadArgument(f"{name}: must be 0 to 2**64 - 1, got {value}")
    return value
