"""
Migratetypes: pages of like mobility share page blocks, so that memory can be defragmented.

Numbers and fallback orders of Linux 6.12 with CONFIG_CMA (``enum migratetype``).
"""

from __future__ import annotations

from typing import Final

from concmem.mm.gfp import MOVABLE as GFP_MOVABLE
from concmem.mm.gfp import RECLAIMABLE as GFP_RECLAIMABLE

UNMOVABLE: Final = 0
MOVABLE: Final = 1
RECLAIMABLE: Final = 2
PCPTYPES: Final = 3
"""Types below this one have lists of their own in per-CPU page sets."""
HIGHATOMIC: Final = 3
CMA: Final = 4
ISOLATE: Final = 5
MIGRATE_TYPES: Final = 6

NAMES: Final = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")


def migratetype_name(migratetype: int) -> str:
    """The name, also of a type that only other kernels have."""
    return NAMES[migratetype] if 0 <= migratetype < len(NAMES) else f"type {migratetype}"


FALLBACKS: Final = (
    (RECLAIMABLE, MOVABLE),  # for UNMOVABLE
    (RECLAIMABLE, UNMOVABLE),  # for MOVABLE
    (UNMOVABLE, MOVABLE),  # for RECLAIMABLE
)


def gfp_migratetype(gfp: int) -> int:
    """The type that *gfp* asks for (``gfp_migratetype``)."""
    return (gfp & (GFP_MOVABLE | GFP_RECLAIMABLE)) >> 3


def is_mergeable(migratetype: int) -> bool:
    """Whether a block of this type may merge with one of another mergeable type."""
    return migratetype < PCPTYPES
