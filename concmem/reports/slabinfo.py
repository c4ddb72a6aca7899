"""
``/proc/slabinfo``: objects and slabs of each cache, newest cache first; and reading such a text.

``<active_objs>`` is all objects but the free ones in slabs on the node's lists: what is free in CPU
slabs and on CPU partial lists counts as active, as in SLUB. So do all slabs. A cache that was
merged into another has no line. The tunables and ``<sharedavail>`` belonged to SLAB and are 0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.errors import BadArgument

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics, SlabStatistics

VERSION_LINE: Final = "slabinfo - version: 2.1"

COLUMNS_LINE: Final = (
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor>"
    " : slabdata <active_slabs> <num_slabs> <sharedavail>"
)

_NUMBERS: Final = (
    r"\s+([0-9]{1,20})" * 5
    + r" : tunables"
    + r"\s+[0-9]+" * 3
    + r" : slabdata"
    + r"\s+([0-9]{1,20})" * 3
)
# Old kernels built for debugging add more after that.
_LINE: Final = re.compile(rf"(\S.*?){_NUMBERS}(?:\s.*)?")


class SlabinfoRow(NamedTuple):
    """One cache, in the kernel's words."""

    name: str
    active_objs: int
    num_objs: int
    objsize: int
    """Bytes, metadata included."""
    objperslab: int
    pagesperslab: int
    active_slabs: int
    num_slabs: int


def rows(stats: MachineStatistics) -> list[SlabinfoRow]:
    """One row for each cache, newest first."""
    return [_row(cache) for cache in stats.slabs]


def render(stats: MachineStatistics) -> str:
    """The text of the file."""
    lines = [VERSION_LINE, COLUMNS_LINE, *map(_line, rows(stats))]
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> list[SlabinfoRow]:
    """
    The rows of a ``/proc/slabinfo``, of this model or of a Linux since 2.6.

    Raises:
        BadArgument: *text* is none; with the number of the line.
    """
    lines = text.splitlines()
    if not lines or not lines[0].startswith("slabinfo - version: 2."):
        raise BadArgument("slabinfo: line 1: expected 'slabinfo - version: 2.1'")
    found = []
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("#") or not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadArgument(f"slabinfo: line {number}: not a line of a cache: {line[:80]!r}")
        found.append(SlabinfoRow(match[1], *map(int, match.groups()[1:8])))
    return found


def _row(cache: SlabStatistics) -> SlabinfoRow:
    # Counters of a running cache are not of one moment, and the difference could say nonsense.
    active = min(max(0, cache.active_objects), cache.total_objects)
    return SlabinfoRow(
        name=cache.name,
        active_objs=active,
        num_objs=cache.total_objects,
        objsize=cache.size,
        objperslab=cache.objs_per_slab,
        pagesperslab=1 << cache.order,
        active_slabs=cache.nr_slabs,
        num_slabs=cache.nr_slabs,
    )


def _line(row: SlabinfoRow) -> str:
    return (
        f"{row.name:<17} {row.active_objs:6d} {row.num_objs:6d} {row.objsize:6d} "
        f"{row.objperslab:4d} {row.pagesperslab:4d} : tunables {0:4d} {0:4d} {0:4d}"
        f" : slabdata {row.active_slabs:6d} {row.num_slabs:6d} {0:6d}"
    )
