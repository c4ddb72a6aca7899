"""
The caches that slab workloads use: one of each kind, and ``kmalloc`` of any size and set.

Caches are made in a workload's `start` and destroyed in its `cleanup`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from concmem.mm.gfp import (
    ACCOUNT,
    GFP_ATOMIC,
    GFP_DMA,
    GFP_KERNEL,
    NORETRY,
    NOWARN,
    RECLAIMABLE,
    ZERO,
)
from concmem.mm.slab_flags import (
    SLAB_HWCACHE_ALIGN,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.workloads.object_owner import (
    WHOLE,
    CacheSource,
    FunctionSource,
    ObjectOwner,
    ObjectOwnershipError,
    OwnedObject,
)

if TYPE_CHECKING:
    from random import Random

    from concmem.machine import Machine
    from concmem.mm.memory import Memory

PATIENT: Final = GFP_KERNEL | NORETRY | NOWARN
"""May sleep and reclaim, but gives up after one round."""

URGENT: Final = GFP_ATOMIC | NOWARN
"""May not sleep."""

KMALLOC_GFPS: Final = (
    *(PATIENT, PATIENT, PATIENT, URGENT, PATIENT | ZERO),
    *(PATIENT | GFP_DMA, PATIENT | RECLAIMABLE, PATIENT | ACCOUNT),
)
"""All four sets of size classes, the normal one mostly."""

MARK: Final = 0x5EED_C0DE_0000_0000
"""A constructed object starts with this, exclusive-or its address."""

_MARK_BYTES: Final = 8


def constructed(address: int, size: int) -> bytes:
    """What a free object of a cache with a constructor holds."""
    mark = (address & 0xFFFF_FFFF) ^ MARK
    return mark.to_bytes(_MARK_BYTES, "little").ljust(size, b"\0")


def check_mark(memory: Memory, address: int, who: str) -> None:
    """
    Check that the memory at *address* has its type: is, or was, an object of a constructed cache.

    Raises:
        ObjectOwnershipError: it is something else.
    """
    found = memory.read(address, _MARK_BYTES)
    if found != constructed(address, _MARK_BYTES):
        raise ObjectOwnershipError(
            f"{who}: the object at {address:#x} has lost its type: its mark is gone, and it holds "
            f"{int.from_bytes(found, 'little'):#x}"
        )


class ConstructedSource(CacheSource):
    """A cache with a constructor: its objects are constructed when they are handed out."""

    header = _MARK_BYTES

    def taken(self, address: int) -> None:
        found = self.memory.read(address, self.size)
        if found != constructed(address, self.size):
            raise ObjectOwnershipError(
                f"{self.name} object {address:#x}: is not as the constructor, or the last owner, "
                f"left it: {found[:24].hex()}..."
            )

    def given_back(self, address: int) -> None:
        check_mark(self.memory, address, f"the owner of {self.name} object {address:#x}")
        self.memory.fill(address + _MARK_BYTES, self.size - _MARK_BYTES)


def make_cache(
    machine: Machine, name: str, size: int, flags: int = 0, constructor: bool = False
) -> CacheSource:
    """A cache, with or without a constructor."""
    memory = machine.memory

    def ctor(address: int) -> None:
        memory.write(address, constructed(address, size))

    if constructor:
        cache = machine.kmem_cache_create(name, size, flags=flags, ctor=ctor)
        return ConstructedSource(machine, cache, size)
    return CacheSource(machine, machine.kmem_cache_create(name, size, flags=flags), size)


def make_mixed_caches(machine: Machine, prefix: str) -> list[CacheSource]:
    """Small, middling and large ones, aligned, reclaimable, and constructed."""
    return [
        make_cache(machine, f"{prefix}-24", 24),
        make_cache(machine, f"{prefix}-200", 200),
        make_cache(machine, f"{prefix}-1000", 1000),
        make_cache(machine, f"{prefix}-aligned-72", 72, SLAB_HWCACHE_ALIGN),
        make_cache(machine, f"{prefix}-reclaim-136", 136, SLAB_RECLAIM_ACCOUNT),
        make_cache(machine, f"{prefix}-ctor-160", 160, constructor=True),
    ]


def make_rcu_cache(machine: Machine, prefix: str) -> CacheSource:
    """Its freed objects keep their type until a grace period has passed."""
    return make_cache(machine, f"{prefix}-rcu-120", 120, SLAB_TYPESAFE_BY_RCU, constructor=True)


def destroy(sources: Iterable[CacheSource]) -> None:
    """Destroy the caches. On a CPU."""
    for source in sources:
        source.cache.destroy()


class KmallocSource(FunctionSource):
    """``kmalloc`` of random sizes."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, "kfree")
        self._kmalloc = machine.kmalloc
        self._krealloc = machine.krealloc

    @staticmethod
    def random_size(rng: Random, large: float) -> int:
        """Bytes: up to 8 KiB, small ones more often; with probability *large*, up to 64 KiB."""
        if rng.random() < large:
            return rng.randint(8193, 65536)
        return rng.randint(1, 8 << int(rng.random() * 11))

    def alloc(self, owner: ObjectOwner, size: int, gfp: int) -> OwnedObject | None:
        """*size* bytes for *owner*, stamped."""
        return owner.own(self, self._kmalloc(size, gfp), size, gfp)

    def realloc(self, owner: ObjectOwner, owned: OwnedObject, size: int) -> OwnedObject:
        """
        *owned* with *size* bytes, its contents checked and then stamped anew.

        Without memory it stays as it is.
        """
        owner.check(owned)
        address = self._krealloc(owned.address, size, PATIENT)
        if address is None:
            owner.progress.failed += 1
            return owned
        kept = owned._replace(address=address, size=min(owned.size, size))
        if owned.size <= WHOLE or owned.size == kept.size:  # else the places to look at are others
            owner.check(kept)
        owner.progress.objects_freed += 1
        new = owner.own(self, address, size)
        assert new is not None
        return new
