from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from concmem.errors import BadArgument
from concmem.mm.statistics import MachineStatistics, SlabStatistics
from concmem.reports.procfs import FILES, Directory, ProcFs

from .samples import make_machine, make_slab, make_zone

NAMES = [
    *("buddyinfo", "lock_stat", "lockdep", "lockdep_chains", "lockdep_stats"),
    *("meminfo", "pagetypeinfo", "slabinfo"),
    *("stat", "vmallocinfo", "vmstat", "zoneinfo"),
]
SLAB = "sys/kernel/slab"


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
    """Every name gives a text of whole lines, from one snapshot each; no areas, no lines."""
    statistics = Snapshots()
    procfs = ProcFs(statistics)
    assert procfs.names() == NAMES
    assert statistics.taken == 1  # which names there are depends on the caches
    texts = {name: procfs.read(name) for name in NAMES}
    assert texts.pop("vmallocinfo") == ""
    assert all(text.endswith("\n") for text in texts.values())
    assert statistics.taken == 1 + len(NAMES)


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


class Caches:
    """Statistics with caches that come and go."""

    def __init__(self, *slabs: SlabStatistics) -> None:
        self.slabs = slabs
        self.taken = 0

    def __call__(self) -> MachineStatistics:
        self.taken += 1
        return make_machine(make_zone(), slabs=self.slabs)


KMALLOC = make_slab("kmalloc-64", usersize=64, events={"alloc_slab": (2,)})
MERGED = make_slab("cred", 192, aliases=("pid",), refcount=2)


def test_files_of_caches_are_read_by_their_name() -> None:
    """Under the cache's directory, and through the names that lead to it."""
    statistics = Caches(KMALLOC, MERGED)
    procfs = ProcFs(statistics)
    assert procfs.read(f"{SLAB}/kmalloc-64/order") == "0\n"
    assert procfs.read(f"{SLAB}/kmalloc-64/alloc_slab") == "2 C0=2\n"
    for name in ("pid", "cred", ":0000192"):
        assert procfs.read(f"{SLAB}/{name}/slab_size") == "192\n"
    assert statistics.taken == 5


def test_files_of_caches_are_listed() -> None:
    """Every name in the list can be read; the list is sorted."""
    procfs = ProcFs(Caches(KMALLOC, MERGED))
    names = procfs.names()
    assert names == sorted(names)
    assert set(NAMES) < set(names)
    directories = {name.split("/")[3] for name in names if name.startswith(SLAB)}
    assert directories == {"kmalloc-64", ":0000192", "cred", "pid"}
    assert f"{SLAB}/pid/objects" in names
    for name in names:
        assert isinstance(procfs.read(name), str)


@pytest.mark.parametrize(
    "name",
    [SLAB, f"{SLAB}/", f"{SLAB}/kmalloc-64", f"{SLAB}/kmalloc-64/nope", f"{SLAB}/nope/order"],
)
def test_unknown_names_of_caches(name: str) -> None:
    """The message does not list thousands of files."""
    with pytest.raises(
        BadArgument, match=r"^name: .*zoneinfo, sys/kernel/slab/..., <pid>/...; got '"
    ) as caught:
        ProcFs(Caches(KMALLOC)).read(name)
    assert len(str(caught.value)) < 250


def test_reading_one_file_renders_no_other() -> None:
    """The others are not even made."""

    def fail() -> str:
        raise AssertionError("rendered")

    directory = Directory(
        subdirectories=lambda stats: {"a": "x\n"},
        links=lambda stats: {"b": "a"},
        files=lambda about: {"x": lambda: about, "y": fail},
    )
    procfs = ProcFs(Caches(), files={}, directories={"d": directory})
    assert procfs.read("d/a/x") == procfs.read("d/b/x") == "x\n"
    assert procfs.names() == ["d/a/x", "d/a/y", "d/b/x", "d/b/y"]


def test_export_writes_links_as_links(tmp_path: Path) -> None:
    """As in sysfs: a relative link to the directory beside it."""
    statistics = Caches(KMALLOC, MERGED)
    procfs = ProcFs(statistics)
    paths = procfs.export(tmp_path)
    assert statistics.taken == 1
    slab = tmp_path / SLAB
    assert {path.name for path in slab.iterdir()} == {"kmalloc-64", ":0000192", "cred", "pid"}
    assert (slab / "pid").readlink() == Path(":0000192")
    assert (slab / "cred").readlink() == Path(":0000192")
    assert paths == sorted(paths)
    assert all(path.is_file() or path.is_symlink() for path in paths)
    assert {slab / "pid", slab / "cred", slab / "kmalloc-64" / "order"} < set(paths)
    for name in procfs.names():
        assert (tmp_path / name).read_text() == procfs.read(name)


def test_export_leaves_no_cache_that_is_gone(tmp_path: Path) -> None:
    """Also where a directory becomes a link, or a link a directory."""
    statistics = Caches(KMALLOC, MERGED, make_slab("gone", 32))
    procfs = ProcFs(statistics)
    procfs.export(tmp_path)
    statistics.slabs = (KMALLOC._replace(usersize=0), MERGED._replace(usersize=192, aliases=()))
    procfs.export(tmp_path)
    slab = tmp_path / SLAB
    assert {path.name for path in slab.iterdir()} == {":0000064", "kmalloc-64", "cred"}
    assert (slab / "kmalloc-64").is_symlink()
    assert not (slab / "cred").is_symlink()
    assert {path.name for path in slab.parent.iterdir()} == {"slab"}


def test_export_where_the_caches_go_is_a_file(tmp_path: Path) -> None:
    """It is refused before anything is written."""
    (tmp_path / "sys" / "kernel").mkdir(parents=True)
    (tmp_path / SLAB).write_text("mine")
    statistics = Caches(KMALLOC)
    with pytest.raises(BadArgument, match=r"^directory: .*slab"):
        ProcFs(statistics).export(tmp_path)
    assert everything_below(tmp_path) == [SLAB]
    assert statistics.taken == 0


def test_export_follows_no_link_that_somebody_put_there(tmp_path: Path) -> None:
    """A link in the place of the directory is replaced; where it led, nothing changes."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    (tmp_path / "out" / "sys" / "kernel").mkdir(parents=True)
    (tmp_path / "out" / SLAB).symlink_to(elsewhere)
    ProcFs(Caches(KMALLOC)).export(tmp_path / "out")
    assert everything_below(elsewhere) == ["precious"]
    assert (tmp_path / "out" / SLAB / "kmalloc-64" / "order").is_file()


def test_exports_at_once(tmp_path: Path) -> None:
    """Threads that export to the same place leave one whole export and nothing else."""
    procfs = ProcFs(Caches(KMALLOC, MERGED))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(procfs.export, tmp_path) for _ in range(12)]:
            done.result()
    slab = tmp_path / SLAB
    assert {path.name for path in slab.parent.iterdir()} == {"slab"}
    assert all((tmp_path / name).read_text() == procfs.read(name) for name in procfs.names())
