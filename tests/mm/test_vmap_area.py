"""The tree of areas against a sorted list of ranges."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.errors import KernelBug
from concmem.mm.debug.validate_vmalloc import _check_tree
from concmem.mm.vmap_area import VmapArea, VmapTree

PAGE = 4096
Ranges = list[tuple[int, int]]


def ranges_of(tree: VmapTree) -> Ranges:
    return [(va.va_start, va.va_end) for va in tree]


def lowest(ranges: Ranges, size: int, align: int) -> int | None:
    """By trying every range and rounding its start up, lowest first."""
    for start, end in sorted(ranges):
        at = start
        while at % align:
            at += PAGE
        if at + size <= end:
            return at
    return None


def take(ranges: Ranges, start: int, end: int) -> None:
    low, high = next(each for each in ranges if each[0] <= start and end <= each[1])
    ranges.remove((low, high))
    ranges += [part for part in ((low, start), (end, high)) if part[0] < part[1]]


def give(ranges: Ranges, start: int, end: int) -> None:
    for each in [each for each in ranges if each[1] == start or each[0] == end]:
        ranges.remove(each)
        start, end = min(start, each[0]), max(end, each[1])
    ranges.append((start, end))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "alloc", "free"]),
        st.integers(1, 9),
        st.sampled_from([1, 1, 1, 4, 16]),
        st.integers(0, 1000),
    ),
    max_size=60,
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(STEPS)
def test_free_areas(steps: list[tuple[str, int, int, int]]) -> None:
    """The lowest fit is found, holes are joined, and the tree stays in order and balanced."""
    tree = VmapTree()
    tree.insert(VmapArea(0, 64 * PAGE))
    free: Ranges = [(0, 64 * PAGE)]
    used: Ranges = []
    for what, pages, align, pick in steps:
        if what == "alloc":
            expected = lowest(free, pages * PAGE, align * PAGE)
            found = tree.find_lowest(pages * PAGE, align * PAGE)
            assert (None if found is None else found[1]) == expected
            if found is not None:
                va, start = found
                tree.clip(va, start, start + pages * PAGE)
                take(free, start, start + pages * PAGE)
                used.append((start, start + pages * PAGE))
        elif used:
            start, end = used.pop(pick % len(used))
            tree.merge(start, end)
            give(free, start, end)
        assert ranges_of(tree) == sorted(free)
        assert len(tree) == len(free)
        _check_tree(tree, "free")


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.integers(0, 200), unique=True), st.randoms(use_true_random=False))
def test_find_by_any_address(numbers: list[int], rng: Random) -> None:
    """Each address inside finds its area, each address outside finds none, also after removals."""
    tree = VmapTree()
    areas = {n: VmapArea(n * 10, n * 10 + 7) for n in numbers}
    for va in areas.values():
        tree.insert(va)
    for number in rng.sample(sorted(areas), len(areas) // 2):
        tree.remove(areas.pop(number))
    _check_tree(tree, "busy")
    for address in range(-3, 2020):
        expected = areas.get(address // 10) if address % 10 < 7 else None
        assert tree.find(address) is expected


def test_thousands_of_areas() -> None:
    """Twenty thousand areas in random order: in order, balanced, and each found."""
    rng = Random(1)
    starts = list(range(0, 20_000 * PAGE, PAGE))
    rng.shuffle(starts)
    tree = VmapTree()
    areas = [VmapArea(start, start + PAGE) for start in starts]
    for va in areas:
        tree.insert(va)
    _check_tree(tree, "busy")
    assert tree.root is not None
    assert tree.root.height <= 1.45 * 15  # AVL: at most 1.44 log2(n + 2)
    rng.shuffle(areas)
    for va in areas[:15_000]:
        assert tree.find(va.va_start + rng.randrange(PAGE)) is va
        tree.remove(va)
    _check_tree(tree, "busy")
    assert ranges_of(tree) == sorted((va.va_start, va.va_end) for va in areas[15_000:])


@pytest.mark.parametrize(("start", "end"), [(5, 6), (0, 10), (9, 11), (-5, 1), (-5, 20)])
def test_overlap_is_refused(start: int, end: int) -> None:
    """An area that shares an address with another one is a bug of the caller."""
    tree = VmapTree()
    tree.insert(VmapArea(0, 10))
    with pytest.raises(KernelBug, match="overlaps"):
        tree.insert(VmapArea(start, end))
    assert ranges_of(tree) == [(0, 10)]


@pytest.mark.parametrize(("start", "end"), [(5, 8), (0, 10), (5, 20), (-5, 5)])
def test_freeing_what_is_free_is_refused(start: int, end: int) -> None:
    """A range that is free already, in part or as a whole, is a bug of the caller."""
    tree = VmapTree()
    tree.insert(VmapArea(0, 10))
    with pytest.raises(KernelBug):
        tree.merge(start, end)
    assert ranges_of(tree) == [(0, 10)]


def test_remove_of_a_stranger_is_refused() -> None:
    """An area that is not in the tree cannot be taken out of it."""
    tree = VmapTree()
    tree.insert(VmapArea(0, 10))
    stranger: Any = VmapArea(20, 30)
    with pytest.raises(KernelBug, match="not in the tree"):
        tree.remove(stranger)
