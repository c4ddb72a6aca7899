"""Where objects of new slabs begin, in which order they come, and how free pointers are stored."""

from __future__ import annotations

from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache

from .helpers import on_cpu
from .slab_helpers import create, slab_of

BASE = 0xFFFF_8880_0000_0000


def new_slabs(m: Machine, s: KmemCache, nr: int, cpu: int = 0) -> list[list[int]]:
    """The objects of *nr* new slabs, in the order in which they are handed out."""
    addresses = on_cpu(m, s.alloc_bulk, nr * s.objs_per_slab, cpu=cpu)
    per = s.objs_per_slab
    return [addresses[i : i + per] for i in range(0, len(addresses), per)]


def offset_of(m: Machine, objects: list[int]) -> int:
    """Where the first object of a slab is, from the slab's first page."""
    return min(objects) - BASE - slab_of(m, objects[0]).pfn * 4096


# -- colours


def test_successive_slabs_have_successive_colours() -> None:
    """The first object starts one cache line further in each new slab, and then again at 0."""
    with Machine(cpus=1, memory="64M", slab_merge=False) as m:
        s = create(m, size=3000)
        assert (s.objs_per_slab, s.colour, s.colour_off) == (10, 43, 64)
        offsets = [offset_of(m, slab) for slab in new_slabs(m, s, 2 * 43 + 5)]
        assert offsets == [n % 43 * 64 for n in range(2 * 43 + 5)]
        assert max(offsets) + 10 * 3000 <= 32768
        m.verify()


def test_colours_keep_the_alignment() -> None:
    """With a large alignment there are fewer colours, that far apart."""
    with Machine(cpus=1, memory="64M", slab_merge=False) as m:
        s = create(m, size=2500, align=512)
        assert (s.size, s.colour_off) == (2560, 512)
        # 12 objects in 32 KiB leave 2048 bytes.
        assert (s.objs_per_slab, s.colour) == (12, 4)
        slabs = new_slabs(m, s, 9)
        assert [offset_of(m, slab) for slab in slabs] == [n % 4 * 512 for n in range(9)]
        assert all(address % 512 == 0 for slab in slabs for address in slab)


def test_one_colour_is_none() -> None:
    """Less than two colours to choose from: every slab starts at 0."""
    with Machine(cpus=1, memory="32M", slab_merge=False) as m:
        for size in (512, 8192, 100):
            s = create(m, f"size-{size}", size)
            assert s.colour < 2
            assert {offset_of(m, slab) for slab in new_slabs(m, s, 4)} == {0}


def test_each_node_has_its_own_colours() -> None:
    """Slabs on one node do not use up the colours of another."""
    with Machine(cpus=2, memory="64M", nodes=2, slab_merge=False) as m:
        s = create(m, size=3000)
        for _ in range(3):
            for node in (0, 1):
                (slab,) = new_slabs(m, s, 1, cpu=node)
                assert slab_of(m, slab[0]).zone.zone_pgdat.node_id == node
        first = [offset_of(m, slab) for slab in new_slabs(m, s, 2, cpu=0)]
        (second,) = new_slabs(m, s, 1, cpu=1)
        assert first == [3 * 64, 4 * 64]
        assert offset_of(m, second) == 3 * 64


def test_two_cpus_may_take_the_same_colour() -> None:
    """colour_next has no lock, on purpose: colours may repeat, but never pass the last one."""
    with Machine(cpus=4, memory="64M", slab_merge=False, runtime="jitter") as m:
        s = create(m, size=2500, align=512)
        results = m.run([lambda: [s.alloc_bulk(s.objs_per_slab) for _ in range(12)]] * 4)
        slabs = [objects for result in results for objects in result or ()]
        bases = {slab_of(m, address) for slab in slabs for address in slab}
        offsets = {slab.s_mem - BASE - slab.pfn * 4096 for slab in bases}
        assert offsets <= {0, 512, 1024, 1536}
        m.verify()


# -- order


def test_address_order() -> None:
    """Without randomness a new slab hands out its objects by address."""
    with Machine(cpus=1, memory="32M", slab_merge=False) as m:
        for slab in new_slabs(m, create(m, size=256), 3):
            assert slab == sorted(slab)


def test_random_order() -> None:
    """With it, slabs are permuted: rotations of one sequence, another one for each cache."""
    with Machine(cpus=1, memory="32M", slab_merge=False, freelist_random=True) as m:
        sequences = []
        for name in ("first", "second"):
            s = create(m, name, size=256)
            slabs = new_slabs(m, s, 8)
            orders = [[(address - min(slab)) // 256 for address in slab] for slab in slabs]
            assert all(sorted(order) == list(range(16)) for order in orders)
            assert list(range(16)) not in orders
            # Rotated so that they begin with 0, they are all the same.
            rotated = {(*o[o.index(0) :], *o[: o.index(0)]) for o in orders}
            assert len(rotated) == 1
            assert len(set(map(tuple, orders))) > 3  # begun at random, 8 of 16 places
            sequences.append(rotated.pop())
        assert sequences[0] != sequences[1]


def test_the_seed_decides_the_order() -> None:
    """The same seed gives the same addresses, another seed others."""

    def addresses(seed: int) -> list[int]:
        with Machine(
            cpus=1, memory="16M", seed=seed, freelist_random=True, freelist_hardened=True
        ) as m:
            return on_cpu(m, create(m, size=200).alloc_bulk, 50)

    assert addresses(1) == addresses(1) != addresses(2)


# -- free pointers


def stored(m: Machine, s: KmemCache, address: int) -> int:
    """The word of memory that holds the free pointer of a free object."""
    return int.from_bytes(m.memory.read(address + s.offset, 8), "little")


def test_plain_pointers_in_memory() -> None:
    """In each free object lies the address of the next, and in the last one 0."""
    with Machine(cpus=1, memory="32M", slab_merge=False) as m:
        s = create(m, size=512)
        addresses = on_cpu(m, s.alloc_bulk, 8)
        on_cpu(m, s.free_bulk, addresses)
        words = [stored(m, s, address) for address in addresses]
        assert words[:-1] == addresses[1:]
        on_cpu(m, s.free, on_cpu(m, s.alloc_bulk, 8)[3])
        assert stored(m, s, addresses[3]) == 0


def test_hardened_pointers_in_memory() -> None:
    """Stored is the pointer XOR the key of the cache XOR the byte-swapped place; nothing readable."""
    with Machine(cpus=1, memory="32M", slab_merge=False, freelist_hardened=True) as m:
        caches = [create(m, name, size=512) for name in ("first", "second")]
        for s in caches:
            addresses = on_cpu(m, s.alloc_bulk, s.objs_per_slab)
            on_cpu(m, s.free_bulk, addresses)
            for address, following in zip(addresses, [*addresses[1:], 0], strict=True):
                slot = address + s.offset
                swapped = int.from_bytes(slot.to_bytes(8, "big"), "little")
                assert stored(m, s, address) == following ^ s.random ^ swapped
                assert stored(m, s, address) not in (following, 0)
            m.verify()
        assert caches[0].random != caches[1].random


def test_hardened_pointers_after_frees_by_others() -> None:
    """A slab's own list and the CPU's list are spliced in the same encoding."""
    with Machine(cpus=2, memory="32M", slab_merge=False, freelist_hardened=True) as m:
        s = create(m, size=512)
        addresses = on_cpu(m, s.alloc_bulk, s.objs_per_slab)
        on_cpu(m, s.free_bulk, addresses[:4], cpu=1)
        on_cpu(m, s.free_bulk, addresses[4:8])
        on_cpu(m, s.flush_all)
        m.verify()
        assert sorted(on_cpu(m, s.alloc_bulk, 8)) == sorted(addresses[:8])
        m.verify()


def test_where_the_free_pointer_is() -> None:
    """In the middle of a plain object; after it, where a constructor or RCU readers need it."""
    with Machine(cpus=1, memory="32M", slab_merge=False) as m:
        made: list[int] = []
        plain = create(m, "plain", 100)
        built = create(m, "built", 100, ctor=made.append)
        assert (plain.offset, plain.size) == (48, 104)
        assert (built.offset, built.size) == (104, 112)
        address = on_cpu(m, built.alloc)
        # Every object of the slab has been constructed, once, before the first was handed out.
        assert sorted(made) == [min(made) + i * 112 for i in range(built.objs_per_slab)]
        m.memory.write(address, b"x" * 104)
        on_cpu(m, built.free, address)
        assert m.memory.read(address, 104) == b"x" * 104
        on_cpu(m, built.alloc)
        assert len(made) == built.objs_per_slab
