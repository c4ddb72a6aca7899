from __future__ import annotations

from pathlib import Path

import pytest

from concmem.errors import BadArgument
from concmem.mm.statistics import MachineStatistics
from concmem.reports.procfs import FILES, ProcFs

from .samples import make_machine, make_zone

NAMES = ["buddyinfo", "lock_stat", "meminfo", "pagetypeinfo", "vmstat", "zoneinfo"]


class Snapshots:
    """Statistics that count how often they are taken, in nr_free_pages."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self) -> MachineStatistics:
        self.taken += 1
        return make_machine(make_zone(nr_free_pages=self.taken))


def everything_below(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_names_can_all_be_read() -> None:
    """Every name gives a text that ends with a newline, from one snapshot each."""
    statistics = Snapshots()
    procfs = ProcFs(statistics)
    assert procfs.names() == NAMES
    assert all(procfs.read(name).endswith("\n") for name in procfs.names())
    assert statistics.taken == len(NAMES)


def test_unknown_name_lists_the_valid_ones() -> None:
    """Reading a file that does not exist says which do."""
    with pytest.raises(BadArgument, match=r"^name: .*buddyinfo, lock_stat, .*; got 'meminf'$"):
        ProcFs(Snapshots()).read("meminf")


def test_export_writes_one_snapshot(tmp_path: Path) -> None:
    """All files of an export show the same moment and equal what read() gives for it."""
    statistics = Snapshots()
    directory = tmp_path / "new" / "proc"
    paths = ProcFs(statistics).export(directory)
    assert statistics.taken == 1
    assert paths == [directory / name for name in NAMES]
    assert everything_below(directory) == NAMES
    frozen = ProcFs(lambda: make_machine(make_zone(nr_free_pages=1)))
    for path in paths:
        assert path.read_bytes() == frozen.read(path.name).encode()


def test_export_replaces_an_earlier_one(tmp_path: Path) -> None:
    """A second export into the same directory leaves the new files and no others."""
    procfs = ProcFs(Snapshots())
    procfs.export(str(tmp_path))
    procfs.export(tmp_path)
    assert (tmp_path / "vmstat").read_text().startswith("nr_free_pages 2\n")
    assert everything_below(tmp_path) == NAMES


def test_files_in_subdirectories(tmp_path: Path) -> None:
    """A name with slashes becomes a file in a directory made for it."""
    name = "sys/kernel/slab/kmalloc-64/objects"
    procfs = ProcFs(Snapshots(), files={name: lambda stats: "2753 N0=2753\n"})
    assert procfs.export(tmp_path) == [tmp_path / name]
    assert (tmp_path / name).read_text() == procfs.read(name) == "2753 N0=2753\n"


@pytest.mark.parametrize("below", ["", "proc"])
def test_export_to_a_file_is_refused(tmp_path: Path, below: str) -> None:
    """A path that is a file, or leads through one, is refused and the file keeps its text."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(BadArgument, match=r"^directory: .*file"):
        ProcFs(Snapshots()).export(file / below)
    assert file.read_text() == "mine"


def test_subdirectory_that_is_a_file_stops_the_export(tmp_path: Path) -> None:
    """When one directory cannot be made, no file at all is written and no snapshot taken."""
    (tmp_path / "sys").write_text("mine")
    statistics = Snapshots()
    procfs = ProcFs(statistics, files={**FILES, "sys/x": lambda stats: ""})
    with pytest.raises(BadArgument, match=r"^directory: "):
        procfs.export(tmp_path)
    assert everything_below(tmp_path) == ["sys"]
    assert statistics.taken == 0


def test_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    """An export that cannot rename a file removes what it wrote for it."""
    (tmp_path / "buddyinfo").mkdir()
    with pytest.raises(OSError, match="buddyinfo"):
        ProcFs(Snapshots()).export(tmp_path)
    assert everything_below(tmp_path) == []
