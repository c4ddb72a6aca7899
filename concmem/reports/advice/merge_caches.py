"""Caches of like objects that do not share their slabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import merge_candidates
from concmem.reports.words import count, plural, size

if TYPE_CHECKING:
    from concmem.reports.run import Run

MIN_SAVED = 16 * 4096
"""Bytes; below that a cache of one's own costs nothing worth to speak of."""


def merge_caches(run: Run) -> Advice | None:
    """Together they would have needed much less."""
    groups = [group for group in merge_candidates(run) if group.saved >= MIN_SAVED]
    if not groups:
        return None
    best = groups[0]
    reasons = sorted({reason for group in groups for reason in group.kept_apart if reason})
    return Advice(
        "merge_caches",
        ADVICE,
        f"{plural(len(best.names), 'cache')} of like objects could share slabs: "
        f"{', '.join(best.names)}",
        (
            *(
                f"{', '.join(group.names)}: {count(group.slabs)} slabs, all objects would fit "
                f"{count(group.needed)}; {size(group.saved)} less"
                for group in groups[:3]
            ),
            f"kept apart by {', '.join(reasons) or 'slab_merge=False'}",
        ),
        "Drop what keeps them apart if it is not needed, or use one cache for all.",
    )
