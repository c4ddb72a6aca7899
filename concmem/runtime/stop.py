"""One ``stop_machine``: CPUs come, wait together, and go on together."""

from __future__ import annotations

import threading

from concmem.runtime.sleeper import Sleeper


class Stop:
    """One ``stop_machine``: CPUs come, wait together, and go on together."""

    def __init__(self, sleeper: Sleeper) -> None:
        self._sleeper = sleeper
        self._gate = threading.Event()
        self.expected = 0
        self._parked = 0  # under the sleeper's lock

    def park(self) -> None:
        """On a CPU: say that it is parked, and stay until :meth:`release`."""
        self.park_nobody()
        self.stay()

    def stay(self) -> None:
        """On a CPU: wait for :meth:`release`."""
        self._gate.wait()

    def park_nobody(self) -> None:
        """Count a CPU as parked: it is gone."""
        with self._sleeper.lock:
            self._parked += 1
            self._sleeper.cond.notify_all()

    def wait_for_all(self) -> None:
        self._sleeper.sleep_until(lambda: self._parked >= self.expected)

    def release(self) -> None:
        self._gate.set()
