"""
A thread that looks at the machine while a run is on: quickly now and then, closely more seldom.

It is a thread of its own since a close look may wait for locks of the machine: when that hangs, the thread
hangs with it, and nobody else does.
"""

from __future__ import annotations

import threading
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concmem.workloads.peaks import PeakLog
    from concmem.workloads.sampler import Sampler

SHARE: Final = 50
"""
A close look is followed by a pause of so many times the host CPU time that it took: some 20 ms for a machine
of 8 CPUs. A quick one takes 1.
"""

STOP_SECONDS: Final = 5.0
"""How long to wait for the end of the last look."""


class Observer(threading.Thread):
    """
    Looks until it is stopped. Read `error` after that.

    Args:
        sampler: for the quick looks; nobody else uses it meanwhile.
        peaks: for the close ones.
    """

    def __init__(self, sampler: Sampler, peaks: PeakLog) -> None:
        super().__init__(name="concmem-observer", daemon=True)
        self.sampler = sampler
        self.peaks = peaks
        self.error = ""
        """Why it has ended early; empty: it has not."""
        self._stop_asked = threading.Event()
        self._began = perf_counter()

    def run(self) -> None:
        """Both kinds of looks, at their times; a quick one at the end, too."""
        next_close_look = 0.0
        try:
            self.sampler.look(0.0)
            stopped = False
            while not stopped:
                stopped = self._stop_asked.wait(self.sampler.every)
                seconds = self._seconds()
                self.sampler.look(seconds)
                if not stopped and seconds >= next_close_look:
                    used = thread_time()
                    self.peaks.look(seconds, self.sampler.phase())
                    next_close_look = self._seconds() + SHARE * (thread_time() - used)
        except Exception as error:  # the run matters more
            self.error = f"{type(error).__name__}: {error}"

    def _seconds(self) -> float:
        return perf_counter() - self._began

    def stop(self) -> None:
        """Have it end, and wait for that, but not for ever."""
        self._stop_asked.set()
        self.join(STOP_SECONDS)
        if self.is_alive():
            self.error = "the last look at the machine did not come to its end"
