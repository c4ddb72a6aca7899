"""Each arrow that the model has: a small workload that takes exactly it, and the counts that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from concmem import Machine
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, NORETRY, NOWARN
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_flags import SLAB_NO_MERGE
from concmem.reports.flows import FLOWS, event_totals, since

pytestmark = pytest.mark.timeout(60)

LARGEST = 10
"""MAX_PAGE_ORDER."""


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(cpus=2, memory="32M") as machine:
        yield machine


def on(m: Machine, body: Callable[[], object], cpu: int = 0) -> object:
    return m.submit(cpu, body).result(50)


class Took:
    """Arrows by chart and name, and how often each was taken; those not there were not."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}

    def __getitem__(self, flow: str) -> dict[str, int]:
        return self.counts[flow]

    def get(self, flow: str, *arrows: str) -> list[int]:
        return [self.counts[flow].get(arrow, 0) for arrow in arrows]


@contextmanager
def watch(m: Machine) -> Iterator[Took]:
    """What the block takes."""
    took = Took()
    before = event_totals(m.statistics())
    yield took
    totals = since(event_totals(m.statistics()), before)
    for flow in FLOWS.values():
        arrows = zip(flow.edges, flow.counts(totals), strict=True)
        took.counts[flow.name] = {edge.name: count for edge, count in arrows if count}


def path(*arrows: str, count: int = 1) -> dict[str, int]:
    return dict.fromkeys(arrows, count)


def make_cache(m: Machine, size: int = 1000) -> KmemCache:
    cache = on(m, lambda: m.kmem_cache_create("test", size, flags=SLAB_NO_MERGE))
    assert isinstance(cache, KmemCache)
    return cache


def alloc_many(m: Machine, cache: KmemCache, nr: int, cpu: int = 0) -> list[int]:
    addresses: list[int] = []

    def body() -> None:
        while len(addresses) < nr:
            address = cache.alloc()
            assert address is not None
            addresses.append(address)

    on(m, body, cpu)
    return addresses


def free_all(m: Machine, cache: KmemCache, addresses: list[int], cpu: int = 0) -> None:
    on(m, lambda: [cache.free(address) for address in addresses], cpu)


HEAD = ("J->K", "K->M", "M->N", "N->P")
MISS = ("P->R",)
NEW = ("R->T", "T->U", "U->V", "V->W", "W->X", "X->Y")
HIT = ("P->Q", "Q->Y")


# -- allocation, and the left half of performance


def test_a_new_slab(m: Machine) -> None:
    """The first allocation of a cache goes all the way to the buddy system."""
    cache = make_cache(m)
    with watch(m) as took:
        alloc_many(m, cache, 1)
    assert took["allocation"] == path(*HEAD, *MISS, *NEW, "Y->AA")
    assert took.get("performance", "B->C", "D->E", "L->N") == [0, 0, 0]
    assert took.get("performance", "A->B", "B->D", "D->F", "F->G", "G->H", "J->K") == [1] * 6


def test_the_free_list_of_the_cpu(m: Machine) -> None:
    """Further ones come from there."""
    cache = make_cache(m)
    alloc_many(m, cache, 1)
    with watch(m) as took:
        alloc_many(m, cache, 2)
    assert took["allocation"] == path(*HEAD, *HIT, "Y->AA", count=2)
    assert took["performance"] == path("A->B", "B->C", "C->K", "K->L", "L->N", count=2)


def test_objects_that_another_cpu_has_freed(m: Machine) -> None:
    """They are of the CPU's own slab: a hit, by which the CPU gets all of them at once."""
    cache = make_cache(m)
    addresses = alloc_many(m, cache, cache.objs_per_slab)
    free_all(m, cache, addresses[:3], cpu=1)
    with watch(m) as took:
        alloc_many(m, cache, 1)
    assert took["allocation"] == path(*HEAD, *HIT, "Y->AA")
    assert took["performance"] == path(
        *("A->B", "B->C", "C->K", "K->L", "L->M", "M->O", "O->N"),
    )


def test_a_partial_slab_of_the_node(m: Machine) -> None:
    """After a flush the CPU has nothing, and the node has a slab."""
    cache = make_cache(m)
    alloc_many(m, cache, 2)
    on(m, cache.flush_all)
    with watch(m) as took:
        alloc_many(m, cache, 1)
    assert took["allocation"] == path(*HEAD, *MISS, "R->S", "S->Y", "Y->AA")
    assert took["performance"] == path(
        *("A->B", "B->D", "D->E", "E->K", "K->L", "L->M", "M->O", "O->N"),
    )


def test_no_memory_ends_at_the_buddy_system(m: Machine) -> None:
    """The new slab is asked for, and there are no pages."""
    cache = make_cache(m)

    def exhaust() -> None:
        while m.alloc_pages(0, GFP_ATOMIC | NOWARN) is not None:
            pass

    on(m, exhaust)
    with watch(m) as took:
        assert on(m, lambda: cache.alloc(GFP_ATOMIC | NOWARN)) is None
    assert took["allocation"] == path(*HEAD, *MISS, "R->T", "T->U")


def test_kmalloc_of_two_mebibytes(m: Machine) -> None:
    """``vmalloc`` it is, and no byte less."""
    with watch(m) as took:
        address = on(m, lambda: m.kmalloc(2 << 20))
    assert address
    assert took["allocation"] == path("J->K", "K->M", "M->O", "O->Z", "Z->AA")
    with watch(m) as took:
        assert on(m, lambda: m.kmalloc((2 << 20) - 1))
    assert took["allocation"] == path("J->K", "K->M", "M->N")


def test_vmalloc_enters_at_its_node(m: Machine) -> None:
    """Called by itself; without memory it maps nothing."""
    with watch(m) as took:
        assert on(m, lambda: m.vmalloc(5000))
        assert on(m, lambda: m.vmalloc(64 << 20, GFP_KERNEL | NOWARN | NORETRY)) is None
    assert took["allocation"] == path("O->Z", "Z->AA")


def test_a_batch_of_pages() -> None:
    """The first page of a CPU brings a batch to its page set, the second comes from there."""
    with Machine(cpus=2, memory="256M") as m:
        with watch(m) as took:
            on(m, m.alloc_pages, cpu=1)
        assert took["performance"] == path("L->M", "M->O", "O->N")
        with watch(m) as took:
            on(m, m.alloc_pages, cpu=1)
        assert took["performance"] == {}


# -- release of objects, and the right half of performance


TO_LIST = ("J->K", "K->M", "M->N", "N->O", "O->Q")


def test_a_free_to_the_cpus_own_slab(m: Machine) -> None:
    """No list is concerned."""
    cache = make_cache(m)
    addresses = alloc_many(m, cache, 3)
    with watch(m) as took:
        free_all(m, cache, addresses[:2])
    assert took["free"] == path(*TO_LIST, count=2)
    assert took["performance"] == path("P->Q", "Q->R", "R->T", "T->V", "V->X", "X->Z", count=2)


def test_a_free_to_the_slab_of_another_cpu(m: Machine) -> None:
    """Not local; and no list is concerned either."""
    cache = make_cache(m)
    addresses = alloc_many(m, cache, 3)
    with watch(m) as took:
        free_all(m, cache, addresses[:1], cpu=1)
    assert took["free"] == path(*TO_LIST)
    assert took["performance"] == path("P->Q", "Q->S", "S->U", "U->V", "V->X", "X->Z")


def test_a_slab_stays_partial(m: Machine) -> None:
    """Given up by its CPU with objects in use, and still so after a free."""
    cache = make_cache(m)
    addresses = alloc_many(m, cache, 3)
    with watch(m) as took:
        on(m, cache.flush_all)
    assert took["free"] == path("Q->R", "R->S", "S->AD", "AD->AE")
    with watch(m) as took:
        free_all(m, cache, addresses[:1])
    assert took["free"] == path(*TO_LIST, "Q->R", "R->S", "S->AD", "AD->AE")


def test_a_full_slab_that_gets_an_object_back(m: Machine) -> None:
    """It comes to the CPU's partial list, and by a flush to that of the node."""
    cache = make_cache(m)
    addresses = alloc_many(m, cache, cache.objs_per_slab + 1)
    with watch(m) as took:
        free_all(m, cache, addresses[:1])
    assert took["free"] == path(*TO_LIST, "Q->R", "R->S", "S->AD", "AD->AE")
    assert cache.statistics().cpus[0].partial_slabs == 1
    with watch(m) as took:
        on(m, cache.flush_all)
    # That, and the slab that the CPU allocated from.
    assert took["free"] == path("Q->R", "R->S", "S->AD", "AD->AE", count=2)


def test_an_empty_slab_is_kept(m: Machine) -> None:
    """Up to `min_partial` of them; a later shrink gives it back."""
    cache = make_cache(m)
    addresses = alloc_many(m, cache, 2)
    on(m, cache.flush_all)
    free_all(m, cache, addresses[:1])
    with watch(m) as took:
        free_all(m, cache, addresses[1:])
    kept = ("R->T", "T->V", "V->X", "X->AD")
    assert took["free"] == path(*TO_LIST, "Q->R", *kept, "AD->AE")
    assert cache.statistics().nodes[0].nr_free == 1
    with watch(m) as took:
        on(m, cache.shrink)
    assert took.get("free", "T->V", "V->W", "W->AD") == [1, 1, 1]
    assert took.get("free", "Q->R", "R->T", "V->X") == [0, 0, 0]


def test_an_empty_slab_too_many_is_returned(m: Machine) -> None:
    """With as many kept as may be, it goes back to the buddy system."""
    cache = make_cache(m, 4000)
    wanted = (cache.min_partial + 2) * cache.objs_per_slab
    addresses = alloc_many(m, cache, wanted)
    on(m, cache.flush_all)
    with watch(m) as took:
        free_all(m, cache, addresses)
        on(m, cache.flush_all)
    stats = cache.statistics()
    assert stats.nodes[0].nr_free == cache.min_partial
    returned = sum(stats.events["free_slab"])
    assert returned == 2
    assert took.get("free", "V->X", "V->W", "W->AD") == [cache.min_partial, 2, 2]
    assert took.get("free", "R->T", "T->V") == [cache.min_partial + 2] * 2


def test_a_full_slab(m: Machine) -> None:
    """When a CPU needs another slab, and when it is flushed with nothing free."""
    cache = make_cache(m)
    alloc_many(m, cache, cache.objs_per_slab)
    with watch(m) as took:
        alloc_many(m, cache, 1)
    assert took["free"] == path("Q->R", "R->U", "U->AD", "AD->AE")
    alloc_many(m, cache, cache.objs_per_slab - 1)
    with watch(m) as took:
        on(m, cache.flush_all)
    assert took["free"] == path("Q->R", "R->U", "U->AD", "AD->AE")


def test_a_full_partial_list_is_flushed(m: Machine) -> None:
    """One object of each of many full slabs is freed: the list of the CPU runs over."""
    cache = make_cache(m)
    limit = cache.cpu_partial_slabs
    addresses = alloc_many(m, cache, (limit + 1) * cache.objs_per_slab + 1)
    firsts = addresses[:: cache.objs_per_slab][: limit + 1]
    with watch(m) as took:
        free_all(m, cache, firsts[:limit])
    assert took.get("performance", "V->W", "V->X") == [0, limit]
    with watch(m) as took:
        free_all(m, cache, firsts[limit:])
    assert took.get("performance", "V->W", "W->Y", "Y->Z", "V->X") == [1, 1, 1, 0]
    assert cache.statistics().cpus[0].partial_slabs == 1


def test_destroyed_caches_stay_in_the_counts(m: Machine) -> None:
    """What a cache did is not forgotten with it."""
    cache = make_cache(m)
    with watch(m) as took:
        free_all(m, cache, alloc_many(m, cache, 5))
        on(m, cache.destroy)
    assert took.get("allocation", "N->P", "R->T") == [5, 1]
    assert took.get("free", "O->Q", "V->W") == [5, 1]


# -- release of pages


def test_kfree_of_a_page_block(m: Machine) -> None:
    """An ordinary page; with order 5 it goes to the buddy system at once."""
    address = on(m, lambda: m.kmalloc(100_000))
    assert isinstance(address, int)
    with watch(m) as took:
        on(m, lambda: m.kfree(address))
    assert took.get("free", "J->K", "K->M", "M->N", "N->P", "P->Y", "AB->AD") == [1] * 6
    assert took.get("free", "N->O", "O->Q", "Q->R") == [0, 0, 0]


def free_blocks(m: Machine) -> tuple[int, int]:
    """Free blocks of all zones, and those of them of the largest order."""
    zones = [zone.nr_free for node in m.statistics().nodes for zone in node.zones]
    return sum(map(sum, zones)), sum(nr_free[LARGEST] for nr_free in zones)


@pytest.mark.parametrize("order", [4, 6, 8])
def test_merging(m: Machine, order: int) -> None:
    """By the numbers of free blocks before and after: a merge leaves one less."""

    def allocate() -> list[object]:
        return [m.alloc_pages(order, GFP_ATOMIC | NOWARN) for _ in range(12)]

    def give_back() -> None:
        for page in pages:
            m.free_pages(page, order)

    pages = on(m, allocate)
    assert isinstance(pages, list)
    assert None not in pages
    before, largest_before = free_blocks(m)
    with watch(m) as took:
        on(m, give_back)
    after, largest_after = free_blocks(m)
    merges, whole = before + 12 - after, largest_after - largest_before
    assert merges > 0
    assert whole > 0
    assert took["free"] == {
        "P->Y": 12,
        "Y->Z": merges + 12 - whole,
        "Z->AA": merges,
        "AA->AC": merges,
        "AC->Y": merges - whole,
        "AC->AB": whole,
        **({"Z->AB": 12 - whole} if whole < 12 else {}),
        "AB->AD": 12,
        "AD->AE": 12,
    }


def test_no_merge(m: Machine) -> None:
    """Every second block is freed: no buddy is."""

    def body() -> list[object]:
        return [m.alloc_pages(4, GFP_ATOMIC | NOWARN) for _ in range(16)]

    pages = on(m, body)
    assert isinstance(pages, list)
    pages.sort(key=lambda page: page.pfn)
    evens = [page for page in pages if not page.pfn >> 4 & 1]
    odd_pfns = {page.pfn for page in pages if page.pfn >> 4 & 1}
    evens = [page for page in evens if page.pfn + 16 in odd_pfns]
    assert evens
    with watch(m) as took:
        on(m, lambda: [m.free_pages(page, 4) for page in evens])
    assert took["free"] == path("P->Y", "Y->Z", "Z->AB", "AB->AD", "AD->AE", count=len(evens))


def test_a_full_page_set_is_flushed_and_a_drain_is_no_flush(m: Machine) -> None:
    """What a CPU frees it keeps up to a limit, and then gives a batch back."""

    def allocate() -> list[object]:
        return [m.alloc_pages(0) for _ in range(4000)]

    pages = on(m, allocate)
    assert isinstance(pages, list)
    assert None not in pages

    def pageset_counts() -> tuple[int, int]:
        sets = [s for node in m.statistics().nodes for z in node.zones for s in z.pagesets]
        return sum(s.nr_flush for s in sets), sum(s.count for s in sets)

    flushes, _ = pageset_counts()
    with watch(m) as took:
        on(m, lambda: [m.free_pages(page) for page in pages])
    flushes = pageset_counts()[0] - flushes
    assert flushes > 0
    assert took["performance"] == path("V->W", "W->Y", "Y->Z", count=flushes)
    cached = pageset_counts()[1]
    assert cached
    with watch(m) as took:
        on(m, m.drain_all_pages)
    assert pageset_counts()[1] == 0
    assert took["performance"] == {}
    assert took.get("free", "P->Y") == [cached]


# -- system calls


def test_the_heap_grows_and_shrinks(m: Machine) -> None:
    """``brk``: to ask is to enter it, and nothing more."""

    def body() -> None:
        process = m.process()
        start = process.brk(0)
        process.brk(start + 8192)
        process.brk(start + 4096)
        process.exit()

    with watch(m) as took:
        on(m, body)
    grown = ("E->G", "G->I", "I->J", "J->L", "L->AA")
    assert took["allocation"] == {"C->E": 3, **path(*grown)}
    shrunk = ("D->F", "F->H", "H->J", "J->L", "L->AE")
    assert took.get("free", *shrunk) == [1] * 5
    assert took.get("free", "C->D", "E->G", "G->I", "J->K") == [0] * 4


def test_mappings_come_and_go(m: Machine) -> None:
    """``mmap`` and ``munmap`` without ``malloc``; one that is refused maps nothing."""

    def body() -> None:
        process = m.process(rlimit_as=1 << 20)
        address = process.mmap(8192)
        assert address is not None
        assert process.mmap(1 << 20) is None
        process.munmap(address, 8192)
        process.exit()

    with watch(m) as took:
        on(m, body)
    assert took["allocation"] == {"D->F": 2, **path("F->H", "H->I", "I->J", "J->L", "L->AA")}
    removed = ("E->G", "G->I", "I->J", "J->L", "L->AE")
    assert took.get("free", *removed) == [1] * 5
    assert took.get("free", "C->E", "D->F", "H->J", "J->K") == [0] * 4


def test_malloc_of_a_mapping(m: Machine) -> None:
    """What is large, and larger than the rest of the heap, is a system call; so is its free."""
    process = on(m, m.process)
    size = 256 << 10

    def body() -> int:
        return process.malloc(size)  # type: ignore[attr-defined, no-any-return]

    on(m, lambda: process.malloc(100))  # type: ignore[attr-defined]  # the heap is there
    with watch(m) as took:
        address = on(m, body)
    mapped = ("A->B", "B->D", "D->F", "F->H", "H->I", "I->J", "J->L", "L->AA")
    assert took["allocation"] == path(*mapped)
    with watch(m) as took:
        on(m, lambda: process.free(address))  # type: ignore[attr-defined]
    unmapped = ("A->B", "B->C", "C->E", "E->G", "G->I", "I->J", "J->L", "L->AE")
    assert took.get("free", *unmapped) == [1] * 8
    assert took.get("free", "C->D", "D->F", "J->K") == [0] * 3


def test_malloc_of_the_heap(m: Machine) -> None:
    """The first asks for more heap, the next is served from it, and many at the end give it back."""
    process = on(m, m.process)

    def malloc(nr: int) -> list[int]:
        return [process.malloc(100_000) for _ in range(nr)]  # type: ignore[attr-defined]

    def free(addresses: list[int]) -> None:
        for address in reversed(addresses):
            process.free(address)  # type: ignore[attr-defined]

    with watch(m) as took:
        on(m, lambda: malloc(1))
    assert took.get("allocation", "A->B", "B->C", "E->G", "G->I") == [1] * 4
    assert took.get("allocation", "B->D") == [0]
    with watch(m) as took:
        on(m, lambda: process.malloc(100))  # type: ignore[attr-defined]
    assert took["allocation"] == {}
    more = on(m, lambda: malloc(9))
    assert isinstance(more, list)
    with watch(m) as took:
        on(m, lambda: free(more))
    trims = took["free"]["C->D"]
    assert trims > 0
    shrunk = ("A->B", "B->C", "D->F", "F->H", "H->J", "J->L", "L->AE")
    assert took.get("free", *shrunk) == [trims] * 7
    assert took.get("free", "C->E", "E->G") == [0, 0]


# -- monitoring


def test_reading_files(m: Machine) -> None:
    """Each read of a file, also by an export, and no other file."""
    with watch(m) as took:
        m.procfs.read("meminfo")
        m.procfs.read("meminfo")
        m.procfs.read("buddyinfo")
        m.procfs.read("slabinfo")
    assert took["debugging"] == {"L->M": 3, "M->N": 2, "M->O": 1}
    with pytest.raises(Exception, match="name: "), watch(m) as took:
        m.procfs.read("nonsense")


def test_an_export_reads_every_file(m: Machine, tmp_path: object) -> None:
    """Once each."""
    with watch(m) as took:
        m.procfs.export(str(tmp_path))
    assert took.get("debugging", "M->N", "M->O") == [1, 1]
