"""Does the model set aside as many bytes for an object as the traced kernel did?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

KmallocSizes: TypeAlias = Counter[tuple[int, int, int]]
"""How often kmalloc gave (bytes asked for, bytes in the traced kernel, bytes in the model)."""


class CacheSizes(NamedTuple):
    """A cache of the trace beside the model's; sizes in bytes."""

    name: str
    """Empty if the trace does not tell."""
    object_size: int
    traced: tuple[int, ...]
    """What the traced kernel set aside; one value, unless two caches have the name."""
    model: int
    """``kmem_cache.size`` of the model's cache."""
    allocs: int
    """Allocations in the trace."""
    frees: int
    """Frees in the trace, those included that it lost."""

    @property
    def same(self) -> bool:
        return self.traced == (self.model,)

    @property
    def label(self) -> str:
        """A name for people, also for a cache that has none."""
        return self.name or f"(unnamed, {self.object_size} bytes)"


def kmalloc_agreement(sizes: KmallocSizes) -> tuple[int, int]:
    """Of how many kmallocs the sizes agree, and how many there were."""
    return (
        sum(times for (_, traced, model), times in sizes.items() if traced == model),
        sizes.total(),
    )


def cache_agreement(caches: Iterable[CacheSizes]) -> tuple[int, int]:
    """Of how many caches the sizes agree, and how many there are."""
    same = [cache.same for cache in caches]
    return sum(same), len(same)
