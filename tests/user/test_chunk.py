"""Sizes and bins of chunks, by tables that were made without the code."""

from __future__ import annotations

import pytest

from concmem.user.chunk import (
    PTRDIFF_MAX,
    bin_index,
    csize2tidx,
    fastbin_index,
    protect_ptr,
    request2size,
)


@pytest.mark.parametrize(
    ("request_", "size"),
    [(0, 32), (1, 32), (24, 32), (25, 48), (40, 48), (41, 64), (1032, 1040), (1033, 1056)],
)
def test_request2size(request_: int, size: int) -> None:
    """8 bytes more, a multiple of 16, and 32 at least."""
    assert request2size(request_) == size


def test_too_large_requests() -> None:
    """What no pointer difference can hold is refused."""
    assert request2size(PTRDIFF_MAX) is not None
    assert request2size(PTRDIFF_MAX + 1) is None


def test_every_request_fits_and_wastes_little() -> None:
    """Usable bytes are enough, and less than 16 more than needed, but for the smallest chunk."""
    for request in range(5000):
        size = request2size(request)
        assert size is not None
        assert request <= size - 8
        assert size == 32 or size - 8 - request < 16


def test_bins() -> None:
    """The first size of some bins, and that bins are ranges in order."""
    known = {32: 2, 1008: 63, 1024: 64, 1088: 65, 3072: 96, 3584: 98, 10752: 112, 12288: 113}
    known |= {45056: 120, 163840: 124, 262144: 125, 524288: 126, 1 << 40: 126}
    assert {size: bin_index(size) for size in known} == known
    indexes = [bin_index(size) for size in range(32, 1 << 20, 16)]
    assert indexes == sorted(indexes)


def test_tcache_and_fastbins() -> None:
    """64 bins from 32 to 1040 bytes, and 7 from 32 to 128."""
    assert [csize2tidx(size) for size in (32, 48, 1040, 1056)] == [0, 1, 63, 64]
    assert [fastbin_index(size) for size in (32, 48, 128)] == [0, 1, 6]


def test_safe_linking_undoes_itself() -> None:
    """The stored pointer is not the pointer, and gives it back."""
    stored = protect_ptr(0x5555555592A0, 0x5555555592C0)
    assert stored == 0x5555555592C0 ^ 0x555555559
    assert protect_ptr(0x5555555592A0, stored) == 0x5555555592C0
