"""
The OS threads of controlled executions, kept alive from one execution to the next.

One of them runs at a time. Each waits at a *gate*, a lock that is taken; whoever picks it releases that
lock and waits at its own. So a hand-over is two lock operations, without a thread in between.

All threads of a crew are pinned to one host CPU while they work: a hand-over between host CPUs costs ten
times as much, and only one of the threads runs at a time anyway.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Worker:
    """One OS thread and its gate."""

    def __init__(self, number: int) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.job: Callable[[], Any] | None = None
        """What to do whenever the gate opens; ``None``: end."""
        self.thread = threading.Thread(
            target=self._main, name=f"concmem-controlled-{number}", daemon=True
        )
        self.thread.start()
        self.native_id = self.thread.native_id or 0

    def _main(self) -> None:
        wait = self.gate.acquire
        while True:
            wait()
            job = self.job
            if job is None:
                return
            job()
            del job  # an idle thread keeps nothing alive


class Crew:
    """The threads of one exploration (or of one runtime)."""

    def __init__(self, pin: bool = True) -> None:
        self.workers: list[Worker] = []
        self.execution: Any = None
        """The execution that they work for now."""
        self.watched: dict[Any, type] = {}
        """Classes made by `watch`."""
        self.checked: set[type] = set()
        """Classes whose guards were checked."""
        self._pin = pin
        self._pinned_to: int | None = None

    def worker(self, number: int) -> Worker:
        """Thread *number*, started when first asked for."""
        while number >= len(self.workers):
            self.workers.append(Worker(len(self.workers)))
        return self.workers[number]

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

    def dismiss(self) -> None:
        """End all threads. None of them is inside of an execution."""
        for worker in self.workers:
            worker.job = None
            worker.gate.release()
        for worker in self.workers:
            worker.thread.join()
        self.workers.clear()
