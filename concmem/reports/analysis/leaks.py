"""Objects that nobody refers to any more, by who allocated them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import Leak


class LeakGroup(NamedTuple):
    """The leaks of one place in the program."""

    backtrace: tuple[str, ...]
    """Innermost first."""
    objects: int
    size: int
    """Bytes of all of them."""
    cpus: tuple[int, ...]
    """That allocated them, where known."""
    addresses: tuple[int, ...]
    """Oldest first."""
    first_jiffies: int
    last_jiffies: int

    @property
    def where(self) -> str:
        """The innermost caller."""
        return self.backtrace[0] if self.backtrace else "unknown"


def leak_groups(run: Run) -> tuple[LeakGroup, ...] | None:
    """The most bytes first; ``None`` when kmemleak was not on."""
    if run.leaks is None:
        return None
    by_place: defaultdict[tuple[str, ...], list[Leak]] = defaultdict(list)
    for leak in run.leaks:
        by_place[leak.backtrace].append(leak)
    groups = [_group(backtrace, leaks) for backtrace, leaks in by_place.items()]
    return tuple(sorted(groups, key=lambda group: (-group.size, group.backtrace)))


def _group(backtrace: tuple[str, ...], leaks: list[Leak]) -> LeakGroup:
    leaks = sorted(leaks, key=lambda leak: (leak.jiffies, leak.address))
    return LeakGroup(
        backtrace,
        len(leaks),
        sum(leak.size for leak in leaks),
        tuple(sorted({leak.cpu for leak in leaks if leak.cpu >= 0})),
        tuple(leak.address for leak in leaks),
        leaks[0].jiffies,
        leaks[-1].jiffies,
    )
