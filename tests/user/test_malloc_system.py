"""When malloc asks the system for memory, and when it gives it back."""

from __future__ import annotations

import pytest

from concmem.errors import BadArgument, BadArgumentType
from concmem.user.params import (
    M_ARENA_MAX,
    M_MMAP_MAX,
    M_MMAP_THRESHOLD,
    M_MXFAST,
    M_TOP_PAD,
    M_TRIM_THRESHOLD,
)

from .helpers import FIRST, HEAP, PAGE, world

THRESHOLD = 128 << 10


def test_the_heap_grows_by_what_is_needed_and_the_pad() -> None:
    """132 KiB at first; then the request and 128 KiB beyond the top."""
    with world() as w:
        w.malloc(24)
        assert w.p.brk_now == HEAP + 0x21000
        w.mallocs(100_000, 2)
        assert w.p.events["user_malloc_brk"] == 2
        used = FIRST - HEAP - 16 + 32 + 2 * 100016
        assert w.p.brk_now - HEAP == (used + 131072 + 32 + PAGE - 1) // PAGE * PAGE
        w.check()


def test_the_threshold() -> None:
    """A chunk of 128 KiB has a mapping of its own, 16 bytes less has not."""
    with world() as w:
        below = w.malloc(THRESHOLD - 24)
        assert w.p.events["user_malloc_mmap"] == 0
        above = w.malloc(THRESHOLD - 23)
        assert w.p.events["user_malloc_mmap"] == 1
        assert below < w.p.brk_now < above
        assert above % PAGE == 16
        w.check()


def test_the_dynamic_threshold() -> None:
    """Freeing a mapped chunk raises the threshold to its size; the next such one comes from the heap."""
    with world() as w:
        a = w.malloc(300_000)
        w.free(a)
        assert w.p.events["user_free_mapped"] == 1
        assert not w.p.ranges.keys() - {w.main.address}
        size = (300_000 + 24) // PAGE * PAGE + PAGE
        assert w.m.params.mmap_threshold.value == size
        assert w.m.params.trim_threshold.value == 2 * size
        assert w.malloc(300_000) < w.p.brk_now
        assert w.malloc(size) > w.p.brk_now
        w.check()


def test_the_threshold_has_a_limit() -> None:
    """Above 32 MiB it does not grow."""
    with world() as w:
        w.free(w.malloc(33 << 20))
        assert w.m.params.mmap_threshold.value == THRESHOLD
        w.free(w.malloc((32 << 20) - 5000))
        assert w.m.params.mmap_threshold.value == (32 << 20) - PAGE


@pytest.mark.parametrize("param", [M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX])
def test_mallopt_switches_the_dynamic_threshold_off(param: int) -> None:
    """Whoever sets one of them wants what he set."""
    with world() as w:
        assert w.m.mallopt(param, THRESHOLD)
        w.free(w.malloc(300_000))
        assert w.p.events["user_free_mapped"] == 1
        assert w.m.params.mmap_threshold.value == THRESHOLD


def test_mallopt() -> None:
    """Unknown parameters are ignored, values that cannot be are refused, and wrong types raise."""
    with world() as w:
        assert w.m.mallopt(77, 1)
        assert not w.m.mallopt(M_MMAP_THRESHOLD, (32 << 20) + 1)
        assert not w.m.mallopt(M_MXFAST, 161)
        assert not w.m.mallopt(M_ARENA_MAX, 0)
        with pytest.raises(BadArgumentType, match=r"^value: "):
            w.m.mallopt(M_MXFAST, 1.0)  # type: ignore[arg-type]
        with pytest.raises(BadArgument, match=r"^value: "):
            w.m.mallopt(M_TOP_PAD, 1 << 31)
        assert w.m.mallopt(M_MMAP_MAX, 0)
        assert w.malloc(1 << 20) < w.p.brk_now
        assert w.m.mallopt(M_MXFAST, 0)
        chunks = w.mallocs(24, 9)
        w.malloc(24)
        w.free(*chunks)
        assert not any(head.value for head in w.main.fastbins)
        w.check()


def test_the_top_is_trimmed() -> None:
    """A free that makes the top larger than the trim threshold lowers the break to the pad."""
    with world() as w:
        chunks = w.mallocs(60_000, 6)
        high = w.p.brk_now
        w.free(*chunks[:3])
        assert w.p.brk_now == high
        w.free(*chunks[3:])
        assert w.p.events["user_free_heap"] >= 1
        assert w.p.brk_now < high
        top = w.p.brk_now - w.main.top
        assert THRESHOLD < top <= THRESHOLD + PAGE + 32
        w.check()


def test_malloc_trim_leaves_the_pad() -> None:
    """It trims whatever the threshold is."""
    with world() as w:
        chunk = w.malloc(100_000)
        w.free(chunk)
        assert w.on(w.m.malloc_trim, 5000)
        assert 5000 < w.p.brk_now - w.main.top <= 5000 + PAGE + 32
        assert w.on(w.m.malloc_trim, 0)
        assert not w.on(w.m.malloc_trim, 0)
        w.check()


def test_a_foreign_sbrk_is_gone_around() -> None:
    """Memory that somebody else took behind the heap is neither used nor trimmed."""
    with world() as w:
        first = w.malloc(24)
        theirs = w.p.sbrk(5000)
        assert theirs is not None
        w.p.write(theirs, b"t" * 5000)
        chunks = w.mallocs(60_000, 5)
        assert all(c + 60_000 <= theirs or c >= theirs + 5000 for c in chunks)
        w.check()
        brk = w.p.brk_now
        w.p.sbrk(PAGE)
        w.free(*chunks)
        assert w.p.brk_now == brk + PAGE
        w.malloc(100)
        w.check()
        assert w.p.read(theirs, 5000) == b"t" * 5000
        w.free(first)
        w.check()


def test_without_brk_the_main_arena_maps_memory() -> None:
    """Chunks come from mappings of 1 MiB then."""
    with world(heap=0x30000) as w:
        chunks = [w.malloc(50_000) for _ in range(20)]
        assert any(c > w.p.brk_now for c in chunks)
        w.check()
        w.free(*chunks)
        w.check()


def test_no_memory() -> None:
    """Nothing is changed, and what is there still serves."""
    with world(heap=0x21000) as w:
        w.malloc(24)
        w.p.fail_mmap = True
        assert w.on(w.m.malloc, 1 << 20) is None
        assert w.on(w.m.malloc, 120_000) is not None
        assert w.on(w.m.malloc, 120_000) is None
        assert w.on(w.m.calloc, 120, 1000) is None
        assert w.on(w.m.memalign, 4096, 120_000) is None
        for huge in (1 << 50, 1 << 62, 1 << 63, 1 << 70):
            assert w.on(w.m.malloc, huge) is None
        assert w.on(w.m.calloc, 1 << 40, 1 << 40) is None
        w.check()
        w.p.fail_mmap = False
        w.malloc(120_000)
        w.check()


def test_no_memory_at_all() -> None:
    """A process that cannot even map a page gets no memory, and no error."""
    with world() as w:
        w.p.fail_mmap = True
        assert w.on(w.m.malloc, 24) is None
        assert w.on(w.m.memalign, 4096, 24) is None
        w.p.fail_mmap = False
        assert w.malloc(24) == FIRST


def test_a_threshold_of_0() -> None:
    """Everything is mapped, the tcache's structure too, and nothing is ever cached."""
    with world() as w:
        w.m.mallopt(M_MMAP_THRESHOLD, 0)
        a, b = w.mallocs(24, 2)
        assert w.m.params.n_mmaps.value == 3
        w.check()
        w.free(a, b)
        w.on(w.m.thread_exit)
        assert w.m.params.n_mmaps.value == 0
        w.check()


def test_mallinfo_counts() -> None:
    """Bytes add up."""
    with world() as w:
        chunks = w.mallocs(50, 10)
        w.malloc(200_000)
        w.free(*chunks)
        info = w.on(w.m.mallinfo)
        assert (info.hblks, info.hblkhd) == (1, 200704)
        assert (info.smblks, info.fsmblks) == (3, 192)
        assert info.arena == 0x21000 == info.uordblks + info.fordblks
        assert info.keepcost == info.fordblks - 192


@pytest.mark.parametrize("size", [-1, -100, -5000, 1.5, "24", None, [1]])
def test_bad_sizes(size: object) -> None:
    """They raise, name the argument, and change nothing."""
    with world() as w:
        a = w.malloc(24)
        w.free(a)
        for fn, args in (
            (w.m.malloc, (size,)),
            (w.m.calloc, (1, size)),
            (w.m.realloc, (None, size)),
            (w.m.memalign, (64, size)),
        ):
            with pytest.raises(BadArgument, match=r"^size: "):
                w.on(fn, *args)
        assert w.malloc(24) == a
        w.check()


@pytest.mark.parametrize("address", [-16, 1.5, "a", 1 << 64])
def test_bad_addresses(address: object) -> None:
    """Types and ranges are checked before anything is touched."""
    with world() as w:
        for fn in (w.m.free, w.m.malloc_usable_size):
            with pytest.raises(BadArgument, match=r"^address: "):
                w.on(fn, address)
        w.on(w.m.free, None)
        w.on(w.m.free, 0)
        w.check()
