"""Accesses that slab debugging and page poisoning found to be wrong, by cache and kind."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import BadAccess


class AccessGroup(NamedTuple):
    """The reports of one kind about one cache."""

    cache: str
    kind: str
    reports: int
    addresses: tuple[int, ...]
    """In the order of the reports, each once."""
    text: str
    """The first report, whole."""


def access_groups(run: Run) -> tuple[AccessGroup, ...] | None:
    """The most reports first; ``None`` when nothing was on that could find any."""
    if run.bad_accesses is None:
        return None
    by_kind: defaultdict[tuple[str, str], list[BadAccess]] = defaultdict(list)
    for access in run.bad_accesses:
        by_kind[access.cache, access.kind].append(access)
    groups = [
        AccessGroup(
            cache,
            kind,
            len(found),
            tuple(dict.fromkeys(access.address for access in found)),
            found[0].text,
        )
        for (cache, kind), found in by_kind.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.reports, group.cache, group.kind)))
