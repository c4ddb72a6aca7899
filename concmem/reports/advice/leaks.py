"""Objects that nobody can free any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import PROBLEM, Advice
from concmem.reports.analysis import leak_groups
from concmem.reports.words import plural, size

if TYPE_CHECKING:
    from concmem.reports.run import Run

MAX_SHOWN = 3


def leaks(run: Run) -> Advice | None:
    """Any object that kmemleak calls unreferenced."""
    groups = leak_groups(run)
    if not groups:
        return None
    objects = sum(group.objects for group in groups)
    total = sum(group.size for group in groups)
    return Advice(
        "leaks",
        PROBLEM,
        f"{plural(objects, 'object')} of {size(total)} leaked, most of it from {groups[0].where}",
        tuple(
            f"{group.where}: {plural(group.objects, 'object')}, {size(group.size)}, "
            f"jiffies {group.first_jiffies} to {group.last_jiffies}"
            for group in groups[:MAX_SHOWN]
        ),
        "Follow each backtrace to the owner that should have freed the object; several objects from "
        "one place at steady intervals are a leak, a single old one may be meant to stay.",
    )
