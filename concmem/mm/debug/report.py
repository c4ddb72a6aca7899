"""
What debugging has found: text in the kernel log, and the same as objects for programs.

Whoever finds something wrong is often not who did it: an allocation finds what was written to a free object
long ago. Then the finder goes on, as in a kernel, and `Machine.verify` raises what has been found since it
last looked. What can be pinned on the caller, such as a free of what is free, is raised in the caller.

No lock: reports are appended to a list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from concmem.errors import MemoryCorruption, NotACpu
from concmem.mm.debug.stack_depot import save_stack
from concmem.units import KERNEL_VERSION

if TYPE_CHECKING:
    from concmem.mm.debug.stack_depot import Stack
    from concmem.mm.log import KernelLog
    from concmem.runtime.api import Runtime

MAX_REPORTS: Final = 1000
"""Reports kept; of one overwritten list there may be very many. The log has the last lines of all."""

_TAINTED: Final = "Tainted: G    B             "
"""``print_tainted`` with TAINT_BAD_PAGE."""


@dataclass(frozen=True)
class Track:
    """Who allocated, or freed, something last (``struct track``)."""

    stack: Stack | None
    """``None``: it was overwritten."""
    cpu: int
    pid: int
    """The same number: what runs on a CPU is its task."""
    when: int
    """Jiffies."""

    @property
    def caller(self) -> str:
        """The function that called the allocator."""
        return self.stack.caller if self.stack is not None else "0x0"


@dataclass(frozen=True)
class DebugReport:
    """One thing that debugging has found."""

    kind: str
    """``"slab"``, ``"page"``, ``"kasan"`` or ``"object"``."""
    subject: str
    """The cache that it is about; or zone, or type."""
    reason: str
    """Such as ``"Right Redzone overwritten"`` or ``"slab-use-after-free"``."""
    address: int
    """Of the first byte that is wrong, or of the object or page; 0: of none."""
    text: str
    """All lines, as in the kernel log."""
    cpu: int
    """Who found it; -1: a thread that is no CPU."""
    when: int
    """Jiffies."""
    allocated: Track | None = None
    """Who allocated the object or page last, if that is tracked."""
    freed: Track | None = None
    """Who freed it last."""
    raised: bool = field(default=False, compare=False)
    """Whether the caller that did wrong got an exception as well."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason} at {self.address:#x}"


class DebugReports:
    """All reports of a machine."""

    def __init__(self, rt: Runtime, log: KernelLog) -> None:
        self._rt = rt
        self._log = log
        self.reports: list[DebugReport] = []
        """The oldest first; whoever has looked may clear it."""
        self.nr_reports = 0
        """How many there have been."""
        self._not_raised: list[DebugReport] = []
        """Those of `reports` that nobody was told of yet."""
        self._not_kept: DebugReport | None = None
        """The first that nobody was told of, and that there was no room for."""
        self._bad_page = False

    def cpu(self) -> int:
        """The calling CPU; -1 on a thread that is none."""
        try:
            return self._rt.smp_processor_id()
        except NotACpu:
            return -1

    def tainted(self) -> str:
        """Whether anything has been found before (``print_tainted``)."""
        return _TAINTED if self._bad_page else "Not tainted"

    def printk(self, *lines: str) -> None:
        """Lines for the log only."""
        self._log.printk("\n".join(lines))

    def dump_stack(self) -> list[str]:
        """Where the caller is (``dump_stack``)."""
        cpu = self.cpu()
        return [
            f"CPU: {cpu} UID: 0 PID: {cpu} Comm: {comm(cpu, self._rt.nr_cpus)} {self.tainted()} "
            f"{KERNEL_VERSION}",
            "Call Trace:",
            " <TASK>",
            *(f" {line}" for line in save_stack(1).lines),
            " </TASK>",
        ]

    def add(
        self,
        kind: str,
        subject: str,
        reason: str,
        address: int,
        lines: list[str],
        *,
        allocated: Track | None = None,
        freed: Track | None = None,
        raised: bool = False,
        logged: bool = True,
    ) -> DebugReport:
        """Log *lines*, unless there are too many such, and keep them."""
        text = "\n".join(lines)
        if logged:
            self._log.printk(text)
        report = DebugReport(
            kind,
            subject,
            reason,
            address,
            text,
            self.cpu(),
            self._rt.jiffies,
            allocated,
            freed,
            raised,
        )
        self._bad_page = True
        self.nr_reports += 1
        if len(self.reports) < MAX_REPORTS:
            self.reports.append(report)
            if not raised:
                self._not_raised.append(report)
        elif not raised:
            self._not_kept = self._not_kept or report
        return report

    def raise_new(self) -> None:
        """
        Raise what has been found since the last call and was not raised in who did it.

        Raises:
            MemoryCorruption: with the text of the first of them.
        """
        not_raised, self._not_raised = self._not_raised, []
        kept = set(map(id, self.reports))  # those that somebody has cleared were looked at
        left = [report for report in not_raised if id(report) in kept]
        if self._not_kept is not None:
            left.append(self._not_kept)
            self._not_kept = None
        if left:
            more = f"\n({len(left) - 1} more in the kernel log)" if left[1:] else ""
            raise MemoryCorruption(f"{left[0]}\n{left[0].text}{more}")


def comm(cpu: int, nr_cpus: int) -> str:
    """The name of what runs on CPU number *cpu*."""
    if cpu < 0:
        return "host"
    return f"cpu{cpu}" if cpu < nr_cpus else f"kthread/{cpu}"


def show_track(what: str, track: Track | None, now: int) -> list[str]:
    """
    ``print_track``: who, when, and the stack.

    Args:
        what: ``"Allocated"`` or ``"Freed"``.
        now: jiffies.
    """
    if track is None:
        return []
    head = f"{what} in {track.caller} age={now - track.when} cpu={track.cpu} pid={track.pid}"
    if track.stack is None:
        return [head, "object allocation/free stack trace missing"]
    return [head, *(f" {line}" for line in track.stack.lines)]
