"""``/sys/kernel/debug/kmemleak``: its text, and the same as data."""

from __future__ import annotations

import binascii
import re
from pathlib import Path

from concmem.mm.debug.kmemleak_report import print_unreferenced
from concmem.mm.gfp import GFP_ATOMIC
from concmem.mm.statistics_kmemleak import UnreferencedObject

from .helpers import on_cpu
from .kmemleak_helpers import detector, found, leak_machine, the_leak

SIX_12 = """\
unreferenced object 0xffff888003ad0a00 (size 72):
  comm "insmod", pid 109, jiffies 4294894651
  hex dump (first 32 bytes):
    68 65 6c 6c 6f 2c 20 77 6f 72 6c 64 00 7f 80 ff  hello, world....
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace (crc bf1ec5a4):
    kmalloc+0x1e/0x40
    init+0x8/0x10
"""
"""Written by hand from the format strings of Linux 6.12."""


def test_the_text_of_an_object() -> None:
    """Letter by letter."""
    data = b"hello, world\0\x7f\x80\xff" + bytes(16)
    leak = UnreferencedObject(
        address=0xFFFF_8880_03AD_0A00,
        size=72,
        comm="insmod",
        pid=109,
        jiffies=4294894651,
        data=data,
        checksum=0xBF1EC5A4,
        backtrace=("kmalloc+0x1e/0x40", "init+0x8/0x10"),
        callers=("init+0x8/0x10",),
    )
    assert print_unreferenced(leak) == SIX_12


def test_a_row_that_is_not_full_is_padded() -> None:
    """So that the text of all rows begins in one column."""
    leak = UnreferencedObject(0x1000, 19, "cpu0", 0, 7, b"0123456789abcdefXYZ", 0, (), ())
    assert print_unreferenced(leak).splitlines() == [
        "unreferenced object 0x00001000 (size 19):",
        '  comm "cpu0", pid 0, jiffies 7',
        "  hex dump (first 19 bytes):",
        "    30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef",
        "    58 59 5a                                         XYZ",
        "  backtrace (crc 0):",
    ]


PATTERN = re.compile(
    r"unreferenced object 0x(?P<address>[0-9a-f]{8,16}) \(size (?P<size>\d+)\):\n"
    r'  comm "(?P<comm>[^"]{1,15})", pid (?P<pid>\d+), jiffies (?P<jiffies>\d+)\n'
    r"  hex dump \(first (?P<shown>\d+) bytes\):\n"
    r"(?P<rows>(?:    (?:[0-9a-f]{2} ){1,16} +.{1,16}\n){1,2})"
    r"  backtrace \(crc (?P<crc>[0-9a-f]{1,8})\):\n"
    r"(?P<trace>(?:    \S+\+0x[0-9a-f]+/0x[0-9a-f]+\n)+)"
)


def crc32_le(data: bytes) -> int:
    """``crc32(0, data)`` of the kernel, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc


def test_the_file() -> None:
    """Where the block is, whose it is, what is in it, and who has allocated it."""
    with leak_machine() as m:

        def loses_it() -> int:
            address = m.kmalloc(100)
            assert address is not None
            m.memory.write(address, b"Lost and found: 0123456789 abcdef" + b"\xee" * 95)
            return address

        def caller() -> int:
            return loses_it()

        address = on_cpu(m, caller, cpu=1)
        assert found(m) == [address]
        text = m.procfs.read("sys/kernel/debug/kmemleak")
        match = PATTERN.fullmatch(text)
        assert match, text
        assert int(match["address"], 16) == address
        assert (match["size"], match["comm"], match["pid"]) == ("128", "cpu1", "1")
        assert match["shown"] == "32"
        data = m.memory.read(address, 128)
        rows = match["rows"].splitlines()
        assert binascii.unhexlify("".join(row[4:52].replace(" ", "") for row in rows)) == data[:32]
        assert [row[53:] for row in rows] == ["Lost and found: ", "0123456789 abcde"]
        assert int(match["crc"], 16) == crc32_le(data)
        functions = [line.strip().partition("+")[0] for line in match["trace"].splitlines()]
        names = [name.rpartition(".")[2] for name in functions]
        assert names.index("kmalloc") < names.index("loses_it") < names.index("caller")
        leak = the_leak(m)
        assert leak.callers[0].rpartition("+")[0].endswith("loses_it")
        assert detector(m).report() == text
        assert m.statistics().events["kmemleak_read"] >= 2


def test_interrupt_handlers_are_named() -> None:
    """Whatever they interrupt, they are nobody's."""
    with leak_machine() as m:
        address = on_cpu(m, lambda: m.call_on(1, lambda: m.kmalloc(16, GFP_ATOMIC)))
        m.memory.write(address, b"x" * 16)
        assert found(m) == [address]
        assert (the_leak(m).comm, the_leak(m).pid) == ("hardirq", 0)
        assert "hex dump (first 16 bytes):" in detector(m).report()


def test_the_oldest_comes_first_and_an_empty_report_is_empty() -> None:
    """In the order of the allocations."""
    with leak_machine() as m:
        assert detector(m).report() == ""
        blocks = [on_cpu(m, m.kmalloc, size) for size in (256, 64, 1024)]
        for address, size in zip(blocks, (256, 64, 1024), strict=True):
            m.memory.write(address, b"x" * size)
        found(m)
        assert [leak.address for leak in detector(m).leaks()] == blocks
        assert [leak.size for leak in detector(m).leaks()] == [256, 64, 1024]


def test_reports_from_any_thread() -> None:
    """On a CPU, and on a thread that is none."""
    with leak_machine() as m:
        on_cpu(m, m.kmalloc, 8)
        assert on_cpu(m, detector(m).scan) + detector(m).scan() == 1
        assert on_cpu(m, detector(m).report) == detector(m).report() != ""


def test_an_export_has_the_file(tmp_path: Path) -> None:
    """As all files that a machine has."""
    with leak_machine(cpus=1) as m:
        on_cpu(m, m.kmalloc, 8)
        found(m)
        m.procfs.export(str(tmp_path))
        text = (tmp_path / "sys/kernel/debug/kmemleak").read_text()
        assert text == detector(m).report() != ""
