from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.errors import BadArgument
from concmem.reports.fragmentation import fragmentation_index, unusable_index

counts = st.lists(st.integers(0, 1000), min_size=11, max_size=11)


@pytest.mark.parametrize(
    ("free", "order", "index"),
    [
        ((8,), 0, 0.0),
        ((8, 0), 1, 1.0),
        ((2, 1), 1, 0.5),
        ((1, 1), 1, 0.333),
        ((3, 0, 0, 1), 2, 0.272),
        ((0, 0), 0, 1.0),
    ],
)
def test_unusable_index(free: tuple[int, ...], order: int, index: float) -> None:
    """The share of free pages in blocks that are too small, in thousandths rounded down."""
    assert unusable_index(free, order) == index


@pytest.mark.parametrize(
    ("free", "order", "index"),
    [
        ((0, 0, 0), 2, 0.0),
        ((5, 0, 1), 2, -1.0),
        ((1000, 0, 0), 2, 0.749),
        ((4, 0, 0), 2, 0.5),
        ((1, 0, 0, 0), 3, -0.125),
        ((0, 1, 0), 2, -0.5),
    ],
)
def test_fragmentation_index(free: tuple[int, ...], order: int, index: float) -> None:
    """Hand-computed values of the kernel's formula: -1 means that a block is there."""
    assert fragmentation_index(free, order) == index


@given(counts, st.integers(0, 10))
@settings(derandomize=True, deadline=None, database=None, max_examples=50)
def test_unusable_index_agrees_with_counting_pages(free: list[int], order: int) -> None:
    """Counting the pages of all smaller blocks gives the same share, to a thousandth."""
    pages = [nr * 2**o for o, nr in enumerate(free)]
    expected = sum(pages[:order]) / sum(pages) if any(pages) else 1.0
    assert expected - 0.001 <= unusable_index(free, order) <= expected + 1e-9


@given(counts, st.integers(0, 10))
@settings(derandomize=True, deadline=None, database=None, max_examples=50)
def test_fragmentation_index_is_minus_one_iff_a_block_suffices(free: list[int], order: int) -> None:
    """-1 exactly when there is a block of that order or above, and otherwise -0.5 to 1."""
    index = fragmentation_index(free, order)
    assert (index == -1.0) == any(free[order:])
    assert index == -1.0 or -0.5 <= index <= 1.0


@pytest.mark.parametrize("order", [-1, 11])
def test_order_out_of_range(order: int) -> None:
    """An order without a count is refused by name."""
    for index in (unusable_index, fragmentation_index):
        with pytest.raises(BadArgument, match=f"^order: expected 0 to 10, got {order}$"):
            index((0,) * 11, order)
