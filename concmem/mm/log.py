"""The kernel log (``dmesg``): the last lines that anything has to say."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

LOG_LINES: Final = 1000
"""Lines kept; older ones are dropped."""


class KernelLog:
    """A ring of lines with the time of the model, as ``[    1.234567] text``."""

    __guarded_by__: Final = {"_lines": "_lock"}

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._lock = rt.spinlock("logbuf_lock", irqsave=True)
        self._lines: deque[str] = deque(maxlen=LOG_LINES)  # _lock
        rt.watch(self)

    def printk(self, text: str) -> None:
        """Append *text*, a line or several. Never sleeps."""
        seconds = self._rt.clock_ns() / 1e9
        with self._lock:
            self._lines.extend(f"[{seconds:12.6f}] {line}" for line in text.splitlines())

    def read(self) -> str:
        """All lines kept, oldest first."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines)
