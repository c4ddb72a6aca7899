"""
The text of a trace file, in batches of lines: plain or gzip (told by content, never by name).

A recording is often cut: a compressed file whose end is missing still gives every line before
the cut, then ends with :class:`Damage`, which says what happened and holds the cut line.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeAlias

from concmem.errors import TraceError

TraceSource: TypeAlias = str | os.PathLike[str] | IO[Any]
"""A path, or an open file that gives bytes (plain or gzip) or text."""

MAX_LINE: Final = 1 << 13
"""Longest line that is read; the kernel prints at most a page, as a rule a few hundred bytes."""

_CHUNK: Final = 1 << 18
_GZIP_MAGIC: Final = b"\x1f\x8b"
_FOREIGN: Final = (
    (b"\x17\x08\x44tracing", "a binary trace-cmd recording: give the output of `trace-cmd report`"),
    (b"PERFILE2", "a binary perf recording: give the output of `perf script`"),
    (b"\xfd7zXZ\x00", "compressed with xz: decompress it first, or use gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it first, or use gzip"),
    (b"BZh", "compressed with bzip2: decompress it first, or use gzip"),
)


class Lines(NamedTuple):
    """Consecutive lines without their line ends."""

    first: int
    """Number of the first line; a file starts with line 1."""
    lines: list[str]


class Damage(NamedTuple):
    """A stretch that could not be read as a line."""

    line: int
    text: str
    """What is left of the line, shortened."""
    reason: str


class _DamagedGzip(Exception):
    """The compressed data ends early or is not gzip data any more."""


def source_name(source: TraceSource) -> str:
    """How messages call *source*."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "<trace>"))


def read_lines(source: TraceSource) -> Iterator[Lines | Damage]:
    """
    Yield the lines of *source* in batches; a file object stays open.

    Bytes that are no UTF-8 come through as surrogate escapes, for a task may call itself anything.

    Raises:
        TraceError: *source* cannot be opened or read, is a directory, empty, or no text.
    """
    name = source_name(source)
    try:
        if isinstance(source, str | os.PathLike):
            with Path(source).open("rb") as file:
                yield from _split(name, _chunks(file))
        else:
            yield from _split(name, _chunks(source))
    except IsADirectoryError:
        raise TraceError(f"{name}: is a directory, not a trace file") from None
    except OSError as error:
        raise TraceError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a path with a NUL, a file object that is closed
        raise TraceError(f"{name}: cannot be read: {error}") from error


def _chunks(file: IO[Any]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk.encode("utf-8", "surrogateescape") if isinstance(chunk, str) else chunk


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress; several gzip members and zero padding may follow each other."""
    inflate = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        for at in range(0, len(chunk), 1 << 14):  # small steps: a bad checksum loses one step
            data = chunk[at : at + (1 << 14)]
            while data:
                if inflate.eof:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    inflate = zlib.decompressobj(wbits=31)
                try:
                    text = inflate.decompress(data, _CHUNK)
                except zlib.error as error:
                    raise _DamagedGzip(f"compressed data is damaged: {error}") from None
                if text:
                    yield text
                data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
    while not inflate.eof:  # what is still inside the decompressor
        try:
            text = inflate.decompress(inflate.unconsumed_tail, _CHUNK)
        except zlib.error as error:
            raise _DamagedGzip(f"compressed data is damaged: {error}") from None
        if not text:
            break
        yield text
    if not inflate.eof:
        raise _DamagedGzip("compressed data ends early")


def _at_least(count: int, chunks: Iterator[bytes]) -> bytes:
    """The first *count* bytes or more: a pipe may hand out a file's magic byte by byte."""
    start = b""
    while len(start) < count and (chunk := next(chunks, b"")):
        start += chunk
    return start


def _again(start: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from chunks


def _split(name: str, chunks: Iterator[bytes]) -> Iterator[Lines | Damage]:
    """Cut *chunks* into lines. Only the last line may lack its line end."""
    start = _at_least(16, chunks)
    text = _again(start, chunks)
    if start.startswith(_GZIP_MAGIC):
        text = _gunzip(text)
    number, rest, started, overlong = 1, b"", False, False
    damage = ""
    try:
        for chunk in text:
            if not chunk:
                continue
            if not started:
                _check_text(name, chunk)
                started = True
            data = rest + chunk
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if end:
                body = data[: end - 1]
                if overlong:  # already reported; its tail ends at the first line end
                    overlong = False
                    _, found, body = body.partition(b"\n")
                    number += 1
                    if not found:
                        body = b""
                        end = 0
                if end:
                    lines = body.decode("utf-8", "surrogateescape").split("\n")
                    yield Lines(number, lines)
                    number += len(lines)
            if len(rest) > MAX_LINE:
                if not overlong:
                    yield Damage(number, _shorten(rest), f"longer than {MAX_LINE} bytes")
                overlong, rest = True, b""
    except _DamagedGzip as error:
        damage = str(error)
    if damage:
        yield Damage(number, _shorten(rest), damage)
    elif not started:
        raise TraceError(f"{name}: is empty")
    elif rest and not overlong:
        yield Lines(number, [rest.decode("utf-8", "surrogateescape")])


def printable(text: str) -> str:
    """*text* for a message: shortened, with escapes for bytes that are no UTF-8."""
    return text[:200].encode("utf-8", "backslashreplace").decode()


def _shorten(data: bytes) -> str:
    return data[:200].decode("utf-8", "backslashreplace")


def _check_text(name: str, start: bytes) -> None:
    """Refuse what is no text from its beginning; later garbage costs single lines only."""
    for magic, what in _FOREIGN:
        if start.startswith(magic):
            raise TraceError(f"{name}: is {what}")
    text = start[: 1 << 16].decode("utf-8", "surrogateescape")
    strange = text.count("\0") + sum("\udc80" <= char <= "\udcff" for char in text)
    if "\0" in text.partition("\n")[0] or strange * 10 > len(text):
        raise TraceError(f"{name}: is a binary file, not the text of a trace")
