"""
Events that nothing counts yet, by the part of the model that will.

An arrow that only such events can prove is *pending*: not taken, since it cannot be. When a part arrives,
its line goes; when the last one has gone, so can this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concmem.reports.flows.flow import Edge

PENDING: Final[Mapping[str, tuple[str, ...]]] = {}


def pending_part(edge: Edge) -> str | None:
    """The part that *edge* waits for; ``None``: it can be taken."""
    parts = [
        next((part for part, events in PENDING.items() if event in events), None)
        for event in edge.proving_events()
    ]
    return None if None in parts else parts[0]
