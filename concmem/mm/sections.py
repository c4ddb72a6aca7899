"""
The kernel's own memory, which nobody allocates: static data, per-CPU data and stacks.

Code that keeps an address in a Python variable keeps it, so to speak, in a register. Here is real memory
for what a kernel would have in memory: variables of ``.data``, of ``.data..percpu``, and frames on the stack
of the CPU. So whoever looks for pointers in memory, as the leak detector does, finds them.

In a kernel per-CPU areas and stacks are allocated at boot; here all of it is behind physical memory, at
``KERNEL_DATA_START``, takes no pages of the machine, and is backed by the host where it is touched.

Locks:
    sections->lock      how much of each section is in use
    (a stack belongs to its CPU; others read where it ends without a lock, and see a frame or not)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType, KernelBug
from concmem.runtime.api import lockless_reads
from concmem.units import KERNEL_DATA_SIZE, KERNEL_DATA_START

if TYPE_CHECKING:
    from concmem.mm.memory import Memory
    from concmem.runtime.api import Runtime

WORD: Final = 8

MAX_AREAS: Final = 1024
"""CPUs and kernel threads that have per-CPU data and stacks."""

THREAD_SIZE: Final = 16 << 10
"""Bytes of a stack."""
PERCPU_SIZE: Final = 32 << 10
"""Bytes of a CPU's static per-CPU data."""
DATA_SIZE: Final = KERNEL_DATA_SIZE - MAX_AREAS * (THREAD_SIZE + PERCPU_SIZE)
"""Bytes of static data."""

PERCPU_START: Final = KERNEL_DATA_START + DATA_SIZE
STACKS_START: Final = PERCPU_START + MAX_AREAS * PERCPU_SIZE

Range = tuple[int, int]
"""Addresses: first, and behind the last."""


class MemoryWords:
    """*nr_words* words of memory at *address*, by index. Storing ``None`` stores 0, which is ``NULL``."""

    __slots__ = ("_memory", "_nr_words", "address")

    def __init__(self, memory: Memory, address: int, nr_words: int) -> None:
        self._memory = memory
        self.address = address
        self._nr_words = nr_words

    def __len__(self) -> int:
        return self._nr_words

    def _at(self, index: int) -> int:
        if index.__class__ is not int:
            raise BadArgumentType(f"index: expected a whole number, got {index!r}")
        if not 0 <= index < self._nr_words:
            raise BadArgument(f"index: must be 0 to {self._nr_words - 1}, got {index}")
        return self.address + index * WORD

    def __getitem__(self, index: int) -> int:
        return self._memory.read_u64(self._at(index))

    def __setitem__(self, index: int, value: int | None) -> None:
        where = self._at(index)
        if value is not None and value.__class__ is not int:
            raise BadArgumentType(f"value: expected an address or None, got {value!r}")
        if value is not None and not 0 <= value < 1 << 64:
            raise BadArgument(f"value: must be 0 to 2**64 - 1, got {value}")
        self._memory.write_u64(where, value or 0)

    def __iter__(self) -> Iterator[int]:
        return (self[index] for index in range(self._nr_words))


class PercpuWords:
    """A static per-CPU variable of *nr_words* words: each CPU has its own (``DEFINE_PER_CPU``)."""

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        check_cpu: Callable[[int], object],
        offset: int,
        nr_words: int,
    ) -> None:
        self._rt = rt
        self._memory = memory
        self._check_cpu = check_cpu
        self._offset = offset
        self._nr_words = nr_words

    def this(self) -> MemoryWords:
        """The calling CPU's. Raises `NotACpu` on a thread that is none."""
        return self.of(self._rt.smp_processor_id())

    def of(self, cpu: int) -> MemoryWords:
        """That of CPU *cpu*; kernel threads are CPUs, numbered after the others."""
        self._check_cpu(cpu)
        if cpu >= MAX_AREAS:
            raise BadArgument(f"cpu: only the first {MAX_AREAS} have per-CPU data, got {cpu}")
        base = PERCPU_START + cpu * PERCPU_SIZE
        return MemoryWords(self._memory, base + self._offset, self._nr_words)


class StackFrame(MemoryWords):
    """
    *nr_words* words on the stack of the CPU, for one ``with`` block; all 0 at first.

    Interrupt handlers have their frames on the stack of the CPU that they interrupt.
    """

    __slots__ = ("_sections",)

    def __init__(self, sections: Sections, memory: Memory, nr_words: int) -> None:
        super().__init__(memory, 0, nr_words)
        self._sections = sections

    def __enter__(self) -> StackFrame:
        if self.address:
            raise KernelBug("stack frame: is entered already")
        address = self._sections.push(len(self))
        self._memory.fill(address, len(self) * WORD)
        self.address = address
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sections.pop(self.address, len(self))
        self.address = 0

    def _at(self, index: int) -> int:
        if not self.address:
            raise KernelBug("stack frame: is used outside of its `with` block")
        return super()._at(index)


class Sections:
    """All of a machine."""

    __guarded_by__: Final = dict.fromkeys(
        ("_data_used", "_percpu_used"), lockless_reads("_lock")
    )  # what is being defined right now has nothing in it yet

    def __init__(self, rt: Runtime, memory: Memory) -> None:
        self._rt = rt
        self._memory = memory
        self._lock = rt.spinlock("sections->lock")
        # _lock; bytes in use
        self._data_used = 0
        self._percpu_used = 0
        self._sp = rt.percpu(lambda: rt.cell(0, "stack->sp"), "stack->sp")
        """Where the last frame of each CPU is; 0: it has had none."""
        rt.watch(self)

    # -- define

    def data(self, nr_words: int = 1) -> MemoryWords:
        """
        A static variable of *nr_words* words, all 0 (``.data``, ``.bss``). It stays for ever.

        Raises:
            BadArgument: *nr_words* cannot be, or there is no room left.
        """
        nr_bytes = _check_words(nr_words) * WORD
        with self._lock:
            offset = self._data_used
            if offset + nr_bytes > DATA_SIZE:
                raise BadArgument(f"nr_words: {nr_words} words do not fit: .data is full")
            self._data_used = offset + nr_bytes
        return MemoryWords(self._memory, KERNEL_DATA_START + offset, nr_words)

    def percpu_data(self, nr_words: int = 1) -> PercpuWords:
        """
        A static per-CPU variable (``DEFINE_PER_CPU``), all 0. It stays for ever.

        Raises:
            BadArgument: *nr_words* cannot be, or there is no room left.
        """
        nr_bytes = _check_words(nr_words) * WORD
        with self._lock:
            offset = self._percpu_used
            if offset + nr_bytes > PERCPU_SIZE:
                raise BadArgument(f"nr_words: {nr_words} words do not fit: .data..percpu is full")
            self._percpu_used = offset + nr_bytes
        return PercpuWords(self._rt, self._memory, self._sp.of, offset, nr_words)

    def stack_frame(self, nr_words: int) -> StackFrame:
        """``with stack_frame(n) as frame:`` gives *n* words on the stack of the CPU."""
        _check_words(nr_words)
        return StackFrame(self, self._memory, nr_words)

    # -- stacks

    def push(self, nr_words: int) -> int:
        """Make room on the calling CPU's stack; where."""
        sp, top = self._sp.this(), _stack_top(self._rt.smp_processor_id())
        old = sp.value or top
        address = old - nr_words * WORD
        if address < top - THREAD_SIZE:
            raise KernelBug(
                f"BUG: stack guard page was hit on cpu{self._rt.smp_processor_id()}: a frame of {nr_words} words "
                f"does not fit below {old:#x}, the stack is {top - THREAD_SIZE:#x}..{top - 1:#x}"
            )
        sp.value = address
        return address

    def pop(self, address: int, nr_words: int) -> None:
        """Give up the frame at *address*, the last one."""
        sp = self._sp.this()
        if sp.value != address:
            raise KernelBug(
                f"stack frame at {address:#x} is left, but the last of this CPU is at {sp.value:#x}"
            )
        sp.value = address + nr_words * WORD

    # -- for who looks for pointers

    def data_range(self) -> Range:
        """What is in use of the static data."""
        return KERNEL_DATA_START, KERNEL_DATA_START + self._data_used

    def percpu_ranges(self) -> list[Range]:
        """What is in use of the per-CPU data of each CPU."""
        used = self._percpu_used
        numbers = range(min(MAX_AREAS, len(self._sp.all()))) if used else ()
        starts = [PERCPU_START + number * PERCPU_SIZE for number in numbers]
        return [(start, start + used) for start in starts]

    def stack_ranges(self) -> list[Range]:
        """The frames that each CPU has at the moment."""
        # No lock: of a frame that comes or goes meanwhile, the words are seen or not.
        ends = [(sp.value, _stack_top(cpu)) for cpu, sp in enumerate(self._sp.all()[:MAX_AREAS])]
        return [(sp, top) for sp, top in ends if 0 < sp < top]


def _stack_top(cpu: int) -> int:
    """Behind the stack of *cpu*, which grows down."""
    if cpu >= MAX_AREAS:
        raise KernelBug(f"cpu{cpu}: only {MAX_AREAS} CPUs and kernel threads have a stack")
    return STACKS_START + (cpu + 1) * THREAD_SIZE


def _check_words(nr_words: object) -> int:
    if isinstance(nr_words, bool) or not isinstance(nr_words, int):
        raise BadArgumentType(f"nr_words: expected a whole number, got {nr_words!r}")
    if nr_words < 1:
        raise BadArgument(f"nr_words: must be at least 1, got {nr_words}")
    return nr_words
