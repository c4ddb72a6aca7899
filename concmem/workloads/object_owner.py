"""
Owners of objects: what `Worker` is for pages, for memory from caches, ``kmalloc`` and ``vmalloc``.

Whoever gets an object fills it with a tag that nobody else in the run has, and looks at all of it again
before it is freed, by whichever CPU frees it. So nothing that is handed out twice, overlaps, loses a
write or is written to by its allocator goes unnoticed. Of memory larger than any slab object, the ends
and some of the places where two pages meet are filled and looked at.

Locks: none; see `Worker`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.errors import ValidationError
from concmem.mm.gfp import GFP_KERNEL, ZERO
from concmem.units import PAGE_SIZE, VMALLOC_START

if TYPE_CHECKING:
    import random

    from concmem.machine import Machine
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.memory import Memory
    from concmem.workloads.progress import Progress

CPU_BITS: Final = 10
"""Low bits of a tag: the number of the CPU that allocated."""

_CPU_MASK: Final = (1 << CPU_BITS) - 1

OBJECT_TAG: Final = 1 << 62
"""Set in the tags of objects, and bit 63 clear: neither a page's tag nor an address looks like that."""

WHOLE: Final = 8192
"""Objects up to that many bytes are filled with their tag from end to end."""

MAX_SEAMS: Final = 16
"""Of larger ones, page borders that are looked at; which ones differs from tag to tag."""

MAX_RELEASE_ERRORS: Final = 10
"""Errors kept of one CPU that gives back what it holds; after a broken rule they are many."""


class ObjectOwnershipError(ValidationError):
    """Somebody else has written to an object that has an owner, or an object is not as promised."""


class Source:
    """
    Where objects come from and how they are freed. Stateless; shared by all CPUs.

    Attributes:
        name: for messages.
        header: bytes at the start of each object that are not its owner's to write.
    """

    header = 0

    def __init__(self, machine: Machine, name: str) -> None:
        self.name = name
        self.memory: Memory = machine.memory

    def free(self, address: int) -> None:
        """Free the object at *address*."""
        raise NotImplementedError

    def taken(self, address: int) -> None:
        """Look at a new object before its owner writes to it."""

    def given_back(self, address: int) -> None:
        """Make an object ready to be freed; its owner writes to it no more."""


class CacheSource(Source):
    """One cache."""

    def __init__(self, machine: Machine, cache: KmemCache, size: int) -> None:
        super().__init__(machine, cache.name)
        self.cache = cache
        self.size = size
        """Bytes of an object, as this user of the cache asked for."""
        self.free = cache.free  # type: ignore[method-assign]  # one call less


class FunctionSource(Source):
    """A function that frees, such as ``kfree``."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine, name)
        self.free = getattr(machine, name)  # type: ignore[method-assign]


class OwnedObject(NamedTuple):
    """An object that somebody owns."""

    source: Source
    address: int
    size: int
    """Bytes that are the owner's, headers of constructed objects included."""
    tag: int
    """What they are filled with."""


class ObjectOwner:
    """
    One CPU of a stress run, as an owner of objects.

    Args:
        cpu: its number.
        progress: where its operations are counted.
    """

    def __init__(self, machine: Machine, cpu: int, progress: Progress) -> None:
        self.cpu = cpu
        self.progress = progress
        self.held: list[OwnedObject] = []
        """Objects to give back when the body ends, however it ends. This CPU's body only."""
        self._rng: random.Random = machine.runtime.rng(f"stress/objects/{cpu}")
        self._read = machine.memory.read
        self._write = machine.memory.write

    # -- one

    def alloc(
        self, source: CacheSource, gfp: int = GFP_KERNEL, node: int | None = None
    ) -> OwnedObject | None:
        """An object of a cache, stamped; the caller owns it."""
        return self.own(source, source.cache.alloc(gfp, node), source.size, gfp)

    def own(
        self, source: Source, address: int | None, size: int, gfp: int = 0
    ) -> OwnedObject | None:
        """
        Own what an allocation of *size* bytes gave, if it gave something, and stamp it.

        Args:
            gfp: with ``ZERO``, the bytes must be 0.
        """
        progress = self.progress
        progress.operations += 1
        if address is None:
            progress.failed += 1
            return None
        # After the last point: an interrupt handler that allocates here gets another number.
        progress.objects_allocated = number = progress.objects_allocated + 1
        if address >= VMALLOC_START:
            progress.areas_allocated += 1
        owned = OwnedObject(source, address, size, OBJECT_TAG | number << CPU_BITS | self.cpu)
        source.taken(address)
        if gfp & ZERO:
            self._check_zeros(owned)
        for where, data in stamps(owned):
            self._write(where, data)
        return owned

    def check(self, owned: OwnedObject) -> None:
        """
        Look at all stamps of an object.

        Raises:
            ObjectOwnershipError: somebody else has written to it.
        """
        for where, data in stamps(owned):
            found = self._read(where, len(data))
            if found != data:
                raise self._two_owners(owned, where, found, data)

    def disown(self, owned: OwnedObject) -> int:
        """Check and count what the caller is about to free by itself; its address."""
        self.check(owned)
        source, address, _, tag = owned
        source.given_back(address)
        progress = self.progress
        progress.operations += 1
        progress.objects_freed += 1
        if address >= VMALLOC_START:
            progress.areas_freed += 1
        if tag & _CPU_MASK != self.cpu:
            progress.objects_cross_cpu += 1
        return address

    def free(self, owned: OwnedObject) -> None:
        """
        Check an object that the caller owns, and free it.

        Raises:
            ObjectOwnershipError: somebody else has written to it. It is not freed.
        """
        owned.source.free(self.disown(owned))

    # -- those held

    def hold(self, owned: OwnedObject | None) -> bool:
        """Keep *owned* in `held`; false when there is nothing to keep."""
        if owned is None:
            return False
        self.held.append(owned)
        return True

    def take_any(self) -> OwnedObject:
        """One of the objects held, any, which is then the caller's. There must be one."""
        held = self.held
        index = int(self._rng.random() * len(held))
        held[index], held[-1] = held[-1], held[index]
        return held.pop()

    def drop_any(self) -> None:
        """Free one of the objects held, any. There must be one."""
        self.free(self.take_any())

    def drop_half(self) -> None:
        """Free the older half of those held: there is no memory."""
        nr = (len(self.held) + 1) // 2
        half = self.held[:nr]
        del self.held[:nr]
        for owned in half:
            self.free(owned)

    def release(self) -> list[Exception]:
        """Free all that is held, also after an error; what went wrong, the first few."""
        errors: list[Exception] = []
        while self.held:
            try:
                self.free(self.held.pop())
            except Exception as error:
                if len(errors) < MAX_RELEASE_ERRORS:
                    errors.append(error)
        return errors

    # -- what is wrong

    def _check_zeros(self, owned: OwnedObject) -> None:
        for where, data in stamps(owned):
            found = self._read(where, len(data))
            if found.count(0) != len(data):
                raise ObjectOwnershipError(
                    f"{_show_object(owned)}: allocated with __GFP_ZERO on cpu{self.cpu}, but at "
                    f"{where:#x} it holds {found[:8].hex()}"
                )

    def _two_owners(
        self, owned: OwnedObject, where: int, found: bytes, data: bytes
    ) -> ObjectOwnershipError:
        differs = next(i for i in range(len(data)) if found[i] != data[i])
        offset = where + differs - differs % 8 - owned.address
        word = found[differs - differs % 8 :][:8]
        return ObjectOwnershipError(
            f"{_show_object(owned)} has two owners: {show_tag(owned.tag)} wrote its tag, but at "
            f"offset {offset} it holds {_show_word(word)}; found by cpu{self.cpu} before the free"
        )


def stamps(owned: OwnedObject) -> list[tuple[int, bytes]]:
    """What an object has to hold, as addresses and bytes."""
    source, address, size, tag = owned
    stamp = tag.to_bytes(8, "little")
    if size <= WHOLE:
        header = source.header
        nr_bytes = size - header
        data = stamp * (nr_bytes >> 3)
        if nr_bytes & 7:
            data += stamp[: nr_bytes & 7]
        return [(address + header, data)]
    first = (tag >> CPU_BITS) % max(1, (size // PAGE_SIZE) // MAX_SEAMS) + 1
    stride = max(1, size // PAGE_SIZE // MAX_SEAMS)
    seams = range(first * PAGE_SIZE - 4, size - 15, stride * PAGE_SIZE)  # none overlaps the last
    places = [0, *seams, size - 8]
    return [(address + place, stamp) for place in places]


def show_tag(tag: int) -> str:
    """A tag as text, such as ``cpu1's object 17``."""
    return f"cpu{tag & _CPU_MASK}'s object {(tag ^ OBJECT_TAG) >> CPU_BITS}"


def _show_word(word: bytes) -> str:
    value = int.from_bytes(word, "little")
    if len(word) == 8 and value >> 62 == 1:
        return f"that of {show_tag(value)}"
    return f"{value:#x}, which is no object's tag"


def _show_object(owned: OwnedObject) -> str:
    return f"{owned.source.name} object {owned.address:#x} of {owned.size} bytes"
