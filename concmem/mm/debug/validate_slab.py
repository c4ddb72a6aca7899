"""
Checks of the slab allocator, with all CPUs parked between two operations.

Every slab is found twice, by way of the lists and CPUs of its cache and by way of its pages, and every
object of it is accounted for exactly once: somebody's, on the slab's free list, or on its CPU's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, NamedTuple, cast

from concmem.errors import ListCorruption, SlabError
from concmem.mm.freelist import encode
from concmem.mm.kmem_cache_cpu import TID_STEP
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import PG_WORKINGSET
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.node import PgData
    from concmem.mm.page import Page


class _Found(NamedTuple):
    """A slab and where it was found."""

    slab: Page
    place: str
    cpu: KmemCacheCpu | None
    """Whose CPU slab it is."""


def validate_slabs(
    caches: Sequence[KmemCache],
    mem_map: MemMap,
    memory: Memory,
    nodes: Sequence[PgData],
    quarantined: Set[int] = frozenset(),
) -> None:
    """
    Check all caches.

    Args:
        quarantined: objects that were freed, but that their slabs do not know to be free yet.

    Raises:
        SlabError: the rule that is broken, with cache, slab and object.
    """
    known: set[Page] = set()
    for s in caches:
        try:
            known |= _validate_cache(s, mem_map, memory, quarantined)
        except ListCorruption as error:
            raise SlabError(f"{s.name}: {error}") from error
    pages: Counter[tuple[int, bool]] = Counter()
    for slab in set(mem_map.slabs.values()):
        owner = slab.slab_cache
        if owner is not None and slab not in known:
            _check_waits_for_rcu(owner, slab)
        # Large blocks of kmalloc count as slabs that cannot be reclaimed.
        reclaimable = owner is not None and owner.reclaimable
        pages[slab.zone.zone_pgdat.node_id, reclaimable] += 1 << slab.order
    for node in nodes:
        for reclaimable, counter in (
            (True, node.nr_slab_reclaimable.value),
            (False, node.nr_slab_unreclaimable.value),
        ):
            if counter != pages[node.node_id, reclaimable]:
                raise SlabError(
                    f"node {node.node_id}: {counter} pages of slabs counted (reclaimable: "
                    f"{reclaimable}), but there are {pages[node.node_id, reclaimable]}"
                )


def _check_waits_for_rcu(s: KmemCache, slab: Page) -> None:
    """A slab that no list and no CPU has must be one that a grace period keeps."""
    if not s.flags & SLAB_TYPESAFE_BY_RCU or slab.owners or slab.inuse or slab.frozen:
        raise SlabError(f"{s.name}: {slab!r} is on no list and no CPU's: it is lost")


def _validate_cache(
    s: KmemCache, mem_map: MemMap, memory: Memory, quarantined: Set[int]
) -> set[Page]:
    if s.refcount != 1 + len(s.aliases):
        raise SlabError(f"{s.name}: refcount {s.refcount}, but its aliases are {s.aliases}")
    found: dict[Page, _Found] = {}
    if not s.is_up:
        return set()  # nobody has ever used it; a slab of it would be found by its pages
    for each in _slabs_of(s):
        if each.slab in found:
            raise SlabError(
                f"{s.name}: {each.slab!r} is {each.place} and also {found[each.slab].place}"
            )
        found[each.slab] = each
        _check_slab(s, each, mem_map, memory, quarantined)
    for cpu, c in enumerate(s.cpu_slab.all()):
        _check_cpu(s, cpu, c)
    for n in s.node:
        _check_node(s, n, [each.slab for each in found.values() if _node_of(each.slab) == n.node])
    return set(found)


def _node_of(slab: Page) -> int:
    return slab.zone.zone_pgdat.node_id


def _slabs_of(s: KmemCache) -> Iterator[_Found]:
    for n in s.node:
        where = f"on node {n.node}'s"
        yield from _list_of(s, n, "slabs_partial", where, True)
        yield from _list_of(s, n, "slabs_free", where, True)
        yield from _list_of(s, n, "slabs_full", where, False)
        for slab in n.slabs_disabled:
            yield _Found(slab, f"disabled {where[3:]}", None)
    for cpu, c in enumerate(s.cpu_slab.all()):
        if c.cpu >= 0 and (c.tid - cpu) % TID_STEP:
            raise SlabError(f"{s.name}: the tid of cpu{cpu}, {c.tid}, is that of another CPU")
        if c.page is not None:
            yield _Found(c.page, f"the slab of cpu{cpu}", c)
        elif c.freelist is not None:
            raise SlabError(f"{s.name}: cpu{cpu} has a free list ({c.freelist:#x}) but no slab")
        yield from _cpu_partial(s, cpu, c)


def _check_cpu(s: KmemCache, cpu: int, c: KmemCacheCpu) -> None:
    """What a CPU keeps beside its slab is that of its slab."""
    if c.page is None:
        right = not c.owners and c.node == -1
    else:
        right = c.owners is c.page.owners and c.node == _node_of(c.page)
    if not right:
        raise SlabError(f"{s.name}: the owners or the node that cpu{cpu} keeps are not its slab's")


def _list_of(
    s: KmemCache, n: KmemCacheNode, name: str, where: str, workingset: bool
) -> Iterator[_Found]:
    count = 0
    for slab in getattr(n, name):
        count += 1
        if _node_of(slab) != n.node or bool(slab.flags & PG_WORKINGSET) != workingset:
            raise SlabError(f"{s.name}: {slab!r} is on the wrong list: {where} {name}")
        right = {
            "slabs_partial": 0 < slab.inuse < slab.objects,
            "slabs_free": slab.inuse == 0,
            "slabs_full": slab.inuse == slab.objects,
        }[name]
        if not right:
            raise SlabError(f"{s.name}: {slab!r} does not belong {where} {name}")
        yield _Found(slab, f"{where} {name}", None)
    counter = {
        "slabs_partial": n.nr_partial,
        "slabs_free": n.nr_free_slabs,
        "slabs_full": n.nr_full,
    }[name]
    if count != counter:
        raise SlabError(f"{s.name}: {counter} slabs counted {where} {name}, but there are {count}")


def _cpu_partial(s: KmemCache, cpu: int, c: KmemCacheCpu) -> Iterator[_Found]:
    slab = c.partial
    left = slab.private if slab is not None else 0
    while slab is not None:
        if slab.private != left:
            raise SlabError(
                f"{s.name}: {slab!r} says {slab.private} slabs are left on the partial list of "
                f"cpu{cpu}, but it is {left}"
            )
        if slab.flags & PG_WORKINGSET or slab.inuse >= slab.objects:
            raise SlabError(f"{s.name}: {slab!r} does not belong on cpu{cpu}'s partial list")
        yield _Found(slab, f"on the partial list of cpu{cpu}", None)
        slab = cast("Page | None", slab.next)
        left -= 1
    if left:
        raise SlabError(f"{s.name}: the partial list of cpu{cpu} ends {left} slabs too early")


def _check_slab(
    s: KmemCache, found: _Found, mem_map: MemMap, memory: Memory, quarantined: Set[int]
) -> None:
    slab, place, c = found
    where = f"{s.name}: {slab!r}, {place},"
    if slab.slab_cache is not s or not slab.is_slab():
        raise SlabError(f"{where} is no slab of this cache")
    disabled = place.startswith("disabled")
    if slab.frozen != (c is not None or disabled):
        raise SlabError(f"{where} is frozen: {slab.frozen}")
    first = pfn_to_virt(slab.pfn) >> PAGE_SHIFT
    if any(mem_map.slabs.get(first + i) is not slab for i in range(1 << slab.order)):
        raise SlabError(f"{where} is not what its pages lead to")
    objects = {slab.s_mem + i * s.size for i in range(slab.objects)}
    if max(objects) + s.size - s.red_left_pad > pfn_to_virt(slab.pfn + (1 << slab.order)):
        raise SlabError(f"{where} has more objects than fit")
    # Two slabs of the same colour are all right: it is chosen without a lock.
    colours = range(0, s.colour * s.colour_off or 1, s.colour_off)
    if slab.s_mem - s.red_left_pad - pfn_to_virt(slab.pfn) not in colours:
        raise SlabError(f"{where} has a colour that the cache does not have")
    free = _walk(s, where, slab.freelist, objects, memory)
    if len(free) != slab.objects - slab.inuse:
        raise SlabError(f"{where} has {len(free)} objects on its free list")
    cpu_free = _walk(s, where, c.freelist if c is not None else None, objects, memory)
    for what, these in (("the slab's free list", free), ("the CPU's free list", cpu_free)):
        both = these & slab.owners.keys()
        if both:
            raise SlabError(
                f"{where[:-1]}: object {min(both):#x} is on {what}, and somebody has it"
            )
    if free & cpu_free:
        raise SlabError(f"{where[:-1]}: object {min(free & cpu_free):#x} is on both free lists")
    strangers = slab.owners.keys() - objects
    if strangers:
        raise SlabError(f"{where[:-1]}: {min(strangers):#x} was handed out, but is no object")
    waiting = objects & quarantined
    lost = objects - free - cpu_free - slab.owners.keys() - waiting
    if lost or sum(map(len, (slab.owners, free, cpu_free, waiting))) != slab.objects:
        raise SlabError(
            f"{where[:-1]}: {len(slab.owners)} objects in use, {len(free)} free, {len(cpu_free)} on the "
            f"CPU's free list; lost: {', '.join(map(hex, sorted(lost)))}"
        )


def _walk(
    s: KmemCache, where: str, freelist: int | None, objects: set[int], memory: Memory
) -> set[int]:
    """The objects on a free list: all in the slab, none of them twice."""
    seen: set[int] = set()
    address = freelist or 0
    while address:
        if address not in objects:
            raise SlabError(
                f"{where[:-1]}: the free list leads to {address:#x}, which is no object"
            )
        if address in seen:
            raise SlabError(f"{where[:-1]}: the free list comes to {address:#x} twice")
        seen.add(address)
        slot = address + s.offset
        stored = memory.read_u64(slot)
        address = encode(stored, s.random, slot) if s.random else stored
    return seen


def _check_node(s: KmemCache, n: KmemCacheNode, slabs: list[Page]) -> None:
    for name, counter, counted in (
        ("nr_slabs", n.nr_slabs, len(slabs)),
        ("total_objects", n.total_objects, sum(slab.objects for slab in slabs)),
        (
            "free_objects",
            n.free_objects,
            sum(slab.objects - slab.inuse for slab in slabs if not slab.frozen),
        ),
    ):
        if counter != counted:
            raise SlabError(f"{s.name}: {name} of node {n.node} is {counter}, but it is {counted}")
