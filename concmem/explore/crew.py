"""
The OS threads of controlled executions, kept alive from one execution to the next.

One of them runs at a time. Each waits at a *gate* of its own; whoever picks it opens that and waits at its
own, without a thread in between. A gate is an eventfd: both its calls give up the GIL, so the thread that is
woken finds it free. With a lock, the woken thread would run into the GIL of the one that has woken it and go to
sleep once more: half as fast with a GIL, and fifteen times slower without one, measured.

All threads of a crew are pinned to one host CPU while they work: a hand-over between host CPUs costs ten
times as much, and only one of the threads runs at a time anyway.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from concmem.explore.task import ControlledCpu

current_crew: ContextVar[Crew | None] = ContextVar("concmem_crew", default=None)
"""The crew that a thread belongs to, or works for."""


class Gate:
    """Where a thread waits until another one opens it. Opened once, it lets one through."""

    __slots__ = ("_fd", "_poll", "open", "wait")

    def __init__(self) -> None:
        self._fd = fd = os.eventfd(0, os.EFD_CLOEXEC)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self.open: Callable[[], None] = partial(os.eventfd_write, fd, 1)
        self.wait: Callable[[], object] = partial(os.eventfd_read, fd)
        """Gives up the GIL; signals are handled meanwhile, on the main thread."""

    def is_open(self, seconds: float) -> bool:
        """Whether it is open, or is opened within *seconds*; `wait` will then not wait."""
        return bool(self._poll(seconds * 1000))

    def close(self) -> None:
        os.close(self._fd)


class Worker:
    """One OS thread and its gate."""

    def __init__(self, crew: Crew, number: int) -> None:
        self.gate = Gate()
        self._crew = crew
        self.cpu: ControlledCpu | None = None
        """The CPU that it is now; ``None``: end when the gate opens."""
        self.thread = threading.Thread(
            target=self._main, name=f"concmem-controlled-{number}", daemon=True
        )
        self.thread.start()
        self.native_id = self.thread.native_id or 0

    def _main(self) -> None:
        current_crew.set(self._crew)
        crew, wait = self._crew, self.gate.wait
        while True:
            wait()
            cpu = self.cpu
            if cpu is None:
                return
            crew.execution.work(cpu)


class Crew:
    """The threads of one exploration (or of one runtime)."""

    def __init__(self, pin: bool = True) -> None:
        self.workers: list[Worker] = []
        self.gate = Gate()
        """Of the thread that these work for."""
        self.execution: Any = None
        """The execution that they work for now."""
        self.watched: dict[Any, type] = {}
        """Classes made by `watch`."""
        self.lost: list[Worker] = []
        """Threads that do not come back."""
        self.checked: set[type] = set()
        """Classes whose guards were checked."""
        self._cpus: dict[tuple[int, str, int], ControlledCpu] = {}
        self._pin = pin
        self._pinned_to: int | None = None

    def worker(self, number: int) -> Worker:
        """Thread *number*, started when first asked for."""
        while number >= len(self.workers):
            self.workers.append(Worker(self, len(self.workers)))
        return self.workers[number]

    def cpu(self, number: int, name: str, nr_cpus: int) -> ControlledCpu:
        """CPU *number* of *nr_cpus*, on its thread, as new; kernel threads have the numbers after."""
        key = number, name, nr_cpus
        cpu = self._cpus.get(key)
        if cpu is not None:
            cpu.renew()
        else:
            cpu = self._cpus[key] = ControlledCpu(number, name, nr_cpus)
            worker = self.worker(number)
            cpu.thread, cpu.native_id = worker.thread, worker.native_id
            cpu.main.gate = cpu.irq.gate = worker.gate
        self.workers[number].cpu = cpu
        return cpu

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """For the duration: this thread, and all of the crew, on one host CPU."""
        if not self._pin or not hasattr(os, "sched_setaffinity"):
            yield
            return
        allowed = os.sched_getaffinity(0)
        # By process, so that several test processes do not all choose the same one.
        core = sorted(allowed)[os.getpid() % len(allowed)]
        os.sched_setaffinity(0, {core})  # threads started from here on inherit it
        for worker in self.workers:
            os.sched_setaffinity(worker.native_id, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)

    def lose(self) -> None:
        """One of the threads hangs, and whatever waits for it: leave them, and go on with new ones."""
        self.lost += [worker for worker in self.workers if worker.cpu and worker.cpu.active]
        self.workers = [worker for worker in self.workers if worker not in self.lost]
        self._cpus.clear()

    def dismiss(self) -> None:
        """End all threads. None of them is inside of an execution."""
        for worker in self.workers:
            worker.cpu = None
            worker.gate.open()
        for worker in self.workers:
            worker.thread.join()
            worker.gate.close()
        self.gate.close()
        self.workers.clear()
