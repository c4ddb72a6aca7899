"""Which chunk comes next: the order that glibc documents, and programs that exploit it rely on."""

from __future__ import annotations

import pytest

from .helpers import FIRST, HEAP, world


def test_the_first_chunks_follow_the_tcache() -> None:
    """As in a real process: 0x290 bytes of tcache, then one chunk behind the other."""
    with world() as w:
        assert [w.malloc(24), w.malloc(24), w.malloc(100), w.malloc(1)] == [
            FIRST,
            FIRST + 0x20,
            FIRST + 0x40,
            FIRST + 0xB0,
        ]
        assert w.p.brk_now - HEAP == 0x21000
        w.check()


def test_tcache_is_last_in_first_out() -> None:
    """Seven chunks come back in reverse order."""
    with world() as w:
        chunks = w.mallocs(40, 7)
        w.free(*chunks)
        assert w.mallocs(40, 7) == chunks[::-1]
        w.check()


def test_sizes_of_one_bin_are_the_same() -> None:
    """25 and 40 bytes have chunks of 48; 41 bytes have others. 0 bytes have the smallest."""
    with world() as w:
        a = w.malloc(25)
        w.free(a)
        b = w.malloc(41)
        assert b != a
        assert w.malloc(40) == a
        z = w.malloc(0)
        w.free(z)
        assert w.malloc(24) == z


def test_the_eighth_goes_to_a_fastbin() -> None:
    """Fastbins are last in, first out, too; what is taken along refills the tcache, reversed."""
    with world() as w:
        chunks = w.mallocs(40, 12)
        w.free(*chunks)
        assert w.main.fastbins[1].value == chunks[11] - 16
        assert w.mallocs(40, 7) == chunks[6::-1]
        w.check()
        # From the fastbin: 11; with it 10, 9, 8, 7 go to the tcache, so that 7 is on top.
        assert w.mallocs(40, 5) == [chunks[11], *chunks[7:11]]
        w.check()


def test_small_bins_are_first_in_first_out() -> None:
    """Sorted by a larger request, the oldest chunk is served first; the rest goes to the tcache."""
    with world(tcache=False) as w:
        chunks = w.mallocs(200, 7)
        w.free(*chunks[1:6:2])
        w.malloc(3000)
        w.check()
        assert w.mallocs(200, 3) == chunks[1:6:2]


def test_unsorted_of_the_right_size_is_taken_at_once() -> None:
    """Without tcache, the oldest unsorted chunk of that size."""
    with world(tcache=False) as w:
        chunks = w.mallocs(300, 5)
        w.free(chunks[1], chunks[3])
        assert w.mallocs(300, 2) == [chunks[1], chunks[3]]


def test_large_requests_take_the_best_fit() -> None:
    """The smallest chunk that is large enough, and the rest of it becomes a chunk."""
    with world() as w:
        sizes = (5000, 2000, 8000, 3000)
        chunks = {size: (w.malloc(size), w.malloc(24))[0] for size in sizes}
        w.free(*chunks.values())
        assert w.malloc(2500) == chunks[3000]
        assert w.malloc(4000) == chunks[5000]
        assert w.malloc(7990) == chunks[8000]
        w.check()


def test_equal_large_chunks() -> None:
    """Of several of one size the second in the list is taken, so that the first one stays."""
    with world() as w:
        chunks = [(w.malloc(2000), w.malloc(24))[0] for _ in range(4)]
        w.free(*chunks)
        w.malloc(9000)
        listed = [c + 16 for c in w.on(lambda: list(w.main.chunks_of(79)))]
        assert listed == [chunks[0], chunks[3], chunks[2], chunks[1]]
        assert w.mallocs(2000, 4) == [chunks[3], chunks[2], chunks[1], chunks[0]]


def test_the_last_remainder_serves_small_requests_in_a_row() -> None:
    """What is left of a split lies behind, and is split again."""
    with world() as w:
        large = w.malloc(2000)
        w.malloc(24)
        w.free(large)
        assert w.mallocs(200, 3) == [large, large + 208, large + 416]
        w.check()


def test_neighbours_merge() -> None:
    """Three chunks that are freed in any order are one."""
    for order in ((0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 0, 2)):
        with world() as w:
            chunks = w.mallocs(1100, 3)
            w.malloc(24)
            w.free(*[chunks[i] for i in order])
            w.check()
            assert w.malloc(3300) == chunks[0]


def test_the_last_chunk_merges_into_the_top() -> None:
    """The top begins where the freed chunk was."""
    with world() as w:
        chunk = w.malloc(2000)
        w.free(chunk)
        assert w.main.top == chunk - 16
        w.check()


def test_fastbins_are_consolidated_by_a_large_request() -> None:
    """Small chunks that were kept apart make room for a large one."""
    with world(tcache=False) as w:
        chunks = w.mallocs(100, 20)
        w.malloc(24)
        w.free(*chunks)
        assert w.main.have_fastchunks.value
        assert w.malloc(2000) == chunks[0]
        assert not w.main.have_fastchunks.value
        w.check()


@pytest.mark.parametrize("alignment", [32, 64, 128, 4096, 65536])
def test_memalign(alignment: int) -> None:
    """What is in front of an aligned chunk, and behind it, is free again."""
    with world() as w:
        addresses = [w.on(w.m.memalign, alignment, n) for n in (1, 100, 5000, 200000)]
        assert all(address is not None and address % alignment == 0 for address in addresses)
        w.check()
        w.free(*[a for a in addresses if a is not None])
        w.check()


def test_calloc_is_zero_and_not_from_the_tcache() -> None:
    """Memory that was used before is cleared; the tcache is left alone, as in glibc."""
    with world() as w:
        a = w.malloc(200)
        w.p.write(a, b"x" * 200)
        w.free(a)
        b = w.on(w.m.calloc, 10, 20)
        assert b is not None
        assert b != a
        assert w.p.read(b, 200) == bytes(200)
        assert w.malloc(200) == a
        w.check()


def test_realloc_in_place() -> None:
    """It grows into the top or into a free neighbour, shrinks where it is, and else moves."""
    with world() as w:
        a = w.malloc(100)
        w.p.write(a, bytes(range(100)))
        assert w.on(w.m.realloc, a, 5000) == a  # into the top
        guard = w.malloc(24)
        assert w.on(w.m.realloc, a, 2000) == a
        w.check()
        assert w.on(w.m.realloc, a, 4900) == a  # into what it gave back
        moved = w.on(w.m.realloc, a, 9000)
        assert moved is not None
        assert moved > guard
        assert w.p.read(moved, 100) == bytes(range(100))
        w.check()


def test_usable_sizes() -> None:
    """8 bytes less than the chunk, 16 less than a mapping."""
    with world() as w:
        sizes = {n: w.on(w.m.malloc_usable_size, w.malloc(n)) for n in (0, 24, 25, 1000, 200000)}
        assert sizes == {0: 24, 24: 24, 25: 40, 1000: 1000, 200000: 200704 - 16}
        assert w.on(w.m.malloc_usable_size, None) == 0
