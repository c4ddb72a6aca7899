"""/proc/vmallocinfo, byte for byte as a kernel prints it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from concmem.machine import Machine
from concmem.mm.statistics import VmallocStatistics, VmAreaStatistics
from concmem.reports import meminfo, vmallocinfo

from .samples import make_machine, make_zone

# Lines of a real kernel; the hashes that it prints are taken as addresses.
REAL = """\
0x000000002367db35-0x000000002367e000   20480 kernel_clone+0x94/0x3e0 pages=4 vmalloc N0=4
0x000000005c5df370-0x000000005c5e0000    8192 vp_modern_map_capability+0x12d/0x1c0 phys=0x0000004000000000 ioremap
0x000000008b865b93-0x000000008b866000   20480 irq_init_percpu_irqstack+0xca/0x100 vmap
0x00000000b976bfed-0x00000000b976c000 2105344 htab_map_alloc+0x2e4/0x5a0 pages=513 vmalloc vpages N0=513
0x000000006f509701-0x000000006f50a000   20480 unpurged vm_area
"""

LINE = re.compile(r"0x(\w{16})-0x(\w{16}) +(\d+) (.*)")


def make_vmalloc(*areas: VmAreaStatistics, **fields: Any) -> VmallocStatistics:
    defaults: dict[str, Any] = dict.fromkeys(VmallocStatistics._fields, 0)
    return VmallocStatistics(**(defaults | {"size": 32 << 40} | fields | {"areas": areas}))


def parse(line: str) -> VmAreaStatistics:
    """An area that such a line is of."""
    match = LINE.fullmatch(line)
    assert match is not None
    start, size, rest = int(match[1], 16), int(match[3]), match[4]
    if rest in ("unpurged vm_area", "vm_map_ram"):
        return VmAreaStatistics(start, start + size, rest.split()[0])
    caller, *words = rest.split()
    values = dict(word.split("=") for word in words if "=" in word)
    flags = [word for word in words if "=" not in word]
    kinds = [flag for flag in flags if flag in ("vmalloc", "vmap")]
    return VmAreaStatistics(
        start,
        start + size,
        kinds[0] if kinds else "other",
        caller=caller,
        nr_pages=int(values.get("pages", 0)),
        phys_addr=int(values.get("phys", "0"), 16),
        numa=tuple((int(k[1:]), int(v)) for k, v in values.items() if k[0] == "N"),
        flags=tuple(flag for flag in flags if flag not in kinds),
    )


@pytest.mark.parametrize("line", REAL.splitlines())
def test_lines_of_a_real_kernel(line: str) -> None:
    """Each of them comes out as it went in, but for the hashed end address."""
    area = parse(line)
    text = vmallocinfo.render(make_machine(vmalloc=make_vmalloc(area)))
    assert text[:19] == line[:19]
    assert text[text.index(" ") :] == line[line.index(" ") :] + "\n"
    assert text[19:37] == f"0x{area.end:016x}"


def test_all_flags_in_order() -> None:
    """Whatever order they come in, the kernel's is printed."""
    flags = ("vpages", "dma-coherent", "user", "sparse", "ioremap")
    area = VmAreaStatistics(4096, 12288, "vmalloc", "f+0x1/0x2", 1, ((0, 1), (3, 7)), 4096, flags)
    assert vmallocinfo.render(make_machine(vmalloc=make_vmalloc(area))) == (
        "0x0000000000001000-0x0000000000003000    8192 f+0x1/0x2 pages=1 phys=0x0000000000001000"
        " ioremap sparse vmalloc user dma-coherent vpages N0=1 N3=7\n"
    )


def test_nothing() -> None:
    """No areas, or no vmalloc in the statistics: no lines."""
    assert vmallocinfo.render(make_machine()) == ""
    assert vmallocinfo.render(make_machine(vmalloc=make_vmalloc())) == ""


def test_areas_of_a_machine() -> None:
    """A running machine: in use by node of addresses and address, then unpurged."""

    def body() -> None:
        pages = [m.pfn_to_page(page.pfn) for page in (m.alloc_pages(), m.alloc_pages()) if page]
        m.vfree(m.vmalloc(100))
        m.vmalloc(3 * 4096)
        m.vmap(pages)
        m.vm_map_ram(pages)
        m.vm_map_ram(pages * 35)

    with Machine(cpus=1, memory="16M") as m:
        m.run([body])
        lines = m.procfs.read("vmallocinfo").splitlines()
    code = len(body.__code__.co_code)
    caller = r"test_areas_of_a_machine\.<locals>\.body\+0x([0-9a-f]+)/" + hex(code)
    start = 0xFFFF_C900_0000_0000
    expected = [
        (start + 0x2000, 4, caller + " pages=3 vmalloc N0=3"),
        (start + 0x6000, 3, caller + " vmap"),
        (start + 0x9000, 70, "vm_map_ram"),
        (start + 0x400000, 1024, "vm_map_ram"),
        (start, 2, "unpurged vm_area"),
    ]
    assert len(lines) == len(expected)
    offsets = []
    for line, (address, nr, rest) in zip(lines, expected, strict=True):
        match = re.fullmatch(
            rf"0x{address:x}-0x{address + nr * 4096:x} {nr * 4096:7d} {rest}", line
        )
        assert match is not None, line
        offsets += [int(group, 16) for group in match.groups()]
    assert 0 < offsets[0] < offsets[1] < code


def test_meminfo() -> None:
    """VmallocTotal and VmallocUsed are of the same statistics."""
    stats = make_machine(make_zone(), vmalloc=make_vmalloc(size=64 << 20, nr_vmalloc_pages=7))
    text = meminfo.render(stats)
    assert "VmallocTotal:      65535 kB\n" in text
    assert "VmallocUsed:          28 kB\n" in text
