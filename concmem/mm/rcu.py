"""
Read-copy-update, small: grace periods over CPUs.

A reader is whatever runs between `read_lock` and `read_unlock`; it takes no lock and waits for nobody.
A *grace period* ends when every CPU, kernel threads included, has been seen outside of a reader once
since it began. Whoever wants one interrupts each CPU to look: outside, good; inside, the reader says
so itself when it ends. No tick is needed, as the interrupt is taken at the CPU's next point.

`synchronize_rcu` waits for a grace period; `call_rcu` has a function called after one; `rcu_barrier`
waits until all functions handed to `call_rcu` before it have been called, which is more: when a grace
period is over, its functions may still be waiting for their turn.

Locks:
    rcu_lock    the queue of callbacks
    gp_lock     one CPU's report to the grace period that waits for it; one for each grace period
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgumentType, LockMisuse, MachineClosed, NotACpu

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime


class RcuData:
    """What one CPU knows (``struct rcu_data``). Only its own thread and interrupts touch it."""

    __slots__ = ("nesting", "waiting")

    def __init__(self) -> None:
        self.nesting = 0
        """Readers on this CPU, one inside the other."""
        self.waiting: list[_GracePeriod] = []
        """Grace periods to tell when the outermost reader ends."""


class _GracePeriod:
    """One grace period: the CPUs that have not been seen outside of a reader."""

    __guarded_by__: Final = {"_nr_readers": "_lock"}

    def __init__(self, rt: Runtime, name: str) -> None:
        self._lock = rt.spinlock("rcu gp_lock", irqsave=True)
        self._queue = rt.waitqueue(self._lock, name)
        self._nr_readers = 0  # _lock
        rt.watch(self)

    def add_reader(self) -> None:
        with self._lock:
            self._nr_readers += 1

    def reader_done(self) -> None:
        with self._lock:
            self._nr_readers -= 1
            self._queue.wake_up_all()

    def wait(self) -> None:
        with self._lock:
            self._queue.wait_for(lambda: not self._nr_readers)


class Rcu:
    """RCU of one machine."""

    __guarded_by__: Final = {"_callbacks": "_lock"}

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._data = rt.percpu(RcuData, "rcu_data")
        self._lock = rt.spinlock("rcu_lock", irqsave=True)
        self._queue = rt.waitqueue(self._lock, "rcu_gp_wq")
        self._callbacks: deque[Callable[[], None]] = deque()  # _lock
        self._thread = -1
        """Number of the kernel thread, once it runs."""
        self.nr_grace_periods = rt.atomic(0, "rcu gp_seq")
        rt.watch(self)

    # -- readers

    def read_lock(self) -> None:
        """Enter a reader (``rcu_read_lock``). Nests; must not sleep before `read_unlock`."""
        self._data.this().nesting += 1

    def read_unlock(self) -> None:
        """Leave it (``rcu_read_unlock``)."""
        data = self._data.this()
        if not data.nesting:
            raise LockMisuse("rcu_read_unlock: no reader on this CPU")
        data.nesting -= 1
        if not data.nesting and data.waiting:
            waiting, data.waiting = data.waiting, []
            for grace_period in waiting:
                grace_period.reader_done()

    def _leave_reader(self) -> None:
        """A body that ends inside of a reader must not hold up all grace periods from then on."""
        data = self._data.this()
        if data.nesting:
            data.nesting = 1
            self.read_unlock()
            self._rt.report_failure(
                LockMisuse(
                    f"cpu{self._rt.smp_processor_id()}: a body ended between rcu_read_lock "
                    "and rcu_read_unlock"
                )
            )

    # -- grace periods

    def synchronize_rcu(self) -> None:
        """Wait for a grace period. May sleep; not to be called in a reader."""
        self.check_may_wait("synchronize_rcu")
        self._wait_for_readers()

    def check_may_wait(self, what: str) -> None:
        """Raise `LockMisuse` if *what* would wait for itself; `SleepInAtomic` where it must not."""
        self._rt.might_sleep()
        try:
            nesting, cpu = self._data.this().nesting, self._rt.smp_processor_id()
        except NotACpu:
            return  # such a thread has neither readers nor callbacks
        if nesting or cpu == self._thread:
            where = "a reader" if nesting else "a callback"
            raise LockMisuse(f"{what}: called in {where}, it would wait for itself")

    def _wait_for_readers(self) -> None:
        grace_period = _GracePeriod(self._rt, "rcu_gp")
        for cpu in range(len(self._data.all())):
            self._rt.call_on_any(cpu, lambda: self._look(grace_period))
        grace_period.wait()
        self.nr_grace_periods.inc()

    def _look(self, grace_period: _GracePeriod) -> None:
        """On each CPU, as an interrupt: is it in a reader?"""
        data = self._data.this()
        if data.nesting:
            grace_period.add_reader()
            data.waiting.append(grace_period)

    # -- callbacks

    def start(self) -> None:
        """Start the kernel thread that ends grace periods and runs callbacks."""
        self._rt.at_task_exit(self._leave_reader)
        self._rt.kthread_run(self._run, "rcu")

    def call_rcu(self, callback: Callable[[], None]) -> None:
        """Have *callback* called after a grace period, on a kernel thread. Never sleeps."""
        if not callable(callback):
            raise BadArgumentType(f"callback: expected a function, got {callback!r}")
        with self._lock:
            self._callbacks.append(callback)
            self._queue.wake_up()

    def rcu_barrier(self) -> None:
        """Wait until every callback queued so far has been called. May sleep; not in a reader."""
        self.check_may_wait("rcu_barrier")
        done = False
        lock = self._rt.spinlock("rcu_barrier_lock")
        queue = self._rt.waitqueue(lock, "rcu_barrier")

        def last() -> None:
            nonlocal done
            with lock:
                done = True
                queue.wake_up()

        self.call_rcu(last)  # callbacks are called in order
        with lock:
            queue.wait_for(lambda: done)

    def _run(self) -> None:
        self._thread = self._rt.smp_processor_id()
        while True:
            with self._lock:
                self._queue.wait_for(lambda: bool(self._callbacks))
                batch = list(self._callbacks)
                self._callbacks.clear()
            self._wait_for_readers()
            for callback in batch:
                self._rt.cond_resched()
                self._call(callback)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except MachineClosed:
            raise  # nothing that the callback did
        except Exception as error:
            error.add_note("raised by an RCU callback")
            self._rt.report_failure(error)  # the thread goes on: others wait for their callbacks
