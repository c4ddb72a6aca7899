"""The checker itself: each rule, broken by hand, is reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from concmem.errors import HeapError

from .helpers import World, world

Break = Callable[[World, list[int]], None]


def _move_top(w: World, _: list[int]) -> None:
    w.main.top += 16


def _forget_chunk(w: World, chunks: list[int]) -> None:
    w.m.memory.take(chunks[0])


def _own_nothing(w: World, chunks: list[int]) -> None:
    w.m.memory.give(chunks[0] + 16)


def _cache_twice(w: World, chunks: list[int]) -> None:
    w.m.memory.give(chunks[1])


def _lie_about_size(w: World, chunks: list[int]) -> None:
    w.p.poke(chunks[0] - 8, 80 | 1)


def _lie_about_prev(w: World, chunks: list[int]) -> None:
    w.p.poke(chunks[3] - 8, w.p.peek(chunks[3] - 8) ^ 1)  # type: ignore[operator]


def _lie_about_prev_size(w: World, chunks: list[int]) -> None:
    w.p.poke(chunks[3] - 16, 48)


def _break_bin(w: World, chunks: list[int]) -> None:
    w.p.poke(chunks[2] + 8, chunks[0])


def _empty_bin(w: World, _: list[int]) -> None:
    head = w.main.unsorted_chunks()
    w.p.poke(head + 16, head)
    w.p.poke(head + 24, head)


def _break_tcache(w: World, chunks: list[int]) -> None:
    w.p.poke(chunks[1], 0)


def _break_key(w: World, chunks: list[int]) -> None:
    w.p.poke(chunks[1] + 8, 0)


def _count_wrong(w: World, _: list[int]) -> None:
    w.main.system_mem.value += 4096


def _count_mmaps_wrong(w: World, _: list[int]) -> None:
    w.m.params.n_mmaps.inc()


def _attach(w: World, _: list[int]) -> None:
    w.main.attached_threads += 1


def _narenas(w: World, _: list[int]) -> None:
    w.m.arenas.narenas.value = 0


BREAKS: list[tuple[Break, str]] = [
    (_move_top, "arena 0: "),
    (_forget_chunk, "is lost: in use, but nobody's"),
    (_own_nothing, "but is no chunk in use|also"),
    (_cache_twice, "and also in bin"),
    (_lie_about_size, "arena 0: "),
    (_lie_about_prev, "P of chunk|in no bin|in a bin, but not free"),
    (_lie_about_prev_size, "prev_size behind"),
    (_break_bin, "does not point back"),
    (_empty_bin, "is in no bin"),
    (_break_tcache, "does not point to"),
    (_break_key, "has not got the key"),
    (_count_wrong, "system_mem"),
    (_count_mmaps_wrong, "n_mmaps"),
    (_attach, "attached threads"),
    (_narenas, "narenas"),
]


@pytest.mark.parametrize(("break_it", "message"), BREAKS)
def test_broken_rules_are_reported(break_it: Break, message: str) -> None:
    """chunks: [live, in the tcache, in the unsorted bin, live behind it]."""
    with world() as w:
        live = w.malloc(100)
        other, cached = w.mallocs(40, 2)
        large = w.malloc(2000)
        behind = w.malloc(24)
        w.malloc(200_000)
        w.free(other, cached, large)
        w.check()
        break_it(w, [live, cached, large, behind])
        with pytest.raises(HeapError, match=message):
            w.check()
