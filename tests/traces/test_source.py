"""Files as they come: plain, compressed, cut, empty, binary, absent."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from concmem.errors import TraceError
from concmem.traces.ftrace import ReadCounts, read_trace
from concmem.traces.source import MAX_LINE

Malformed = list[tuple[int, str, str]]
LINE = "bash-7 [000] ..... 1.5: mm_page_free: page=00000000aa pfn=0x{:x} order=0\n"
TEXT = "# tracer: nop\n" + "".join(LINE.format(0x1000 + 7919 * i) for i in range(5000))


def pfns(source: object, bad: Malformed | None = None) -> list[str]:
    """The pfn of every event, malformed lines collected in *bad*."""
    report = None if bad is None else lambda *entry: bad.append(entry)
    return [event.fields["pfn"] for event in read_trace(source, on_malformed=report)]  # type: ignore[arg-type]


def everything() -> list[str]:
    """What a reader that loses nothing finds in TEXT."""
    return [line.split("pfn=")[1].split()[0] for line in TEXT.splitlines()[1:]]


def test_plain_and_gzip_by_content(tmp_path: Path) -> None:
    """Compression is told by the first bytes, whatever the file is called."""
    plain = tmp_path / "plain.gz"
    plain.write_text(TEXT)
    packed = tmp_path / "packed.txt"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    assert pfns(plain) == pfns(str(packed)) == everything()


def test_file_objects() -> None:
    """Open files of text, of bytes and of gzip bytes are read and left open."""
    for file in (
        io.StringIO(TEXT),
        io.BytesIO(TEXT.encode()),
        io.BytesIO(gzip.compress(TEXT.encode())),
    ):
        assert pfns(file) == everything()
        assert not file.closed


class _Dribble(io.RawIOBase):
    """A pipe that hands out a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.data.read(7)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_tiny_reads(pack: type[bytes]) -> None:
    """Lines, characters and the magic number may be cut by the ends of reads."""
    text = "".join(LINE.replace("bash", "zażółć").format(i << 4) for i in range(50))
    assert len(pfns(_Dribble(pack(text.encode())))) == 50


def test_gzip_members_and_padding() -> None:
    """Files packed apart and joined, with zero padding between, read as one."""
    half = TEXT.index("\n", len(TEXT) // 2) + 1
    one, two = (gzip.compress(part.encode()) for part in (TEXT[:half], TEXT[half:]))
    assert pfns(io.BytesIO(one + b"\0" * 512 + two + b"\0" * 99)) == everything()


@pytest.mark.parametrize("percent", [20, 50, 90, 99])
def test_cut_gzip(percent: int) -> None:
    """A gzip file that is cut gives the lines before the cut and one malformed entry."""
    data = gzip.compress(TEXT.encode())
    bad: Malformed = []
    found = pfns(io.BytesIO(data[: len(data) * percent // 100]), bad)
    assert found == everything()[: len(found)]
    assert 0 < len(found) <= 5000
    ((line, _, reason),) = bad
    assert reason == "compressed data ends early"
    assert line == len(found) + 2


def test_damaged_gzip() -> None:
    """Flipped bytes in compressed data end the reading with one malformed entry, or lose lines."""
    data = bytearray(gzip.compress(TEXT.encode()))
    data[-6] ^= 0xFF  # the checksum
    bad: Malformed = []
    assert pfns(io.BytesIO(data), bad)
    assert "compressed data is damaged" in bad[-1][2]


def test_no_last_line_end() -> None:
    """The last line counts without its line end; carriage returns are no part of values."""
    assert pfns(io.StringIO(TEXT[:-1])) == everything()
    assert pfns(io.StringIO(TEXT.replace("\n", "\r\n"))) == everything()


@pytest.mark.parametrize("length", [MAX_LINE + 1, 1 << 18, (1 << 20) + 5])
def test_overlong_lines(length: int) -> None:
    """A line without end is reported once, whatever its length, and lines after it are read."""
    bad: Malformed = []
    counts = ReadCounts()
    text = LINE.format(16) + "x" * length + "\n" + LINE.format(32)
    events = list(
        read_trace(io.StringIO(text), on_malformed=lambda *e: bad.append(e), counts=counts)
    )
    assert [(event.line, event.fields["pfn"]) for event in events] == [(1, "0x10"), (3, "0x20")]
    assert [(line, reason) for line, _, reason in bad] == [(2, "longer than 8192 bytes")]
    assert counts.malformed == 1


def test_late_binary_data() -> None:
    """Zeros in the middle, as a crash leaves them, cost the lines they are in."""
    bad: Malformed = []
    assert pfns(io.StringIO(LINE.format(0) * 9000 + "\0" * 50 + "\n" + LINE.format(0)), bad)
    assert [(line, reason) for line, _, reason in bad] == [(9001, "binary data")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"\x7fELF\0\0\0\0" * 9, "is a binary file"),
        (bytes(range(128, 256)) * 9, "is a binary file"),
        (gzip.compress(b"\0" * 99, mtime=0), "is a binary file"),
        (b"PERFILE2....", "perf script"),
        (b"\x17\x08\x44tracing6", "trace-cmd report"),
        (b"\xfd7zXZ\x00....", "compressed with xz"),
        (b"# tracer: nop\n\n", "only headings"),
        (b"hello\nworld\n", "2 of 2 lines cannot be read, the first is line 1: no .cpu. column"),
        (b"a-1 [000] ... 1.0: sched_wakeup: pid=1\n", "1 others, such as sched_wakeup"),
        (b"\x1f\x8b\x08", "compressed data ends early"),
    ],
)
def test_no_trace(tmp_path: Path, data: bytes, message: str) -> None:
    """What is no kmem trace is refused with a message that names the file and says why."""
    path = tmp_path / "some.trace"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=message) as caught:
        list(read_trace(path))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "No such file"), (".", "is a directory"), ("a\0b", "cannot be read")],
)
def test_no_file(tmp_path: Path, name: str, message: str) -> None:
    """A path that cannot be opened is a TraceError, not an OSError."""
    with pytest.raises(TraceError, match=message):
        list(read_trace(f"{tmp_path}/{name}"))
