"""Sizes as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.errors import BadArgument, BadArgumentType
from concmem.units import (
    HZ,
    MAX_PAGE_ORDER,
    NR_PAGE_ORDERS,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    format_size,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("0", 0),
        ("256M", 268435456),
        ("16G", 17179869184),
        ("16 GiB", 17179869184),
        ("1t", 1099511627776),
        ("2kb", 2048),
        (" 8 MB ", 8388608),
        (12, 12),
    ],
)
def test_parse(text: int | str, size: int) -> None:
    """Powers of 1024, either case, with or without i and B."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "12Q", "-1", "1.5G", "0x10", "1 2", "1MM", -1])
def test_refused(text: Any) -> None:
    """What is no size is refused, with the parameter's name."""
    with pytest.raises(BadArgument, match=r"^memory: "):
        parse_size(text, "memory")


@pytest.mark.parametrize("value", [None, 1.0, True, b"1M", []])
def test_refused_types(value: Any) -> None:
    """Only numbers of bytes and text."""
    with pytest.raises(BadArgumentType, match=r"^size: "):
        parse_size(value)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 60))
def test_round_trip(size: int) -> None:
    """Formatted and parsed again, a size is the same."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1 << 30, "1G"), (1536, "1536"), (3 << 20, "3M")]
)
def test_shortest_exact_text(size: int, text: str) -> None:
    """The largest suffix that needs no fraction."""
    assert format_size(size) == text


def test_constants_agree() -> None:
    """4 KiB pages, 4 MiB blocks, 2 MiB page blocks, as on x86-64."""
    assert PAGE_SIZE == 1 << PAGE_SHIFT == 4096
    assert NR_PAGE_ORDERS == MAX_PAGE_ORDER + 1 == 11
    assert PAGEBLOCK_NR_PAGES == 1 << PAGEBLOCK_ORDER == 512
    assert HZ == 250
