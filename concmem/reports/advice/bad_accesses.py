"""Memory was used by somebody whose it was not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import PROBLEM, Advice
from concmem.reports.analysis import access_groups
from concmem.reports.words import plural

if TYPE_CHECKING:
    from concmem.reports.run import Run

MAX_SHOWN = 3


def bad_accesses(run: Run) -> Advice | None:
    """Any report of slab debugging or page poisoning."""
    groups = access_groups(run)
    if not groups:
        return None
    return Advice(
        "bad_accesses",
        PROBLEM,
        f"{plural(sum(group.reports for group in groups), 'illegal access', 'illegal accesses')} "
        f"to memory, most in {groups[0].cache}",
        tuple(
            f"{group.cache}: {group.kind}, {plural(group.reports, 'report')}, first at "
            f"{group.addresses[0]:#x}"
            for group in groups[:MAX_SHOWN]
        ),
        "The first report names who allocated and who freed the object: look for a use after that "
        "free, or for a write past the object's end.",
    )
