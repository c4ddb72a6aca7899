"""``/proc/<pid>``: byte for byte, in sum, and as psutil reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from concmem.errors import BadArgument
from concmem.machine import Machine
from concmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from concmem.mm.statistics_process import ProcessStatistics, UserStatistics, VmaStatistics
from concmem.reports.pid_maps import map_line, render_smaps_rollup, smaps_block
from concmem.reports.pid_status import render_pid_stat

PAGE = 4096
RW = PROT_READ | PROT_WRITE


def on_cpu(m: Machine, fn: Callable[..., object]) -> object:
    return m.submit(0, fn).result(50)


@pytest.fixture
def m() -> Iterator[Machine]:
    """Three processes with a heap each, which share a file of four pages."""
    with Machine(cpus=2, memory="16M") as machine:
        file = machine.shmem_create(4 * PAGE)
        processes = [machine.process(name) for name in ("one", "two", "three")]

        def body() -> None:
            for number, p in enumerate(processes):
                heap = p.sbrk((number + 2) * PAGE)
                p.write(heap, b"h" * (number + 1) * PAGE)
                base = p.mmap(4 * PAGE, RW, MAP_SHARED, file=file)
                for page in range(number + 1):
                    p.touch(base + page * PAGE, write=number == 1)
                private = p.mmap(4 * PAGE, RW, MAP_PRIVATE, file=file)
                p.read(private, 3 * PAGE)
                p.write(private, b"x")
                p.touch(p.mmap(9 * PAGE, PROT_READ), write=False)

        on_cpu(machine, body)
        yield machine
        machine.verify()


def user(m: Machine) -> UserStatistics:
    stats = m.statistics().user
    assert stats is not None
    return stats


# -- texts, against lines of a live kernel


@pytest.mark.parametrize(
    ("vma", "line"),
    [
        (
            VmaStatistics(0x558E8F548000, 0x558E8F569000, "rw-p", 0, name="[heap]"),
            "558e8f548000-558e8f569000 rw-p 00000000 00:00 0                          [heap]\n",
        ),
        (
            VmaStatistics(
                0x558E4FD30000, 0x558E4FD32000, "r--p", 0, (0xFE, 0), 260386, "/usr/bin/head"
            ),
            "558e4fd30000-558e4fd32000 r--p 00000000 fe:00 260386"
            "                     /usr/bin/head\n",
        ),
        (
            VmaStatistics(
                0x7F27449D0000, 0x7F27449F6000, "r-xp", 0x1000, (0xFE, 0), 338944, "/lib/a"
            ),
            "7f27449d0000-7f27449f6000 r-xp 00001000 fe:00 338944                     /lib/a\n",
        ),
        (
            VmaStatistics(0x7F27449C5000, 0x7F27449C7000, "rw-p", 0),
            "7f27449c5000-7f27449c7000 rw-p 00000000 00:00 0 \n",
        ),
        (VmaStatistics(0x1000, 0x2000, "---p", 0), "00001000-00002000 ---p 00000000 00:00 0 \n"),
    ],
)
def test_lines_of_maps(vma: VmaStatistics, line: str) -> None:
    """Fields to column 72, a blank, the name."""
    assert map_line(vma) == line


def test_a_block_of_smaps() -> None:
    """Every line of a live one, with its numbers."""
    vma = VmaStatistics(
        0x55E9280DB000, 0x55E9280DD000, "r--p", 0, (0xFE, 0), 260386, "/usr/bin/head",
        ("rd", "mr", "mw", "me"), rss=8192, pss=8192 << 12, private_clean=8192,
    )  # fmt: skip
    assert smaps_block(vma) == (
        "55e9280db000-55e9280dd000 r--p 00000000 fe:00 260386                     /usr/bin/head\n"
        "Size:                  8 kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n"
        "Rss:                   8 kB\nPss:                   8 kB\nPss_Dirty:             0 kB\n"
        "Shared_Clean:          0 kB\nShared_Dirty:          0 kB\n"
        "Private_Clean:         8 kB\nPrivate_Dirty:         0 kB\nReferenced:            8 kB\n"
        "Anonymous:             0 kB\nKSM:                   0 kB\nLazyFree:              0 kB\n"
        "AnonHugePages:         0 kB\nShmemPmdMapped:        0 kB\nFilePmdMapped:         0 kB\n"
        "Shared_Hugetlb:        0 kB\nPrivate_Hugetlb:       0 kB\nSwap:                  0 kB\n"
        "SwapPss:               0 kB\nLocked:                0 kB\nTHPeligible:           0\n"
        "VmFlags: rd mr mw me \n"
    )


def test_the_rollup_begins_like_a_line_of_maps(m: Machine) -> None:
    """From the first address to the last, without rights; nothing at all without VMAs."""
    process = user(m).processes[0]
    first = render_smaps_rollup(process).splitlines()[0]
    start, end = process.vmas[0].start, process.vmas[-1].end
    assert first == (f"{start:x}-{end:x} ---p 00000000 00:00 0                          [rollup]")
    assert render_smaps_rollup(process._replace(vmas=())) == ""


def test_stat_has_52_fields(m: Machine) -> None:
    """proc(5) numbers them from 1; those of memory are where they should be."""
    process = user(m).processes[1]
    fields = render_pid_stat(process).rstrip("\n").split(" ")
    assert len(fields) == 52
    assert fields[0:3] == [str(process.pid), "(two)", "S"]
    assert fields[22:24] == [str(process.total_vm * PAGE), str(process.rss)]
    assert fields[46] == str(process.start_brk)


# -- sums


def totals(text: str) -> dict[str, int]:
    """Every ``Name: n kB`` line of smaps, summed; kB."""
    sums: dict[str, int] = {}
    for name, value in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE):
        sums[name] = sums.get(name, 0) + int(value)
    return sums


def test_rss_is_shared_and_private_and_pss_adds_up(m: Machine) -> None:
    """Rss of each process by kind; Pss of all processes is the memory that they have together."""
    stats = user(m)
    pss = 0
    pages = set()
    for process in stats.processes:
        sums = totals(m.procfs.read(f"{process.pid}/smaps"))
        kinds = ("Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty")
        assert sums["Rss"] == sum(sums[kind] for kind in kinds) == process.rss * 4
        assert sums["Pss"] <= sums["Rss"] <= sums["Size"]
        rollup = totals(m.procfs.read(f"{process.pid}/smaps_rollup"))
        assert {name: sums[name] for name in kinds} == {name: rollup[name] for name in kinds}
        assert rollup["Pss"] >= sums["Pss"]  # rounded once, not for each VMA
        pss += sum(vma.pss for vma in process.vmas)
    for p in m.processes.processes():
        for _, entry in p.mm.page_table.entries(0, 1 << 47):
            pages.add(entry >> 12)
    pages.discard(0)
    # 12 bits behind the point: a page shared by three loses less than 3 / 4096 bytes.
    assert 0 <= (len(pages) * PAGE << 12) - pss < 3 * len(pages)


def test_meminfo_counts_what_processes_have(m: Machine) -> None:
    """Each line against a count over the page structs and the tables."""
    lines = totals(m.procfs.read("meminfo"))
    spaces = [p.mm for p in m.processes.processes()]
    file = m.processes.context.shmem.files()[0]
    assert lines["AnonPages"] == 4 * sum(mm.rss_anon for mm in spaces)
    assert lines["Shmem"] == lines["Cached"] == 4 * len(file.pages)
    assert lines["Mapped"] == 4 * sum(page._mapcount >= 0 for page in file.pages.values())
    assert lines["PageTables"] == 4 * sum(len(mm.page_table.pages) for mm in spaces)
    wanted = 4 + sum(v.nr_pages for mm in spaces for v in mm.vmas if v.vm_flags & 0x100000)
    assert lines["Committed_AS"] == 4 * wanted
    vmstat = dict(line.split() for line in m.procfs.read("vmstat").splitlines())
    assert int(vmstat["nr_anon_pages"]) * 4 == lines["AnonPages"]
    assert int(vmstat["nr_page_table_pages"]) * 4 == lines["PageTables"]
    assert int(vmstat["pgfault"]) > 10


# -- the export, and psutil on it


def test_psutil_agrees(m: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine and processes as psutil sees them are those of statistics()."""
    m.procfs.export(tmp_path)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    stats = user(m)
    memory = psutil.virtual_memory()
    assert memory.total == sum(zone.managed_pages for zone in m.zones) * PAGE
    assert memory.shared == stats.total("nr_shmem") * PAGE
    assert psutil.pids() == [process.pid for process in stats.processes]
    for process in stats.processes:
        seen = psutil.Process(process.pid)
        assert (seen.name(), seen.cmdline()) == (process.name, [process.name])
        assert seen.num_threads() == 2
        info = seen.memory_info()
        assert (info.rss, info.vms) == (process.rss * PAGE, process.total_vm * PAGE)
        assert info.shared == process.rss_shmem * PAGE
        assert info.data == (process.data_vm + process.stack_vm) * PAGE
        full = seen.memory_full_info()
        assert full.uss == sum(v.private_clean + v.private_dirty for v in process.vmas)
        assert full.pss == sum(v.pss for v in process.vmas) >> 12 >> 10 << 10
        for region, vma in zip(seen.memory_maps(grouped=False), process.vmas, strict=True):
            assert region.addr == f"{vma.start:08x}-{vma.end:08x}"
            assert (region.perms, region.rss, region.size) == (vma.perms, vma.rss, vma.size)
            assert region.anonymous == vma.anonymous


def test_export_removes_processes_that_are_gone(m: Machine, tmp_path: Path) -> None:
    """And leaves alone what is not a process's."""
    (tmp_path / "other").mkdir()
    (tmp_path / "12").write_text("a file")
    written = m.procfs.export(tmp_path)
    first, second, _ = m.processes.processes()
    assert tmp_path / str(first.pid) / "smaps" in written
    assert all(path.exists() for path in written)
    on_cpu(m, first.exit)
    m.procfs.export(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert str(first.pid) not in names
    assert {str(second.pid), "other", "12", "stat", "meminfo"} <= names
    with pytest.raises(BadArgument, match="name"):
        m.procfs.read(f"{first.pid}/maps")


def test_names_can_be_read(m: Machine) -> None:
    """Every name of the list gives a text."""
    names = [name for name in m.procfs.names() if name[0].isdigit()]
    assert len(names) == 3 * 7
    assert all(m.procfs.read(name) for name in names)


def test_a_machine_without_processes() -> None:
    """All is 0, and there is no directory."""
    with Machine(cpus=1, memory="4M") as m:
        assert user(m).processes == ()
        assert totals(m.procfs.read("meminfo"))["Committed_AS"] == 0
        assert not [name for name in m.procfs.names() if name[0].isdigit()]


def test_peaks(m: Machine) -> None:
    """VmPeak and VmHWM keep what was."""
    p = m.processes.processes()[0]

    def body() -> None:
        base = p.mmap(50 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | 0x8000)
        p.munmap(base, 50 * PAGE)

    before: ProcessStatistics = user(m).processes[0]
    on_cpu(m, body)
    after = user(m).processes[0]
    assert (after.total_vm, after.rss) == (before.total_vm, before.rss)
    assert after.hiwater_vm == before.total_vm + 50
    assert after.hiwater_rss == before.rss + 50
