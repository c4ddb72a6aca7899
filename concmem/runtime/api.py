"""
The seam: what the memory management code may ask of the machine it runs on.

An object of :mod:`concmem.mm` gets a :class:`Runtime` once, in its constructor, and asks it for
named primitives where a kernel would call ``spin_lock_init``. After that it cannot tell in which
mode it runs: the objects differ, not the code.

Memory model: all accesses are sequentially consistent. A bug that needs a weaker order cannot be
found here. For example, with ``data`` and ``ready`` both 0::

    cpu0: data.value = 1; ready.value = 1        cpu1: if ready.value: assert data.value

never fails in this model, though on arm64 it may without ``smp_wmb()``/``smp_rmb()``.

Scheduling points: a primitive is one always or never, before the operation, contended or not.
Points are: lock acquire, trylock and release; wait and wake-up; every access of a cell or atomic;
``cpu_relax``, ``cond_resched``, ``local_irq_save`` and ``local_irq_restore``; ``call_on``.

Interrupts: a callable posted with :meth:`Runtime.call_on` runs on the target CPU's own thread, at
a point, while that CPU's interrupts are enabled, and with them disabled. Anything that only the
rule "nothing else runs on this CPU" protects must therefore disable them or survive it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from random import Random
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

from concmem.errors import LockMisuse

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

HOT = 2
HOT_FREE = 3
"""``runtime.area()[HOT]``, ``[HOT_FREE]``: dicts for the hottest per-CPU data (``pcpu_hot``)."""

THIS_CPU = "THIS_CPU"
"""Guard name for ``__guarded_by__``: only the owning CPU touches the field."""

_LOCKLESS: Final = "lockless reads; writes: "
_LOOKUPS: Final = "lockless lookups; changes: "


def lockless_reads(guard: str) -> str:
    """
    A guard for ``__guarded_by__`` that only writers have to hold.

    Readers without it are as ``READ_ONCE``, and writers as ``WRITE_ONCE``: the code says in a comment why a
    stale value does no harm.
    """
    return _LOCKLESS + guard


def lockless_lookups(guard: str) -> str:
    """
    As `lockless_reads`, for what is looked at so often that only changes are observed.

    Those of the dictionary or list that the field refers to, too, and of lists in such a dictionary.
    """
    return _LOOKUPS + guard


def split_guard(guard: str) -> tuple[str, bool]:
    """The lock (or `THIS_CPU`) that *guard* names, and whether readers may do without."""
    lock = guard.removeprefix(_LOCKLESS).removeprefix(_LOOKUPS)
    return lock, lock != guard


def are_reads_seen(guard: str) -> bool:
    """Whether *guard* is not that of `lockless_lookups`."""
    return not guard.startswith(_LOOKUPS)


class Lock(Protocol):
    """A spinlock or a mutex. Not recursive; released by the CPU that took it."""

    @property
    def name(self) -> str: ...
    def acquire(self) -> None:
        """Take the lock, waiting for it. A mutex may sleep, a spinlock does not."""

    def release(self) -> None:
        """Give the lock up. Raises `RuntimeError` (`LockMisuse`, if it can tell) if not held."""

    def trylock(self) -> bool:
        """Take the lock if it is free; never waits."""

    def locked(self) -> bool:
        """Whether anybody holds the lock."""

    def __enter__(self) -> object: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


def lockdep_assert_held(lock: Lock) -> None:
    """Raise `LockMisuse` unless somebody holds *lock*: states a precondition, and checks it."""
    if not lock.locked():
        raise LockMisuse(f"{lock.name}: must be held here")


def nested(lock: Lock, subclass: int = 1) -> Lock:
    """
    *lock*, to be taken by ``with`` while another lock of its class is held (``spin_lock_nested``).

    For an order that is known to the caller only, such as that of two locks' addresses. The lock
    validator takes each level *subclass* for a class of its own; without it, this is *lock*.
    """
    at_level: Callable[[int], Lock] | None = getattr(lock, "nested", None)
    return lock if at_level is None else at_level(subclass)


class RwSem(Protocol):
    """A sleeping reader-writer lock (``struct rw_semaphore``), first come first served."""

    @property
    def name(self) -> str: ...
    def read(self) -> AbstractContextManager[object]:
        """``with sem.read():`` shares it with other readers."""

    def write(self) -> AbstractContextManager[object]:
        """``with sem.write():`` owns it alone."""

    def downgrade(self) -> None:
        """Writer to reader without letting another writer in. The caller's ``with`` goes on."""


class WaitQueue(Protocol):
    """Waiters of one condition (``wait_queue_head_t``). The caller holds the queue's lock."""

    @property
    def name(self) -> str: ...
    def wait(
        self, timeout: float | None = None, condition: Callable[[], bool] | None = None
    ) -> bool:
        """
        Give the lock up, sleep, and take it again. *timeout* in seconds.

        *condition* is what the caller waits for, if that can be said: who looks for lost wake-ups asks it
        when nobody is left to wake the caller. Nothing else does.

        Returns whether there was a wake-up, as opposed to a time-out. A waiter must re-check its
        condition: a wake-up is a hint.
        """

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Sleep until *predicate*, evaluated under the lock, holds; its last value."""

    def wake_up(self, nr: int = 1) -> int:
        """Wake the *nr* longest waiters; how many there were."""

    def wake_up_all(self) -> int:
        """Wake everybody; how many there were."""


class Cell(Protocol[T]):
    """A deliberately lockless variable: ``.value`` is READ_ONCE / WRITE_ONCE."""

    value: T


class Atomic(Protocol):
    """An ``atomic_long_t``. ``.value`` reads or sets; the others read and write in one step."""

    value: int

    def inc(self) -> None: ...
    def dec(self) -> None: ...
    def add(self, n: int) -> None: ...
    def add_return(self, n: int) -> int:
        """Add *n*; the new value."""

    def xchg(self, new: int) -> int:
        """Store *new*; the old value."""

    def cmpxchg(self, old: int, new: int) -> int:
        """Store *new* if the value is *old*; the value found."""


class Refcount(Protocol):
    """A ``refcount_t``, 0 at first: references to something that the last one frees."""

    def add(self, first: bool, /) -> None:
        """The first reference, if *first*; else one more, by a caller who has one already."""

    def inc_not_zero(self) -> bool:
        """One more, unless there is none; for callers that have none. May fail while racing."""

    def dec_and_test(self) -> bool:
        """One less; whether that was the last. Raises `LookupError` when there was none."""

    def read(self) -> int:
        """The count now."""


class Pair(Protocol):
    """
    Two words that change together (what ``cmpxchg_double`` works on).

    Each half may be read alone; what was read in two steps is only known to belong together once
    `try_cmpxchg` has succeeded.
    """

    first: int
    second: int

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        """Store both new values if both old ones are there, in one step; whether it did."""

    def set(self, first: int, second: int, /) -> None:
        """Store both in one step, whatever is there."""


class Words(Protocol):
    """Simulated memory as 8-byte words, by index; each access is indivisible."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class PerCpu(Protocol[T_co]):
    """One object for each CPU (``DEFINE_PER_CPU``)."""

    offset: int
    """``runtime.area()[offset]`` is what ``this()`` returns, without a call; for hot paths."""

    @property
    def this(self) -> Callable[[], T_co]:
        """``.this()`` is the calling CPU's object. Raises `NotACpu` on a thread that is none."""

    def of(self, cpu: int) -> T_co:
        """The object of CPU *cpu*, from anywhere."""

    def all(self) -> Sequence[T_co]:
        """Every CPU's object, those of kernel threads last."""


class LockStatistics(Protocol):
    """Counts and times of locks, by class."""

    def statistics(self) -> list[Any]: ...
    def waits(self) -> dict[str, tuple[int, int]]: ...


class LockValidator(Protocol):
    """What was seen of the order of locks."""

    def statistics(self) -> Any: ...


class HostCpu(Protocol):
    """What everybody may know of a CPU of a runtime."""

    number: int
    name: str
    thread: Any
    """Its thread, a ``threading.Thread``."""
    native_id: int
    """The host's number of its thread."""
    nr_interrupts: int
    """Interrupts taken."""


class Runtime(ABC):
    """
    A set of CPUs and the primitives to run on them.

    CPUs are OS threads in every runtime. :meth:`kthread_run` adds a kernel thread, which has per-CPU
    data of its own under a number from `nr_cpus` up, so that it never shares a CPU's.
    """

    name: str
    """The mode, for people."""
    nr_cpus: int
    """CPUs that bodies run on, 1 to 256. Kernel threads are not counted."""
    lockstat: LockStatistics | None
    """Lock statistics, if they are kept."""

    @property
    def lockdep(self) -> LockValidator | None:
        """The lock validator, if there is one."""
        return None

    cpus: Sequence[HostCpu]
    """The CPUs, then kernel threads."""

    @abstractmethod
    def claim(self, owner: object) -> None:
        """
        One machine for each runtime: the hot slots of its CPUs belong to *owner*.

        Raises:
            BadArgument: another machine has it already.
        """

    def want_cpus(self, nr_cpus: int) -> None:  # noqa: B027
        """Somebody would like *nr_cpus* CPUs; a runtime whose number is fixed has what it has."""

    # -- primitives, made at construction of the objects that use them

    @abstractmethod
    def spinlock(self, name: str, irqsave: bool = False) -> Lock:
        """
        A lock of class *name*; its holder must not sleep.

        With *irqsave* it is always taken as by ``spin_lock_irqsave``: its holder takes no
        interrupts. Every lock that interrupt handlers take must be such a one.
        """

    @abstractmethod
    def mutex(self, name: str) -> Lock:
        """A lock of class *name* whose holder and waiters may sleep."""

    @abstractmethod
    def rwsem(self, name: str) -> RwSem:
        """A reader-writer lock of class *name* whose holders and waiters may sleep."""

    @abstractmethod
    def waitqueue(self, lock: Lock, name: str) -> WaitQueue:
        """A queue whose waiters hold *lock* when they come and when they go."""

    @abstractmethod
    def cell(self, value: T, name: str) -> Cell[T]:
        """A lockless variable; each access of ``.value`` is indivisible."""

    @abstractmethod
    def atomic(self, value: int, name: str) -> Atomic:
        """An atomic integer: ``inc dec add add_return xchg cmpxchg``."""

    @abstractmethod
    def refcount(self, name: str) -> Refcount:
        """A reference count, 0 at first: ``add(True)`` is the first, ``add(False)`` one more."""

    @abstractmethod
    def percpu(self, factory: Callable[[], T], name: str) -> PerCpu[T]:
        """*factory* is called once for each CPU, now, and once for each later kernel thread."""

    @abstractmethod
    def free_percpu(self, variable: PerCpu[Any], poison: object) -> None:
        """
        Give back what `percpu` made (``free_percpu``). Nobody may use it any more.

        Who does all the same finds *poison*, on every CPU and for good, and not another variable.
        """

    @abstractmethod
    def pair(self, first: int, second: int, name: str) -> Pair:
        """Two words that several CPUs compare and exchange (``cmpxchg16b``, with lock prefix)."""

    @abstractmethod
    def this_cpu_pair(self, first: int, second: int, name: str) -> Pair:
        """
        Two words that one CPU compares and exchanges (``this_cpu_try_cmpxchg``).

        Others only read them. Indivisible for the interrupts of that CPU, as one instruction is.
        """

    @abstractmethod
    def watch_words(self, words: memoryview, name: str) -> Words:
        """Say that CPUs share *words* (format ``Q``): accesses through the result are observed."""

    @abstractmethod
    def watch(self, obj: T) -> T:
        """
        Say that *obj* is now shared: its fields named in ``__guarded_by__`` are observed.

        Returns *obj*. Costs nothing in a free run.
        """

    # -- on a CPU

    area: Callable[[], list[Any]]
    """
    The calling CPU's per-CPU data (what ``gs`` points to), for hot paths: item 0 is true while the
    CPU should call `cond_resched`, and each per-CPU variable is at its ``offset``.
    """

    smp_processor_id: Callable[[], int]
    """The number of the calling CPU. Raises `NotACpu` on a thread that is none."""

    cond_resched: Callable[[], None]
    """Between two operations, no lock held: interrupts, ``stop_machine`` and shutdown get in."""

    @abstractmethod
    def in_interrupt(self) -> bool:
        """Whether the caller runs in an interrupt handler. False on a thread that is no CPU."""

    @abstractmethod
    def might_sleep(self) -> None:
        """Raise `SleepInAtomic` where the caller must not sleep, whether it would have to or not."""

    @abstractmethod
    def cpu_relax(self) -> None:
        """
        In a loop that waits for another CPU: lets it run; interrupts and shutdown get in.

        ``stop_machine`` does not: the caller may hold locks.
        """

    @abstractmethod
    def local_irq_save(self) -> bool:
        """Disable interrupts on this CPU; whether they were enabled, for `local_irq_restore`."""

    @abstractmethod
    def local_irq_restore(self, flags: bool) -> None:
        """Undo `local_irq_save`; takes what came in meanwhile."""

    @abstractmethod
    def call_on(self, cpu: int, fn: Callable[[], Any], wait: bool = True) -> Any:
        """
        Run *fn* on CPU *cpu* as an interrupt (``smp_call_function_single``).

        With *wait*, returns its result or raises what it raised; the caller must have interrupts
        enabled and hold no spinlock that *cpu* may be spinning on. Without, returns ``None`` at
        once, and a failure surfaces at the end of the run as `InterruptFailed`.
        """

    @abstractmethod
    def call_on_any(self, number: int, fn: Callable[[], Any]) -> Any:
        """
        As `call_on`, waiting; *number* may also be that of a kernel thread.

        For those who must reach everybody that has per-CPU data: *number* is an index of
        ``percpu(...).all()``.
        """

    @abstractmethod
    def on_each_cpu(self, fn: Callable[[], Any], wait: bool = True) -> None:
        """Run *fn* on every CPU as an interrupt, at the same time (``on_each_cpu``)."""

    @abstractmethod
    def rng(self, stream: object) -> Random:
        """A generator of random numbers for *stream*, the same in every run with the same seed."""

    # -- time

    @property
    @abstractmethod
    def jiffies(self) -> int:
        """Ticks of 1/HZ second since the runtime was made. Model time, not host time."""

    @abstractmethod
    def clock_ns(self) -> int:
        """``local_clock()``: nanoseconds of the same time as `jiffies`."""

    # -- CPUs

    @abstractmethod
    def run(self, bodies: Sequence[Callable[[], T] | None]) -> list[T | None]:
        """
        Run body *i* on CPU *i*, wait for all, and return their results in order.

        ``None`` leaves a CPU idle. Failures, of interrupt handlers too, come as an
        ``ExceptionGroup`` after all bodies have ended.
        """

    @abstractmethod
    def submit(self, cpu: int, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Put ``fn(*args)`` into the run queue of CPU *cpu*."""

    @abstractmethod
    def kthread_run(self, fn: Callable[[], None], name: str) -> int:
        """
        Start a kernel thread that runs *fn*; the number of its per-CPU data.

        What *fn* raises surfaces at the end of the run.
        """

    @abstractmethod
    def report_failure(self, error: Exception) -> None:
        """Have *error*, which a kernel thread has survived, surface at the end of the run."""

    @abstractmethod
    def at_task_exit(self, fn: Callable[[], None]) -> None:
        """Have *fn* called on each CPU when a body has ended there, also by raising; never sleeps."""

    @abstractmethod
    def stop_machine(self, fn: Callable[[], T]) -> T:
        """
        Run *fn* while every CPU is parked between two operations.

        Kernel threads are parked too. May be called on a CPU or on any other thread.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """
        Stop all CPUs, also in the middle of a body, and join their threads. Idempotent.

        Not to be called on a CPU, which cannot wait for its own end: `SleepInAtomic`.
        """
