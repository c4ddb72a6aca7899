"""Numbers as people read them."""

from __future__ import annotations

import pytest

from concmem.reports.words import count, milliseconds, percent, plural, size


def test_counts() -> None:
    """Thousands apart, shares of nothing, words for one and for several."""
    assert count(1234567.8) == "1,234,568"
    assert percent(1, 3) == "33.3%"
    assert percent(1, 0) == "-"
    assert milliseconds(1_500_000) == "1.50"
    assert plural(1, "cache") == "1 cache"
    assert plural(2000, "cache") == "2,000 caches"
    assert plural(2, "access", "accesses") == "2 accesses"


@pytest.mark.parametrize(
    ("nr_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (1 << 20, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 50, "5,120 TiB"),
    ],
)
def test_sizes(nr_bytes: int, text: str) -> None:
    """In the largest unit that fits."""
    assert size(nr_bytes) == text
