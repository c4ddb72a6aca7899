"""Owners of objects: what they write, and that they find whatever else was written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from concmem import Machine
from concmem.mm.gfp import GFP_KERNEL, ZERO
from concmem.units import PAGE_OFFSET, PAGE_SIZE
from concmem.workloads import ObjectOwner, ObjectOwnershipError, Progress
from concmem.workloads.object_owner import MAX_SEAMS, FunctionSource, OwnedObject, stamps
from concmem.workloads.slab_sources import KmallocSource, make_cache, make_mixed_caches


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(cpus=2, memory="32M") as machine:
        yield machine


@pytest.fixture
def owner(machine: Machine) -> ObjectOwner:
    return ObjectOwner(machine, 0, Progress())


@pytest.mark.parametrize(
    "size", [1, 7, 8, 9, 24, 4095, 4096, 8191, 8192, 8193, 12290, 12298, 65536, 999_999, 2 << 20]
)
def test_stamps_lie_inside_and_do_not_overlap(machine: Machine, size: int) -> None:
    """First and last byte are always stamped; small objects are stamped in every byte."""
    source = FunctionSource(machine, "kfree")
    for number in range(40):
        owned = OwnedObject(source, 0, size, 1 << 62 | number << 10)
        pieces = sorted((where, where + len(data)) for where, data in stamps(owned))
        assert pieces[0][0] == 0
        assert pieces[-1][1] == size
        assert all(end <= start for (_, end), (start, _) in pairwise(pieces))
        if size <= 8192:
            assert len(pieces) == 1
        else:
            assert len(pieces) <= 2 * MAX_SEAMS + 2
            seams = [(start, end) for start, end in pieces[1:-1]]
            assert all(start // PAGE_SIZE < (end - 1) // PAGE_SIZE for start, end in seams)


@pytest.mark.parametrize("size", [1, 8, 100, 5000, 50_000, 2 << 20])
def test_one_changed_byte_is_found(machine: Machine, owner: ObjectOwner, size: int) -> None:
    """In the first and in the last byte of any memory, and then nothing is freed."""
    kmalloc = KmallocSource(machine)

    def body() -> None:
        for offset in {0, size - 1}:
            owned = kmalloc.alloc(owner, size, GFP_KERNEL)
            assert owned is not None
            (byte,) = machine.memory.read(owned.address + offset, 1)
            machine.memory.write(owned.address + offset, bytes([byte ^ 0x80]))
            with pytest.raises(ObjectOwnershipError, match=r"cpu0's object .* found by cpu0"):
                owner.free(owned)
            machine.memory.write(owned.address + offset, bytes([byte]))
            owner.free(owned)
        assert (
            owner.progress.objects_allocated == owner.progress.objects_freed == len({0, size - 1})
        )

    machine.submit(0, body).result()


def test_both_owners_are_named(machine: Machine, owner: ObjectOwner) -> None:
    """The one that looks, and the one that has written."""
    other = ObjectOwner(machine, 1, Progress())
    cache = make_cache(machine, "shared", 64)

    def body() -> None:
        owned = owner.alloc(cache)
        assert owned is not None
        other.own(cache, owned.address, 64)
        with pytest.raises(ObjectOwnershipError) as caught:
            owner.free(owned)
        assert str(caught.value) == (
            f"shared object {owned.address:#x} of 64 bytes has two owners: cpu0's object 1 wrote "
            "its tag, but at offset 0 it holds that of cpu1's object 1; found by cpu0 before the free"
        )

    machine.submit(0, body).result()


def test_a_free_pointer_is_no_tag(machine: Machine, owner: ObjectOwner) -> None:
    """An object that is free and not handed out again."""
    cache = make_cache(machine, "freed", 64)

    def body() -> None:
        owned, further = owner.alloc(cache), owner.alloc(cache)
        assert owned is not None
        assert further is not None
        cache.cache.free(further.address)
        cache.cache.free(owned.address)
        with pytest.raises(ObjectOwnershipError, match="which is no object's tag"):
            owner.check(owned)

    machine.submit(0, body).result()


def test_a_constructed_object_must_stay_constructed(machine: Machine, owner: ObjectOwner) -> None:
    """Both what the last owner left behind and the mark are looked at."""
    cache = make_cache(machine, "constructed", 160, constructor=True)

    def body() -> None:
        owned = owner.alloc(cache)
        assert owned is not None
        owner.free(owned)
        machine.memory.write(owned.address + 159, b"x")
        with pytest.raises(ObjectOwnershipError, match="is not as the constructor"):
            owner.alloc(cache)
        owned = owner.alloc(cache)
        assert owned is not None
        machine.memory.write(owned.address, b"x")
        with pytest.raises(ObjectOwnershipError, match="has lost its type"):
            owner.free(owned)

    machine.submit(0, body).result()


def test_memory_that_should_be_zero(machine: Machine, owner: ObjectOwner) -> None:
    """``__GFP_ZERO`` is taken at its word."""
    kmalloc = KmallocSource(machine)

    def body() -> None:
        address = machine.kzalloc(100)
        assert address is not None
        machine.memory.write(address + 99, b"x")
        with pytest.raises(ObjectOwnershipError, match="__GFP_ZERO on cpu0"):
            owner.own(kmalloc, address, 100, ZERO)

    machine.submit(0, body).result()


def test_realloc_keeps_contents(machine: Machine, owner: ObjectOwner) -> None:
    """Of any size to any other; counted as a free and an allocation."""
    kmalloc = KmallocSource(machine)

    def body() -> None:
        owned = kmalloc.alloc(owner, 10, GFP_KERNEL)
        for size in (100, 99, 8192, 1, 20_000, 30_000, 5, 8192):
            assert owned is not None
            owned = kmalloc.realloc(owner, owned, size)
            assert owned.size == size
            owner.check(owned)
        assert owned is not None
        owner.free(owned)
        assert owner.progress.objects_allocated == owner.progress.objects_freed == 9

    machine.submit(0, body).result()


def test_areas_are_told_by_their_address(machine: Machine, owner: ObjectOwner) -> None:
    """An object in the vmalloc range is an area, whoever asked for it."""
    kmalloc, vfree = KmallocSource(machine), FunctionSource(machine, "vfree")

    def body() -> None:
        for owned in (
            kmalloc.alloc(owner, 2 << 20, GFP_KERNEL),
            owner.own(vfree, machine.vmalloc(5), 5),
            kmalloc.alloc(owner, 1 << 20, GFP_KERNEL),
        ):
            assert owner.hold(owned)
        assert owner.progress.areas_allocated == 2
        assert owner.release() == []
        assert owner.progress.areas_freed == 2
        assert owner.progress.objects_freed == 3

    machine.submit(0, body).result()


def test_mixed_caches_are_of_every_kind(machine: Machine) -> None:
    """None of them is merged with another, and each can be destroyed."""

    def body() -> None:
        caches = make_mixed_caches(machine, "mixed")
        assert len({cache.cache for cache in caches}) == len(caches)
        assert sum(cache.cache.ctor is not None for cache in caches) == 1
        assert sum(cache.cache.reclaimable for cache in caches) == 1
        for cache in caches:
            address = cache.cache.alloc()
            assert address is not None
            assert address >= PAGE_OFFSET
            cache.cache.free(address)
            cache.cache.destroy()

    machine.submit(0, body).result()
