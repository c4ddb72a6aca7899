"""
The ``/proc`` files of a machine, and those of ``/sys/kernel/slab``: read one as text, or export all
of them as a directory tree.

The files are rendered from one snapshot of statistics; no lock is held while rendering or writing,
and any thread may call.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.errors import BadArgument
from concmem.reports import (
    buddyinfo,
    lock_stat,
    lockdep,
    meminfo,
    pagetypeinfo,
    pid_files,
    pid_status,
    slab_sysfs,
    slabinfo,
    vmallocinfo,
    vmstat,
    zoneinfo,
)
from concmem.reports.export import check_place, make_directory, replace_file, replace_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from concmem.mm.statistics import MachineStatistics

    Renderer = Callable[[MachineStatistics], str]

FILES: Final[dict[str, Renderer]] = {
    "buddyinfo": buddyinfo.render,
    "lock_stat": lock_stat.render,
    "lockdep": lockdep.render,
    "lockdep_chains": lockdep.render_chains,
    "lockdep_stats": lockdep.render_stats,
    "meminfo": meminfo.render,
    "pagetypeinfo": pagetypeinfo.render,
    "slabinfo": slabinfo.render,
    "stat": pid_status.render_stat,
    "vmallocinfo": vmallocinfo.render,
    "vmstat": vmstat.render,
    "zoneinfo": zoneinfo.render,
}
"""Name, relative to ``/proc`` and with ``/`` between its parts, and what makes the text."""


class Directory(NamedTuple):
    """A directory of directories, whose names depend on the machine."""

    subdirectories: Callable[[MachineStatistics], Mapping[str, Any]]
    """Name, and what the files in it are about."""
    links: Callable[[MachineStatistics], Mapping[str, str]]
    """Further names of subdirectories."""
    files: Callable[[Any], Mapping[str, Callable[[], str]]]
    """The files about that, and what makes the text of each when it is wanted."""

    def find(self, stats: MachineStatistics, name: str) -> Callable[[], str] | None:
        """What makes the text of ``subdirectory/file``, also through a link."""
        subdirectory, _, file = name.partition("/")
        subdirectory = self.links(stats).get(subdirectory, subdirectory)
        subdirectories = self.subdirectories(stats)
        if subdirectory not in subdirectories:
            return None
        return self.files(subdirectories[subdirectory]).get(file)

    def all_files(self, stats: MachineStatistics) -> dict[str, Callable[[], str]]:
        """Every file, under its own name only."""
        return {
            f"{subdirectory}/{name}": text
            for subdirectory, about in self.subdirectories(stats).items()
            for name, text in self.files(about).items()
        }

    def names(self, stats: MachineStatistics) -> list[str]:
        """Every name that `find` knows."""
        subdirectories = self.subdirectories(stats)
        whole = [*((name, name) for name in subdirectories), *self.links(stats).items()]
        return [f"{name}/{file}" for name, sub in whole for file in self.files(subdirectories[sub])]


DIRECTORIES: Final[dict[str, Directory]] = {
    "sys/kernel/slab": Directory(slab_sysfs.directories, slab_sysfs.links, slab_sysfs.cache_files),
    "": Directory(pid_files.directories, pid_files.links, pid_files.process_files),
}
"""Where each is, beside `FILES`; processes are in ``/proc`` itself."""


def _join(where: str, name: str) -> str:
    return f"{where}/{name}" if where else name


class ProcFs:
    """
    The files of one machine.

    Args:
        statistics: takes a snapshot of the machine; called once by each method.
        files: name and renderer of each file.
        directories: files whose names depend on the snapshot.
    """

    def __init__(
        self,
        statistics: Callable[[], MachineStatistics],
        files: Mapping[str, Renderer] = FILES,
        directories: Mapping[str, Directory] = DIRECTORIES,
    ) -> None:
        self._statistics = statistics
        self._files = files
        self._directories = directories
        self.nr_reads: Counter[str] = Counter()
        """
        Times that each of *files* was read or exported, and ``smaps`` and so on of any process. No lock:
        of two at once, one may count.
        """

    def _count_process_file(self, name: str) -> None:
        self.nr_reads[name.rpartition("/")[2]] += 1

    def names(self) -> list[str]:
        """The names that :meth:`read` knows at the moment, sorted; with those through links."""
        stats = self._statistics()
        names = list(self._files)
        for where, directory in self._directories.items():
            names += [_join(where, name) for name in directory.names(stats)]
        return sorted(names)

    def read(self, name: str) -> str:
        """
        The text of one file. No other is rendered.

        Raises:
            BadArgument: there is no file *name*, or not any more.
        """
        return self.render(self._statistics(), name)

    def render(self, stats: MachineStatistics, name: str) -> str:
        """`read` at the moment of *stats*, a snapshot that the caller has taken of the machine."""
        if name in self._files:
            text = self._files[name](stats)
            self.nr_reads[name] += 1
            return text
        for where, directory in self._directories.items():
            if name.startswith(_join(where, "")):
                make = directory.find(stats, name.removeprefix(_join(where, "")))
                if make is not None:
                    text = make()
                    if not where:
                        self._count_process_file(name)
                    return text
        known = [
            *sorted(self._files),
            *(_join(where or "<pid>", "...") for where in self._directories),
        ]
        raise BadArgument(f"name: expected one of {', '.join(known)}; got {name!r}")

    def export(self, directory: str | os.PathLike[str], skip: Collection[str] = ()) -> list[Path]:
        """
        Write every file below *directory*, which is created if need be.

        All files are of the same moment. Each one appears whole or not at all; a reader may
        still see some files of this export beside some of the one before. ``sys/kernel/slab`` is
        replaced as a whole, with whatever is in it, so that no cache stays there that is gone; for
        an instant it is not there. So is the directory of each process; those of others are removed.

        Args:
            skip: keys of `DIRECTORIES` that are left as they are.

        Returns:
            The paths written, sorted: those of :meth:`names`, but a link instead of what is in it.

        Raises:
            BadArgument: *directory*, or a directory to make there, is a file. No file was written.
            OSError: as from any write; complete files stay, incomplete ones are removed.
        """
        root = Path(directory)
        directories = {where: d for where, d in self._directories.items() if where not in skip}
        for name in self._files:
            make_directory((root / name).parent)
        for where in directories:
            make_directory((root / where).parent)
            check_place(root / where)
        stats = self._statistics()
        texts = {name: render(stats) for name, render in self._files.items()}
        written = []
        for name, text in sorted(texts.items()):
            replace_file(root / name, text)
            self.nr_reads[name] += 1
            written.append(name)
        for where, tree in directories.items():
            files = {name: text() for name, text in tree.all_files(stats).items()}
            links = tree.links(stats)
            if not where:
                pid_files.replace_processes(root, files)
                for name in files:
                    self._count_process_file(name)
            elif files:
                replace_tree(root / where, files, links)
            written += [_join(where, name) for name in (*files, *links)]
        return [root / name for name in sorted(written)]
