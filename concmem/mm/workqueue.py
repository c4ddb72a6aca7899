"""
Work queues: what cannot be done here and now, done by a kernel thread that may sleep.

Locks:
    wq->lock (irqsave)      the list of work, and what of it is done; interrupts queue work, too
    (no lock is held while work runs)

Follows ``kernel/workqueue.c`` of Linux 6.12 in what a caller can see: work that is queued again before
it starts runs once, work that is queued while it runs runs again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from concmem.errors import LockMisuse, MachineClosed, NotACpu

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime


class Work:
    """``struct work_struct``: *fn*, which may sleep, to be called later."""

    __slots__ = ("fn", "name", "pending")

    def __init__(self, fn: Callable[[], None], name: str) -> None:
        self.fn = fn
        self.name = name
        self.pending = False
        """Queued and not started. Under the queue's lock."""

    def __repr__(self) -> str:
        return f"<work {self.name}>"


class WorkQueue:
    """``struct workqueue_struct`` with one kernel thread, called *name*."""

    __guarded_by__: Final = dict.fromkeys(
        ("_worklist", "_current", "nr_queued", "nr_done"), "_lock"
    )

    def __init__(self, rt: Runtime, name: str) -> None:
        self._rt = rt
        self.name = name
        self._lock = rt.spinlock("wq->lock", irqsave=True)
        self._more_work = rt.waitqueue(self._lock, "wq->more_work")
        self._done_work = rt.waitqueue(self._lock, "wq->done_work")
        # _lock
        self._worklist: deque[Work] = deque()
        self._current: Work | None = None
        self.nr_queued = 0
        self.nr_done = 0
        self._worker = -1
        """Number of the kernel thread, once it runs."""
        rt.watch(self)
        rt.kthread_run(self._worker_thread, name)

    def queue_work(self, work: Work) -> bool:
        """Have *work* run soon; false if it is waiting to already. Never sleeps."""
        with self._lock:
            if work.pending:
                return False
            work.pending = True
            self._worklist.append(work)
            self.nr_queued += 1
            self._more_work.wake_up()
            return True

    def flush_work(self, work: Work) -> None:
        """Sleep until *work* neither waits nor runs."""
        self._flush(lambda: not work.pending and self._current is not work)

    def drain(self) -> None:
        """Sleep until there is no work (``drain_workqueue``)."""
        self._flush(lambda: not self._worklist and self._current is None)

    def _flush(self, is_done: Callable[[], bool]) -> None:
        if self._on_worker():
            raise LockMisuse(f"{self.name}: its own work would wait for itself to end")
        with self._lock:
            self._done_work.wait_for(is_done)

    def _on_worker(self) -> bool:
        try:
            return self._rt.smp_processor_id() == self._worker
        except NotACpu:
            return False

    # -- the kernel thread

    def _worker_thread(self) -> None:
        self._worker = self._rt.smp_processor_id()
        while True:
            self._process_one_work(self._next_work())
            with self._lock:
                self._current = None
                self.nr_done += 1
                self._done_work.wake_up_all()

    def _next_work(self) -> Work:
        with self._lock:
            self._more_work.wait_for(lambda: bool(self._worklist))
            work = self._current = self._worklist.popleft()
            work.pending = False  # from here on it may be queued again
            return work

    def _process_one_work(self, work: Work) -> None:
        try:
            work.fn()
        except MachineClosed:
            raise  # nothing that the work did
        except Exception as error:
            self._report(work, error)

    def _report(self, work: Work, error: Exception) -> None:
        """The thread goes on."""
        error.add_note(f"raised by {work!r} on {self.name}")
        self._rt.report_failure(error)
