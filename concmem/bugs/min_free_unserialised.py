"""
cfd3da1e49bb ``mm: Serialize access to min_free_kbytes`` (2011); of the same kind as 4eaf3f64397c ``mem-hotplug: fix
potential race while building zonelist for new populated zone`` (2010).

The reserve is written, and then watermarks are made of it, zone by zone. Nothing keeps another writer out meanwhile.

    CPU 0                                   CPU 1
    min_free_kbytes = 200
    first zone: computes marks of 200
                                            min_free_kbytes = 800
                                            first zone: stores marks of 800
                                            second zone: stores marks of 800
    first zone: stores them
    second zone: stores marks of 800

Symptom: zones whose watermarks are of different reserves, for good. Fix: one writer at a time.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.min_free import MinFree
from concmem.mm.watermark import zone_watermarks


class _Unserialised(MinFree):
    """Lets others write, too."""

    def set(self, kbytes: int) -> None:
        self._write(kbytes)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs write the reserve; in the end all watermarks are of the same one."""
    m = Machine(memory="8M", nodes=2, runtime=rt, classes=classes)

    def consistent() -> None:
        managed = sum(zone.managed_pages for zone in m.zones)
        for zone in m.zones:
            wanted = zone_watermarks(m.min_free_kbytes // 4, zone.managed_pages, managed)
            assert zone.watermark == wanted, "watermarks of another reserve"

    return Program(
        [lambda: m.set_min_free_kbytes(200), lambda: m.set_min_free_kbytes(800)],
        consistent,
        verify=m.verify,
    )


BUG = Bug(
    name="min-free-unserialised",
    number="B36",
    title="two writers of min_free_kbytes leave watermarks of both",
    fixed_by='cfd3da1e49bb ("mm: Serialize access to min_free_kbytes")',
    subsystem="page_alloc",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={MinFree: _Unserialised},
    expect=frozenset({"AssertionError", "DataRace"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 10, "pb": 10},  # any schedule is a race
    note="Zones that get memory at run time, as in the entry's other half, are not modelled.",
)
