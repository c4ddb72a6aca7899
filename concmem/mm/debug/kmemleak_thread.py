"""
The leak detector's kernel thread: it scans by itself every now and then, and does what others ask it to.

A scan needs a CPU, to be an RCU reader and to be interrupted. A thread that is none has its commands done here.

Locks:
    kmemleak_thread_lock    what there is to do, and when the next scan is due; a leaf
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from concmem.errors import MachineClosed
from concmem.units import HZ

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

T = TypeVar("T")

SECS_FIRST_SCAN: Final = 60
"""Seconds from boot to the first scan."""
SECS_SCAN_WAIT: Final = 600
"""Seconds from one scan to the next."""


class _Request:
    """Something that a thread waits for."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self.fn = fn
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.result = self.fn()
        except Exception as error:
            self.error = error


class KmemleakThread:
    """
    One kernel thread.

    Args:
        scan: an automatic scan; looks again, at `scanning`, whether there should be one.
        started: called on the thread, first.
    """

    __guarded_by__: Final = dict.fromkeys(
        ("_requests", "_scanning", "_next_scan", "_scan_wait"), "_lock"
    )

    def __init__(
        self, rt: Runtime, scan: Callable[[], object], started: Callable[[], object]
    ) -> None:
        self._rt = rt
        self._scan = scan
        self._started = started
        self._lock = rt.spinlock("kmemleak_thread_lock")
        self._wake = rt.waitqueue(self._lock, "kmemleak_wait")
        self._answers = rt.waitqueue(self._lock, "kmemleak_done")
        # _lock
        self._requests: deque[_Request] = deque()
        self._scanning = True
        self._next_scan = rt.jiffies + SECS_FIRST_SCAN * HZ
        self._scan_wait = SECS_SCAN_WAIT * HZ
        rt.watch(self)
        rt.kthread_run(self._run, "kmemleak")

    def call(self, fn: Callable[[], T]) -> T:
        """Have ``fn()`` called on the thread; its result, or raises what it raised. Sleeps."""
        request = _Request(fn)
        with self._lock:
            self._requests.append(request)
            self._wake.wake_up()
            self._answers.wait_for(lambda: request.done)
        if request.error is not None:
            raise request.error
        return cast(T, request.result)

    def start_scanning(self, every: int | None = None) -> None:
        """Scan now, and then each *every* seconds; by default as before."""
        with self._lock:
            if every is not None:
                self._scan_wait = every * HZ
            self._scanning = True
            self._next_scan = self._rt.jiffies
            self._wake.wake_up()

    def stop_scanning(self) -> None:
        """No automatic scan begins from now on."""
        with self._lock:
            self._scanning = False

    def scanning(self) -> bool:
        """Whether there are automatic scans."""
        with self._lock:
            return self._scanning

    # -- the thread

    def _run(self) -> None:
        self._started()
        while True:
            request = self._wait()
            if request is None:
                self._scan_and_go_on()
                with self._lock:
                    self._next_scan = self._rt.jiffies + self._scan_wait
            else:
                request.run()
                with self._lock:
                    request.done = True
                    self._answers.wake_up_all()

    def _scan_and_go_on(self) -> None:
        """An automatic scan. Whatever it raises, others still wait for what they have asked for."""
        try:
            self._scan()
        except MachineClosed:
            raise  # nothing that the scan did
        except Exception as error:
            error.add_note("raised by an automatic scan of kmemleak")
            self._rt.report_failure(error)

    def _wait(self) -> _Request | None:
        """The next request; or ``None`` when an automatic scan is due."""
        with self._lock:
            while not self._requests:
                jiffies_left = self._next_scan - self._rt.jiffies if self._scanning else None
                if jiffies_left is not None and jiffies_left <= 0:
                    return None
                seconds = None if jiffies_left is None else jiffies_left / HZ
                self._wake.wait(seconds, lambda: bool(self._requests))
            return self._requests.popleft()
