"""
``local_lock_t``: what only one CPU touches, and not even its interrupts meanwhile.

On a kernel without PREEMPT_RT this is ``local_irq_save``, and so it is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from concmem.runtime.api import Runtime


class LocalLock:
    """``with lock:`` on the CPU that owns the data. Not recursive."""

    __slots__ = ("_flags", "_restore", "_save")

    def __init__(self, rt: Runtime) -> None:
        self._save = rt.local_irq_save
        self._restore = rt.local_irq_restore
        self._flags = False

    def __enter__(self) -> None:
        # Stored with interrupts off already, so no handler's flags can come in between.
        self._flags = self._save()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore(self._flags)
