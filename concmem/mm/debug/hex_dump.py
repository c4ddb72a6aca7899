"""Bytes as text, as ``print_hex_dump`` prints them."""

from __future__ import annotations

from typing import Final

ROW: Final = 16
"""Bytes in a line."""

_ASCII_COLUMN: Final = 3 * ROW + 1


def hex_line(data: bytes) -> str:
    """Up to 16 bytes, and what they are as text (``hex_dump_to_buffer``)."""
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    return f"{data.hex(' '):{_ASCII_COLUMN}}{text}"


def hex_dump(prefix: str, address: int, data: bytes) -> list[str]:
    """
    16 bytes a line, each after *prefix* and the address of its first.

    Args:
        address: of the first byte of *data*.
    """
    return [
        f"{prefix}{address + start:016x}: {hex_line(data[start : start + ROW])}"
        for start in range(0, len(data), ROW)
    ]


def first_other(data: bytes, byte: int) -> int:
    """Index of the first byte of *data* that is not *byte*, or -1 (``memchr_inv``)."""
    rest = data.lstrip(bytes([byte]))
    return len(data) - len(rest) if rest else -1


def last_other(data: bytes, byte: int) -> int:
    """Index of the last such byte, or -1."""
    return len(data.rstrip(bytes([byte]))) - 1
