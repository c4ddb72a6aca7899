"""
c5f3b1a51a59 ``mm: kmemleak: allow safe memory scanning during kmemleak disabling`` (2015).

While a block is scanned, its object's lock keeps it from being freed: whoever frees takes that lock first. Not, though,
when the detector had just been switched off: then frees told it nothing any more, while a scan was still going on.

    CPU 0 (scans)                           CPU 1
    takes the object's lock
                                            kmemleak_enabled = 0
                                            vfree: not of interest, waits for nobody, unmaps
    reads the block                         ... which is not there

Symptom: a page fault in the scan. Fix: a second flag for frees, cleared when no scan runs any more.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.errors import BadArgument
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak


class _OneFlag(Kmemleak):
    """Stops following frees at once."""

    def _stop_tracking(self) -> None:
        self._enabled.value = False
        self._free_enabled.value = False


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 0 scans an area, CPU 1 switches the detector off and frees the area."""
    m = Machine(2, memory="4M", runtime=rt, kmemleak=True, classes=classes)
    kmemleak = m.kmemleak
    assert isinstance(kmemleak, Kmemleak)
    area: list[int] = []
    m.run([lambda: area.append(m.vmalloc(4096) or 0)])
    m.data()[0] = area[0]

    def scan() -> None:
        try:
            kmemleak.scan()
        except BadArgument as error:
            if "kmemleak is off" not in str(error):  # anything else is not there
                raise

    def switch_off_and_free() -> None:
        kmemleak.disable()
        m.vfree(area[0])

    return Program([scan, switch_off_and_free], verify=m.verify)


BUG = Bug(
    name="kmemleak-off-stops-frees",
    number="B47",
    title="frees do not wait for a scan any more once the detector is off",
    fixed_by="c5f3b1a51a59 mm: kmemleak: allow safe memory scanning during kmemleak disabling (2015)",
    subsystem="kmemleak",
    kind="use after free",
    depth=3,
    cpus=2,
    replaces={Kmemleak: _OneFlag},
    expect=frozenset({"BadArgument"}),
    workload=_workload,
    witness="v1:2.0",
    executions={"pb": 20, "pct": 40},  # pct: seeds 0 and 1 need 8 and 1
)
