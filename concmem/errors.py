"""
Every exception class of concmem.

Three families, so that a caller can tell them apart:

* :class:`BadArgument`: the caller passed something that cannot be; nothing was changed.
* :class:`KernelBug`: a rule of the allocator was broken (double free, corrupted list, ...).
* :class:`ValidationError`: :meth:`concmem.Machine.verify` found structures that disagree.

Running out of memory is none of them: it is a result (``None``), as in the kernel.
"""

from __future__ import annotations


class ConcmemError(Exception):
    """Base class of everything concmem raises on purpose."""


class BadArgument(ConcmemError, ValueError):
    """An argument is out of range. The message names the argument; no structure was changed."""


class BadArgumentType(BadArgument, TypeError):
    """An argument has the wrong type, such as an order of 1.5."""


class NotACpu(ConcmemError, RuntimeError):
    """The calling thread is none of the machine's CPUs, so it has no per-CPU data."""


class MachineClosed(ConcmemError, RuntimeError):
    """The machine (or runtime) has been shut down."""


class ShutdownTimeout(ConcmemError, RuntimeError):
    """A CPU would not stop: its body runs without ever calling into the machine."""


class InterruptFailed(ConcmemError, RuntimeError):
    """An interrupt handler that nobody waited for has raised; the cause is chained."""


class KernelBug(ConcmemError):
    """A rule of the kernel was broken, as ``BUG()`` would report it."""


class DoubleFree(KernelBug):
    """Something was freed that is not allocated."""


class BadFree(KernelBug):
    """A free that does not match its allocation: tail page, wrong order, foreign page."""


class ObjectHandedOutTwice(KernelBug):
    """An allocator took an object from its free list that somebody has already."""


class FreepointerCorrupt(KernelBug):
    """A free list leads to where no object is: somebody wrote to a free object."""


class CacheBusy(KernelBug):
    """``Objects remaining on __kmem_cache_shutdown()``: a cache was destroyed with live objects."""


class CacheDestroyed(KernelBug):
    """A cache was used after it had been destroyed."""


class PoolBusy(KernelBug):
    """A memory pool was destroyed while elements were missing, or used after that."""


class BadPageState(KernelBug):
    """``BUG: Bad page state``: a freed page is still mapped, locked or otherwise in use."""


class BadPageTable(KernelBug):
    """A page is mapped where another is, or where a TLB may still have an older translation."""


class SegmentationFault(KernelBug):
    """SIGSEGV: a process used an address that it has not mapped, or not for that."""


class BusError(KernelBug):
    """SIGBUS: a process used a page of a mapping that is behind the end of the file."""


class OutOfMemory(ConcmemError):
    """A page fault found no memory. It cannot return ``None``; a kernel would kill the process."""


class ListCorruption(KernelBug):
    """``list_add``/``list_del`` found neighbours that do not point back (CONFIG_DEBUG_LIST)."""


class HeapCorruption(KernelBug):
    """malloc found that the program has damaged its heap: what ``malloc_printerr`` aborts with."""


class LockMisuse(KernelBug, RuntimeError):
    """A lock was released by somebody who does not hold it, or taken twice by its holder."""


class LockdepError(LockMisuse):
    """
    Locks are used in a way that can deadlock, whether it came to that or not.

    The first line of the message says what is wrong with which locks; the report follows.
    """

    failure_place: str = ""
    """The classes that it is about."""
    rule: str = ""
    """What was broken: ``circular``, ``recursive``, ``inconsistent``, ``inversion``, ``irq order``,
    ``wait context``, ``unlock`` or ``held``."""


class SleepInAtomic(KernelBug):
    """``BUG: scheduling while atomic``: a sleep with interrupts disabled or in an interrupt."""


class ValidationError(ConcmemError, AssertionError):
    """The structures of the machine disagree. Subclasses say which rule; messages say where."""


class FreeListError(ValidationError):
    """A free block is misaligned, on the wrong list, or could have been merged."""


class PageCountError(ValidationError):
    """A counter differs from what it counts, or pages of a zone are lost."""


class PageOwnershipError(ValidationError):
    """One page is in two places at once."""


class SlabError(ValidationError):
    """A cache's slabs, lists, free lists or counters disagree."""


class VmapError(ValidationError):
    """Virtual areas overlap or are lost, or the page tables do not agree with them."""


class AddressSpaceError(ValidationError):
    """VMAs, page tables, mapcounts or counters of address spaces disagree."""


class HeapError(ValidationError):
    """The heaps of a process's malloc do not tile into chunks, or its bins disagree with them."""


class TraceError(ConcmemError):
    """A trace file cannot be read. The message has the file and, where known, the line."""


class ScenarioError(BadArgument):
    """A scenario file has an unknown key or a value that cannot be. The message names it."""


class Deadlock(ConcmemError, RuntimeError):
    """Nobody can go on, and somebody has not ended. The message says who waits for what."""


class LostWakeup(Deadlock):
    """Somebody sleeps although what it waits for is true, and nobody is left to wake it."""


class Livelock(ConcmemError, RuntimeError):
    """CPUs spin for something that nobody will do, or an execution does not come to its end."""


class LockLeaked(LockMisuse):
    """A body or an interrupt handler ended while it held a lock."""


class DataRace(KernelBug):
    """Two CPUs accessed a watched field, at least one to write, and nothing ordered the accesses."""


class ReplayDiverged(ConcmemError, RuntimeError):
    """The program does not do what it did when the schedule was recorded. The message says where."""


class Nondeterminism(ReplayDiverged):
    """A program did something else when it was run with the same schedule again."""


class ScheduleAbandoned(BaseException):
    """A scheduler has found that other executions cover this one."""


class ExecutionAborted(BaseException):
    """
    Unwinds what a CPU runs when an execution ends early.

    A ``BaseException``, so that ``except Exception`` in a body does not keep the CPU alive.
    """


class CpuStopped(BaseException):
    """
    Unwinds whatever a CPU runs when its machine is shut down.

    A ``BaseException``, so that ``except Exception`` in a body does not keep the CPU alive.
    """
