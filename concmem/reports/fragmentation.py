"""
External fragmentation of a zone, from its free block counts.

The two indices of the kernel (``extfrag/unusable_index`` and ``extfrag/extfrag_index``), with its
integer arithmetic: computed in thousandths and rounded the way it rounds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.errors import BadArgument

if TYPE_CHECKING:
    from collections.abc import Sequence


class _FreeSpace(NamedTuple):
    pages: int
    blocks: int
    suitable: int
    """Blocks of the wanted order that could be cut from what is free."""


def unusable_index(free_counts_by_order: Sequence[int], order: int) -> float:
    """
    Share of the free pages that cannot serve a request of *order*, 0 to 1.

    1 when nothing is free (``unusable_free_index``).

    Args:
        free_counts_by_order: free blocks of order 0, 1, ..., as in a line of buddyinfo.

    Raises:
        BadArgument: *order* has no count.
    """
    free = _free_space(free_counts_by_order, order)
    if not free.pages:
        return 1.0
    return (free.pages - (free.suitable << order)) * 1000 // free.pages / 1000


def fragmentation_index(free_counts_by_order: Sequence[int], order: int) -> float:
    """
    Why a request of *order* would fail (``__fragmentation_index``).

    Returns:
        -1.0 when it would not, because a block is there; towards 0 for lack of memory, towards 1
        because of fragmentation. 0.0 when nothing is free. While only one block is free it can
        fall below 0, down to -0.5.

    Raises:
        BadArgument: *order* has no count.
    """
    free = _free_space(free_counts_by_order, order)
    if not free.blocks:
        return 0.0
    if free.suitable:
        return -1.0
    blocks_if_compact = free.pages * 1000 // (1 << order)
    return (1000 - (1000 + blocks_if_compact) // free.blocks) / 1000


def _free_space(counts: Sequence[int], order: int) -> _FreeSpace:
    if not 0 <= order < len(counts):
        raise BadArgument(f"order: expected 0 to {len(counts) - 1}, got {order}")
    return _FreeSpace(
        pages=sum(nr << o for o, nr in enumerate(counts)),
        blocks=sum(counts),
        suitable=sum(nr << (o - order) for o, nr in enumerate(counts) if o >= order),
    )
