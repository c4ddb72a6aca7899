"""A tree of ``/proc`` files that follows a running machine, for programs that watch one."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from concmem.errors import BadArgument

if TYPE_CHECKING:
    import os

    from concmem.reports.procfs import ProcFs

EXPORT_EVERY: Final = 1.0
"""Seconds from the end of one export to the next."""

SLOW: Final = ("sys/kernel/slab",)
"""What is written at the beginning and at the end only."""

STOP_SECONDS: Final = 30.0
"""How long to wait for the end of the last export: that of a machine that hangs may never come."""


class LiveExport:
    """
    Exports the files of a machine every second, from a thread of its own.

    A context manager: there is an export before its body begins, and one after it has ended. Between them
    ``sys/kernel/slab`` stays as it was: its thousands of files take longer to write than a second while
    CPUs keep the interpreter busy. When files cannot be written any more, `error` says why.

    Args:
        procfs: the files.
        directory: where they go.

    Raises:
        BadArgument: on entry, when they cannot be written there at all.
    """

    def __init__(self, procfs: ProcFs, directory: str | os.PathLike[str]) -> None:
        self._procfs = procfs
        self._directory = directory
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="concmem-export", daemon=True)
        self.error = ""
        """Why there are no more exports; empty: there was one at the end."""

    def __enter__(self) -> Self:
        try:
            self._procfs.export(self._directory)
        except OSError as error:
            raise BadArgument(f"directory: cannot be written: {error}") from None
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop_asked.set()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            self.error = "the last export did not come to its end"

    def _run(self) -> None:
        stopped = False
        while not stopped and not self.error:
            stopped = self._stop_asked.wait(EXPORT_EVERY)
            try:
                self._procfs.export(self._directory, () if stopped else SLOW)
            except Exception as error:  # a full disk must not end the run
                self.error = f"{type(error).__name__}: {error}"
