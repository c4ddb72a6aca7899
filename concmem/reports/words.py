"""Numbers as people read them."""

from __future__ import annotations


def count(number: float) -> str:
    """A whole number with thousands separated."""
    return f"{number:,.0f}"


def percent(part: float, whole: float) -> str:
    """A share in per cent; ``-`` of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else "-"


def milliseconds(ns: float) -> str:
    """Nanoseconds as milliseconds."""
    return f"{ns / 1e6:,.2f}"


def size(nr_bytes: float) -> str:
    """Bytes in the largest unit in which they are at least 1, rounded."""
    number, unit = float(nr_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:,.0f} {unit}" if unit == "B" or number >= 100 else f"{number:,.1f} {unit}"


def plural(number: int, word: str, words: str = "") -> str:
    """``1 cache``, ``2 caches``."""
    return f"{count(number)} {word if number == 1 else words or word + 's'}"
