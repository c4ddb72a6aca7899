"""GFP flags as text, both ways, against what a live kernel has printed."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.errors import BadArgument
from concmem.mm import gfp as gfp_module
from concmem.mm.alloc_flags import gfp_to_alloc_flags
from concmem.mm.gfp import check_gfp, parse_gfp_flags, show_gfp_flags
from concmem.mm.migratetype import gfp_migratetype

TRACE = Path(__file__).parent.parent / "data" / "kmem-linux-6.18-git-2cpus.trace.gz"


def live_flags() -> list[str]:
    """All flag texts of the recorded trace."""
    with gzip.open(TRACE, "rt") as lines:
        return sorted({m[1] for line in lines if (m := re.search(r"gfp_flags=(\S+)", line))})


def test_live_texts_survive_a_round_trip() -> None:
    """Every flag text of a recorded trace is printed again exactly as it was."""
    texts = live_flags()
    assert len(texts) > 30
    assert [show_gfp_flags(parse_gfp_flags(text)) for text in texts] == texts


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0xCC0, "GFP_KERNEL"),
        (0x820, "GFP_ATOMIC"),
        (0xDC0, "GFP_KERNEL|__GFP_ZERO"),
        (0x2800, "GFP_NOWAIT"),
        (0x140CCA, "GFP_HIGHUSER_MOVABLE|__GFP_COMP"),
        (0x1C24CA, "GFP_TRANSHUGE"),
        (0x1C20CA, "GFP_TRANSHUGE_LIGHT"),
        (0x400CC0, "GFP_KERNEL_ACCOUNT"),
        (0, "none"),
    ],
)
def test_bits_of_linux_6_12(bits: int, text: str) -> None:
    """Numbers that the kernel's failure reports print beside the names."""
    assert show_gfp_flags(bits) == text
    assert parse_gfp_flags(text) == bits


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, gfp_module.ALL_FLAGS).map(lambda bits: bits & gfp_module.ALL_FLAGS))
def test_any_flags_survive_a_round_trip(bits: int) -> None:
    """Text and bits say the same, for any bits."""
    assert parse_gfp_flags(show_gfp_flags(bits)) == bits


def test_numbers_are_flags_too() -> None:
    """A trace may have a number where a name is missing."""
    assert parse_gfp_flags("GFP_KERNEL|0x100") == 0xDC0


def test_unknown_name() -> None:
    """A name that no flag has is named."""
    with pytest.raises(BadArgument, match=r"^gfp: there is no flag 'GFP_KERNAL'"):
        parse_gfp_flags("GFP_KERNAL|__GFP_ZERO")


def test_every_named_combination_is_allowed() -> None:
    """All flags that the kernel names pass the check."""
    for text in live_flags():
        check_gfp(parse_gfp_flags(text))


@pytest.mark.parametrize(("gfp", "migratetype"), [(0xCC0, 0), (0xCC8, 1), (0xCD0, 2)])
def test_migratetype(gfp: int, migratetype: int) -> None:
    """Unmovable 0, Movable 1, Reclaimable 2."""
    assert gfp_migratetype(gfp) == migratetype


@pytest.mark.parametrize(
    ("gfp", "order", "flags"),
    [
        # ALLOC_* of Linux 6.12: NON_BLOCK 0x10, MIN_RESERVE 0x20, CPUSET 0x40, CMA 0x80,
        # HIGHATOMIC 0x200, KSWAPD 0x800
        (0xCC0, 0, 0x840),
        (0x820, 0, 0x830),
        (0x820, 1, 0xA30),
        (0x2800, 0, 0x850),
        (0x2800, 3, 0x850),
        (0x140CCA, 0, 0x8C0),
        (0x80820, 2, 0x820),
    ],
)
def test_alloc_flags_of_the_slow_path(gfp: int, order: int, flags: int) -> None:
    """As gfp_to_alloc_flags() of mm/page_alloc.c computes them."""
    assert gfp_to_alloc_flags(gfp, order) == flags
