"""
A CPU as an OS thread: its run queue, its interrupts, and how it sleeps.

The thread sleeps on one condition of its own, whatever it waits for: an empty run queue, a wait
queue, a contended mutex, the acknowledgement of an IPI. Whoever has news for a CPU changes the state
and notifies that condition, so a sleeping CPU takes interrupts as a real one does in its idle loop.

Locks: ``lock`` protects ``tasks``, ``interrupts`` and ``stoppers`` and everything that a predicate
given to :meth:`Sleeper.sleep_until` reads. ``irqs_enabled`` belongs to the CPU's own thread.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Any

from concmem.errors import CpuStopped, MachineClosed, SleepInAtomic
from concmem.runtime.sleeper import Call, Sleeper


def end_of(future: Future[Any]) -> threading.Lock:
    """
    A lock that is free once *future* is done.

    A bare lock, because Ctrl-C in the middle of ``concurrent.futures.wait`` can leave the future's
    own locked for ever, and its CPU waiting for it.
    """
    end = threading.Lock()
    end.acquire()
    future.add_done_callback(lambda _: end.release())
    return end


def wait_for_ends(ends: Sequence[threading.Lock]) -> None:
    """
    Wait for what `end_of` has made.

    The host may deliver a signal to any thread, or just before this one blocks, and that does not
    end the wait for a lock. So look up now and then, for Ctrl-C.
    """
    for end in ends:
        while not end.acquire(timeout=0.5):
            pass


class Cpu(Sleeper):
    """
    One simulated CPU, or one kernel thread.

    Args:
        number: what ``smp_processor_id()`` returns on it.
        enter: called first on the new thread, to bind it to its per-CPU data.
        on_interrupt_failure: told of handlers that raised while nobody waited for them.
        task_exits: called after each task, on the thread.
    """

    def __init__(
        self,
        number: int,
        name: str,
        enter: Callable[[Cpu], None],
        on_interrupt_failure: Callable[[Cpu, BaseException], None],
        task_exits: Sequence[Callable[[], None]] = (),
    ) -> None:
        super().__init__()
        self.number = number
        self.name = name
        self.native_id = 0
        self._enter = enter
        self._on_interrupt_failure = on_interrupt_failure
        self._task_exits = task_exits
        # lock: tasks, interrupts, stoppers, nr_posted, stopping, gone
        self.tasks: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self.interrupts: deque[Callable[[], Any]] = deque()
        self.stoppers: deque[Callable[[], None]] = deque()
        self.nr_posted = 0
        self.stopping = False
        self.gone = False
        # `attention` is written under lock and read without: it only ever says "look under lock".
        # A CPU that misses a fresh True sees it at its next point.
        self.area: list[Any] = [False]
        """Item 0, `attention`, then this CPU's per-CPU data."""
        # this CPU's thread only
        self.irqs_enabled = True
        self.in_interrupt = False
        self.nr_interrupts = 0
        self.spinlocks_held = 0
        """Spinlocks this CPU holds, where the runtime's locks know their holder."""
        self.nr_taken = 0
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)

    @property
    def attention(self) -> bool:
        """Whether the CPU should look for interrupts, or park, or stop."""
        return bool(self.area[0])

    @attention.setter
    def attention(self, attention: bool) -> None:
        self.area[0] = attention

    # -- the thread

    def start(self) -> None:
        self.thread.start()
        self.native_id = self.thread.native_id or 0

    def _main(self) -> None:
        self._enter(self)
        try:
            while True:
                self.sleep_until(self._has_task)
                future, fn, args = self.tasks.popleft()
                if future.set_running_or_notify_cancel():
                    self._run_task(future, fn, args)
                del future, fn, args  # an idle CPU keeps nothing alive
        except CpuStopped:
            self._cancel_all()

    def _has_task(self) -> bool:
        return bool(self.tasks)

    def _run_task(self, future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            try:
                result = fn(*args)
            finally:
                for task_exit in self._task_exits:
                    task_exit()
        except CpuStopped:
            future.set_exception(MachineClosed(f"{self.name} was shut down while running a body"))
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            # A body that raised between local_irq_save and restore must not leave a deaf CPU.
            self.irqs_enabled = True
            self.spinlocks_held = 0

    def _cancel_all(self) -> None:
        """On the way out: nobody may wait for ever for a CPU that is gone."""
        with self.lock:
            self.stopping = self.gone = True
            tasks, self.tasks = list(self.tasks), deque()
            calls, self.interrupts = list(self.interrupts), deque()
            stoppers, self.stoppers = list(self.stoppers), deque()
            self.cond.notify_all()
        for future, _, _ in tasks:
            if future.set_running_or_notify_cancel():
                future.set_exception(MachineClosed(f"{self.name} was shut down"))
        for call in calls:
            if isinstance(call, Call):
                call.error = CpuStopped()
                call.waiter.wake()
        for stopper in stoppers:
            stopper()

    # -- news from elsewhere

    def post_task(
        self, fn: Callable[..., Any], args: tuple[Any, ...], future: Future[Any] | None = None
    ) -> Future[Any]:
        future = future or Future()
        with self.lock:
            self._check_alive()
            self.tasks.append((future, fn, args))
            self.cond.notify_all()
        return future

    def post_interrupt(self, fn: Callable[[], Any]) -> None:
        with self.lock:
            self._check_alive()
            self.interrupts.append(fn)
            self.nr_posted += 1
            self.attention = True
            self.cond.notify_all()

    def flush_interrupts(self) -> None:
        """On a thread that is no CPU: wait until what has been posted by now has been taken."""
        with self.lock:
            last = self.nr_posted
            self.cond.wait_for(lambda: self.gone or self.nr_taken >= last)

    def post_stopper(self, fn: Callable[[], None]) -> bool:
        """Have *fn* run between two operations; false when the CPU is gone."""
        with self.lock:
            if self.gone:  # one that is only going still runs its body
                return False
            self.stoppers.append(fn)
            self.attention = True
            self.cond.notify_all()
            return True

    def post_stop(self) -> None:
        with self.lock:
            self.stopping = True
            self.attention = True
            self.cond.notify_all()

    def _check_alive(self) -> None:
        if self.stopping:
            raise MachineClosed(f"{self.name} has been shut down")

    # -- on the CPU's own thread

    def take_interrupts(self) -> None:
        """Run what has been posted, if interrupts are enabled, and with them disabled."""
        # Not what comes meanwhile, which stays for the next point: a CPU under a constant stream
        # of interrupts must get on with its work between them.
        left = len(self.interrupts)
        while self.irqs_enabled:
            with self.lock:
                if not left or not self.interrupts:
                    self._update_attention()
                    self.cond.notify_all()  # for flush_interrupts
                    return
                handler = self.interrupts.popleft()
            left -= 1
            self.run_handler(handler)
            self.nr_taken += 1

    def run_handler(self, handler: Callable[[], Any]) -> None:
        """Run one interrupt handler here and now."""
        nested = self.in_interrupt
        enabled = self.irqs_enabled
        self.irqs_enabled = False
        self.in_interrupt = True
        self.nr_interrupts += 1
        try:
            handler()
        except CpuStopped:
            raise
        except BaseException as error:
            self._on_interrupt_failure(self, error)
        finally:
            self.in_interrupt = nested
            self.irqs_enabled = enabled

    def schedule(self) -> None:
        """Between two operations: take interrupts, park for ``stop_machine``, stop."""
        if self.in_interrupt or not self.irqs_enabled:
            return
        self.give_way()
        if self.stopping:
            raise CpuStopped

    def give_way(self) -> None:
        """As `schedule`, but goes on when the CPU is to stop."""
        if not self.in_interrupt and self.irqs_enabled:
            self.take_interrupts()
            self._park()

    def relax(self) -> None:
        """While waiting for another CPU: take interrupts; stop, as that CPU may be gone."""
        self.take_interrupts()
        if self.stopping and not self.in_interrupt:
            raise CpuStopped

    def _park(self) -> None:
        """Park once: if the next ``stop_machine`` is waiting already, it has to wait for a point."""
        with self.lock:
            stopper = self.stoppers.popleft() if self.stoppers else None
            self._update_attention()
        if stopper is not None:
            stopper()

    def _update_attention(self) -> None:
        """Caller holds `lock`."""
        self.attention = self.stopping or bool(self.interrupts) or bool(self.stoppers)

    def stack(self) -> str:
        """Where the CPU is now, innermost call last; for reports."""
        frame = sys._current_frames().get(self.thread.ident or 0)
        return "".join(traceback.format_stack(frame)[-8:]) if frame is not None else "(no frame)\n"

    def assert_may_sleep(self) -> None:
        if self.in_interrupt or not self.irqs_enabled or self.spinlocks_held:
            where = (
                "an interrupt handler"
                if self.in_interrupt
                else f"a section with {self.spinlocks_held} spinlock(s) held"
                if self.spinlocks_held
                else "a section with irqs disabled"
            )
            raise SleepInAtomic(f"BUG: scheduling while atomic: {self.name} sleeps in {where}")

    def sleep_until(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """As `Sleeper.sleep_until`, taking interrupts meanwhile. Raises `CpuStopped` on shutdown."""
        self.assert_may_sleep()
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            # Give way once, then look: a CPU that others stop or interrupt all the time gets on.
            if self.attention:
                self.schedule()
            with self.lock:
                while True:
                    if predicate():
                        return True
                    remaining = None if deadline is None else deadline - monotonic()
                    if remaining is not None and remaining <= 0:
                        return False
                    if self.attention:
                        break
                    self.cond.wait(remaining)
