"""What the tests of the leak detector share: machines that have one, and blocks that nothing leads to."""

from __future__ import annotations

from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.mm.statistics_kmemleak import UnreferencedObject

from .helpers import on_cpu

WORD = 8


def leak_machine(**arguments: object) -> Machine:
    """A small machine with a leak detector that nothing is too young for."""
    known: dict[str, object] = {"cpus": 2, "memory": "16M", "kmemleak": True}
    m = Machine(**{**known, **arguments})  # type: ignore[arg-type]
    detector(m).msecs_min_age = 0
    return m


def detector(m: Machine) -> Kmemleak:
    """The machine's, which must have one."""
    assert isinstance(m.kmemleak, Kmemleak)
    return m.kmemleak


def kmalloc(m: Machine, size: int = 64, first: int = 0x11, cpu: int = 0) -> int:
    """
    A block of *size* bytes, none of which is 0 or could belong to an address.

    Its checksum is not that of a new object, 0: so the first scan never reports it.
    """
    address = on_cpu(m, m.kmalloc, size, cpu=cpu)
    assert address is not None
    m.memory.write(address, bytes([first]) * size)
    return address


def found(m: Machine, scans: int = 2) -> list[int]:
    """The addresses of what so many scans have found, lowest first."""
    for _ in range(scans):
        detector(m).scan()
    return sorted(leak.address for leak in detector(m).leaks())


def the_leak(m: Machine) -> UnreferencedObject:
    """The only one that was found."""
    (leak,) = detector(m).leaks()
    return leak
