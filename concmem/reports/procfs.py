"""
The ``/proc`` files of a machine: read one as text, or export all of them as a directory tree.

The files are rendered from one snapshot of statistics; no lock is held while rendering or writing,
and any thread may call.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument
from concmem.reports import buddyinfo, lock_stat, meminfo, pagetypeinfo, vmstat, zoneinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from concmem.mm.statistics import MachineStatistics

    Renderer = Callable[[MachineStatistics], str]

FILES: Final[dict[str, Renderer]] = {
    "buddyinfo": buddyinfo.render,
    "lock_stat": lock_stat.render,
    "meminfo": meminfo.render,
    "pagetypeinfo": pagetypeinfo.render,
    "vmstat": vmstat.render,
    "zoneinfo": zoneinfo.render,
}
"""Name, relative to ``/proc`` and with ``/`` between its parts, and what makes the text."""


class ProcFs:
    """
    The files of one machine.

    Args:
        statistics: takes a snapshot of the machine; called once for each read or export.
        files: name and renderer of each file.
    """

    def __init__(
        self,
        statistics: Callable[[], MachineStatistics],
        files: Mapping[str, Renderer] = FILES,
    ) -> None:
        self._statistics = statistics
        self._files = files

    def names(self) -> list[str]:
        """The names that :meth:`read` knows, sorted."""
        return sorted(self._files)

    def read(self, name: str) -> str:
        """
        The text of one file.

        Raises:
            BadArgument: there is no file *name*.
        """
        if name not in self.names():
            raise BadArgument(f"name: expected one of {', '.join(self.names())}; got {name!r}")
        return self._files[name](self._statistics())

    def export(self, directory: str | os.PathLike[str]) -> list[Path]:
        """
        Write every file below *directory*, which is created if need be.

        All files are of the same moment. Each one appears whole or not at all; a reader may
        still see some files of this export beside some of the one before.

        Returns:
            The paths written, in the order of :meth:`names`.

        Raises:
            BadArgument: *directory*, or a directory to make there, is a file. No file was written.
            OSError: as from any write; complete files stay, incomplete ones are removed.
        """
        paths = {name: Path(directory, name) for name in self.names()}
        for path in paths.values():
            _make_directory(path.parent)
        stats = self._statistics()
        texts = {path: self._files[name](stats) for name, path in paths.items()}
        for path, text in texts.items():
            _replace(path, text)
        return list(texts)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadArgument(f"directory: {os.fspath(path)!r} is a file or below one") from error


def _replace(path: Path, text: str) -> None:
    """Write *path* under another name, then rename. The name is unique among live threads."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
