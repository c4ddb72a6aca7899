"""Programs with bugs: each of glibc's messages, provoked by real corruption of bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from concmem.errors import HeapCorruption

from .helpers import World, world


def refused(w: World, message: str, fn: Callable[..., object], *args: object) -> None:
    """The call raises, with the message, an address and the CPU."""
    with pytest.raises(HeapCorruption) as info:
        w.on(fn, *args)
    assert str(info.value).startswith(f"{message}: 0x"), info.value
    assert str(info.value).endswith(" on cpu0")


def test_double_free_in_tcache() -> None:
    with world() as w:
        a, b = w.mallocs(24, 2)
        w.free(a, b)
        refused(w, "free(): double free detected in tcache 2", w.m.free, a)
        w.check()


def test_double_free_fasttop() -> None:
    """With a full tcache, only the head of the fastbin is looked at, after the key was overwritten."""
    with world() as w:
        chunks = w.mallocs(24, 8)
        w.free(*chunks)
        refused(w, "double free or corruption (fasttop)", w.m.free, chunks[7])


def test_double_free_that_glibc_does_not_notice() -> None:
    """Not the head of the fastbin: glibc goes on, and hands it out twice."""
    with world() as w:
        chunks = w.mallocs(24, 9)
        w.free(*chunks)
        refused(w, "free(): not allocated, though glibc would not notice", w.m.free, chunks[7])
        w.check()


def test_double_free_of_normal_chunks() -> None:
    """The flag in the next chunk tells; or the chunk is the top by now."""
    with world() as w:
        a, b, c = w.mallocs(2000, 3)
        w.malloc(24)
        w.free(a)
        refused(w, "double free or corruption (!prev)", w.m.free, a)
        w.free(b, c)
    with world() as w:
        a = w.malloc(2000)
        w.free(a)
        refused(w, "double free or corruption (top)", w.m.free, a)


def test_out() -> None:
    """A chunk whose end is behind the top."""
    with world() as w:
        a = w.malloc(2000)
        w.p.poke(a - 8, 0x30000 | 1)
        refused(w, "double free or corruption (out)", w.m.free, a)


@pytest.mark.parametrize("offset", [1, 8, 15])
def test_invalid_pointers(offset: int) -> None:
    with world() as w:
        a = w.malloc(100)
        refused(w, "free(): invalid pointer", w.m.free, a + offset)
        refused(w, "realloc(): invalid pointer", w.m.realloc, a + offset, 50)
        refused(w, "malloc_usable_size(): invalid pointer", w.m.malloc_usable_size, a + offset)
        w.free(a)
        w.check()


@pytest.mark.parametrize("size", [0x10 | 1, 0x28 | 1, 1])
def test_invalid_size(size: int) -> None:
    with world() as w:
        a = w.malloc(100)
        w.p.poke(a - 8, size)
        refused(w, "free(): invalid size", w.m.free, a)


def test_a_size_that_wraps() -> None:
    with world() as w:
        a = w.malloc(2000)
        w.p.poke(a - 8, (1 << 64) - 32 | 1)
        refused(w, "free(): invalid pointer", w.m.free, a)


def test_an_overflow_into_the_next_size() -> None:
    """Writing beyond the end destroys the size of the chunk behind."""
    for n, message in (
        (100, "free(): invalid next size (fast)"),
        (2000, "free(): invalid next size (normal)"),
    ):
        with world(tcache=False) as w:
            a, b = w.mallocs(n, 2)
            w.p.poke(b - 8, 0x7000000 | 1)
            refused(w, message, w.m.free, a)


def test_munmap_chunk() -> None:
    """The size of a mapped chunk must be whole pages."""
    with world() as w:
        a = w.malloc(300_000)
        w.p.poke(a - 8, (300_000 & ~15) | 2)
        refused(w, "munmap_chunk(): invalid pointer", w.m.free, a)


def test_corrupted_top_size() -> None:
    """The "house of force"."""
    with world() as w:
        w.malloc(24)
        w.p.poke(w.main.top + 8, (1 << 64) - 1)
        refused(w, "malloc(): corrupted top size", w.m.malloc, 100)


def test_prev_size() -> None:
    """A free chunk that has another size than the chunk behind it says."""
    with world(tcache=False) as w:
        a, b = w.mallocs(2000, 2)
        w.malloc(24)
        w.free(a)
        w.p.poke(a - 8, 1008 | 1)
        refused(w, "corrupted size vs. prev_size while consolidating", w.m.free, b)
    with world(tcache=False) as w:
        a, b = w.mallocs(2000, 2)
        w.malloc(24)
        w.free(b)
        w.p.poke(b - 8, 1008 | 1)
        w.p.poke(b - 16 + 1008 + 8, 0x20)  # and there seems to be a free chunk
        refused(w, "corrupted size vs. prev_size", w.m.free, a)


def test_double_linked_list() -> None:
    """The "unlink" attack: pointers of a free chunk that do not point back."""
    with world(tcache=False) as w:
        a, b = w.mallocs(2000, 2)
        w.malloc(24)
        w.free(a)
        w.p.poke(a, b)
        refused(w, "corrupted double-linked list", w.m.free, b)


def test_unsorted_chunks() -> None:
    with world(tcache=False) as w:
        a, b, c = w.mallocs(2000, 3)
        w.malloc(24)
        w.free(a)
        w.p.poke(a + 8, b)
        refused(w, "free(): corrupted unsorted chunks", w.m.free, c)
    for where, value, message in (
        (-8, 8 | 1, "malloc(): invalid size (unsorted)"),
        (1992, 1 << 40, "malloc(): invalid next size (unsorted)"),
        (1984, 48, "malloc(): mismatching next->prev_size (unsorted)"),
        (0, 0x555555559000, "malloc(): unsorted double linked list corrupted"),
        (1992, 2016 | 1, "malloc(): invalid next->prev_inuse (unsorted)"),
    ):
        with world(tcache=False) as w:
            a = w.malloc(1992)
            w.malloc(2000)
            w.free(a)
            w.p.poke(a + where, value)
            refused(w, message, w.m.malloc, 4000)


def test_smallbin() -> None:
    with world(tcache=False) as w:
        a = w.malloc(200)
        w.malloc(24)
        w.free(a)
        w.malloc(3000)
        w.p.poke(a + 8, a - 16)
        refused(w, "malloc(): smallbin double linked list corrupted", w.m.malloc, 200)


def test_tcache_use_after_free() -> None:
    """Writing to a freed chunk destroys the pointer to the next: seen when the chunk is handed out."""
    with world() as w:
        a, b = w.mallocs(24, 2)
        w.free(a, b)
        w.p.poke(b, 0x4141414141414141)
        refused(w, "malloc(): unaligned tcache chunk detected", w.m.malloc, 24)
        refused(w, "malloc(): unaligned tcache chunk detected", w.m.malloc, 24)
        w.p.poke(b, (b >> 12) ^ (a + 16))
        with pytest.raises(HeapCorruption, match="corrupted tcache chunk, next is 0x5555"):
            w.on(w.m.malloc, 24)


def test_tcache_with_a_long_chain() -> None:
    """A chunk that has the key is looked for in a chain that never ends."""
    with world() as w:
        chunks = w.mallocs(24, 8)
        w.free(*chunks[:7])
        w.p.poke(chunks[7] + 8, w.m.libc.threads.of(0).key)
        w.p.poke(chunks[0], chunks[0] >> 12 ^ chunks[1])
        refused(w, "free(): too many chunks detected in tcache", w.m.free, chunks[7])
        w.p.poke(chunks[3], 12344)
    with world() as w:
        chunks = w.mallocs(24, 9)
        w.free(*chunks[:7])
        w.p.poke(chunks[8] + 8, w.m.libc.threads.of(0).key)
        w.p.poke(chunks[3], 12344)
        refused(w, "free(): unaligned chunk detected in tcache 2", w.m.free, chunks[8])


def test_fastbins() -> None:
    """Pointers and sizes of chunks in a fastbin."""
    for where, value, message in (
        (0, 12344, "malloc(): unaligned fastbin chunk detected"),
        (-8, 48 | 1, "malloc(): memory corruption (fast)"),
    ):
        with world(tcache=False) as w:
            a, b = w.mallocs(24, 2)
            w.malloc(24)
            w.free(a, b)
            w.p.poke(b + where, value)
            refused(w, message, w.m.malloc, 24)
    for where, value, message in (
        (-8, 64 | 1, "malloc_consolidate(): invalid chunk size"),
        (0, 0x555555559, "malloc_consolidate(): unaligned fastbin chunk detected"),
    ):
        with world(tcache=False) as w:
            a, b = w.mallocs(24, 2)
            w.malloc(24)
            w.free(a, b)
            w.p.poke(b + where, value ^ (5 if where == 0 else 0))
            refused(w, message, w.m.malloc, 2000)


def test_realloc_sizes() -> None:
    with world() as w:
        a = w.malloc(2000)
        w.malloc(24)
        w.p.poke(a - 8, 0x7000000 | 1)
        refused(w, "realloc(): invalid old size", w.m.realloc, a, 3000)
    with world() as w:
        a, b = w.mallocs(2000, 2)
        w.p.poke(b - 8, 8)
        refused(w, "realloc(): invalid next size", w.m.realloc, a, 3000)
