"""
``/proc/<pid>/maps``, ``smaps`` and ``smaps_rollup``.

A page is dirty where the entry that maps it has been written through. Every mapped page counts as
referenced. Always 0, as there is nothing of the kind: KSM, LazyFree, huge pages, swap, Locked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from concmem.mm.statistics_process import ProcessStatistics, VmaStatistics

_NAME_COLUMN: Final = 72
_PSS_SHIFT: Final = 12
_NOTHING: Final = (
    *("KSM", "LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"),
    *("Shared_Hugetlb", "Private_Hugetlb", "Swap", "SwapPss", "Locked"),
)


def _header(start: int, end: int, fields: str, name: str) -> str:
    line = f"{start:08x}-{end:08x} {fields} "
    return f"{line:<{_NAME_COLUMN}} {name}\n" if name else f"{line}\n"


def map_line(vma: VmaStatistics) -> str:
    """One line of maps; a name starts in column 74."""
    major, minor = vma.device
    fields = f"{vma.perms} {vma.offset:08x} {major:02x}:{minor:02x} {vma.inode}"
    return _header(vma.start, vma.end, fields, vma.name.replace("\n", "\\012"))


def render_maps(process: ProcessStatistics) -> str:
    """The text of ``maps``."""
    return "".join(map(map_line, process.vmas))


def _kb(name: str, value: int) -> str:
    """A line, of bytes."""
    return f"{name + ':':<16}{value >> 10:8d} kB\n"


def _counts(vmas: Iterable[VmaStatistics], rollup: bool) -> str:
    """What smaps counts, over all *vmas*; ``smaps_rollup`` has Pss by kind, too."""
    every = list(vmas)

    def total(field: str) -> int:
        value = sum(int(getattr(vma, field)) for vma in every)
        return value >> _PSS_SHIFT if field.startswith("pss") else value

    lines = [_kb("Rss", total("rss")), _kb("Pss", total("pss"))]
    lines.append(_kb("Pss_Dirty", total("pss_dirty")))
    if rollup:
        lines.append(_kb("Pss_Anon", total("pss_anon")))
        lines.append(_kb("Pss_File", 0))
        lines.append(_kb("Pss_Shmem", total("pss_shmem")))
    for field in ("shared_clean", "shared_dirty", "private_clean", "private_dirty"):
        lines.append(_kb(field.title(), total(field)))
    lines.append(_kb("Referenced", total("rss")))
    lines.append(_kb("Anonymous", total("anonymous")))
    lines += [_kb(name, 0) for name in _NOTHING]
    return "".join(lines)


def smaps_block(vma: VmaStatistics) -> str:
    """One VMA of smaps."""
    return "".join(
        (
            map_line(vma),
            _kb("Size", vma.size),
            _kb("KernelPageSize", 4096),
            _kb("MMUPageSize", 4096),
            _counts([vma], rollup=False),
            f"{'THPeligible:':<16}{0:8d}\n",
            f"VmFlags: {''.join(f'{flag} ' for flag in vma.vm_flags)}\n",
        )
    )


def render_smaps(process: ProcessStatistics) -> str:
    """The text of ``smaps``."""
    return "".join(map(smaps_block, process.vmas))


def render_smaps_rollup(process: ProcessStatistics) -> str:
    """The text of ``smaps_rollup``: nothing, when nothing is mapped."""
    if not process.vmas:
        return ""
    header = _header(
        process.vmas[0].start, process.vmas[-1].end, "---p 00000000 00:00 0", "[rollup]"
    )
    return header + _counts(process.vmas, rollup=True)
