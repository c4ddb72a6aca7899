"""Tags of objects, in a vector for each slab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.errors import BadArgument, KernelBug
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_flags import SLAB_ACCOUNT

from .helpers import on_cpu


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(cpus=2, memory="32M", slab_merge=False) as machine:
        yield machine
        machine.verify()


@pytest.fixture
def s(m: Machine) -> KmemCache:
    return m.kmem_cache_create("tagged", 1024, flags=SLAB_ACCOUNT)


def test_every_object_has_its_own_tag(m: Machine, s: KmemCache) -> None:
    """The vector goes with the slab."""
    exts = m.slab.obj_exts

    def body() -> None:
        objects = s.alloc_bulk(2 * s.objs_per_slab)
        for number, address in enumerate(objects, 2):
            assert exts.tag(address, number)
        assert [exts.untag(address) for address in objects] == [*range(2, len(objects) + 2)]
        s.free_bulk(objects)
        assert len({slab for slab in m.mem_map.slabs.values() if slab.owners}) == 1  # two vectors
        s.destroy()

    on_cpu(m, body)
    assert not any(slab.owners for slab in m.mem_map.slabs.values())


def test_a_tag_is_taken_once(m: Machine, s: KmemCache) -> None:
    exts = m.slab.obj_exts

    def body() -> None:
        address, other = s.alloc_bulk(2)
        assert exts.untag(address) == 0  # its slab has no vector: nobody is to blame
        assert exts.tag(address, (1 << 64) - 1)
        assert exts.untag(address) == (1 << 64) - 1
        for each in (address, other):
            with pytest.raises(KernelBug, match="alloc_tag was not set"):
                exts.untag(each)

    on_cpu(m, body)


def test_without_memory(m: Machine, s: KmemCache) -> None:
    """What could not be tagged is excused when there is a vector in the end."""
    exts = m.slab.obj_exts

    def body() -> None:
        first, second = s.alloc_bulk(2)
        kcalloc = exts.kcalloc
        exts.kcalloc = lambda n, size, gfp: None
        assert not exts.tag(first, 2)
        exts.kcalloc = kcalloc
        assert exts.tag(second, 3)
        assert exts.untag(first) == 0
        assert exts.untag(second) == 3
        s.free_bulk([first, second])
        s.destroy()

    on_cpu(m, body)


def test_the_second_vector_is_freed(m: Machine, s: KmemCache) -> None:
    """Another CPU has made one while this one allocated its own."""
    exts = m.slab.obj_exts

    def body() -> None:
        first, second = s.alloc_bulk(2)
        kcalloc = exts.kcalloc

        def slowly(n: int, size: int, gfp: int) -> int | None:
            vector = kcalloc(n, size, gfp)
            exts.kcalloc = kcalloc
            assert exts.tag(second, 3)
            return vector

        exts.kcalloc = slowly
        assert exts.tag(first, 2)
        assert (exts.untag(first), exts.untag(second)) == (2, 3)
        s.free_bulk([first, second])
        s.destroy()

    on_cpu(m, body)
    assert not any(slab.owners for slab in m.mem_map.slabs.values())


def test_bad_input(m: Machine, s: KmemCache) -> None:
    exts = m.slab.obj_exts
    plain = m.kmem_cache_create("plain", 1024)

    def body() -> None:
        address, other = s.alloc(), plain.alloc()
        assert address is not None
        assert other is not None
        for bad in (other, 0, -8, 1 << 70):
            with pytest.raises(BadArgument, match="SLAB_ACCOUNT cache"):
                exts.tag(bad, 2)
            with pytest.raises(BadArgument, match="SLAB_ACCOUNT cache"):
                exts.untag(bad)
        for tag in (0, 1, -1, 1 << 64):
            with pytest.raises(BadArgument, match="tag: must be"):
                exts.tag(address, tag)

    on_cpu(m, body)
