"""
What a trace is made of: plain data, kept when the execution that it tells of is gone.

`trace` records it; `render` shows it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from concmem.explore import operation as op

READS: Final = frozenset((op.READ, op.LOAD, op.GUARDED_LOAD))
WRITES: Final = frozenset((op.WRITE, op.STORE, op.GUARDED_STORE))
VALUES: Final = READS | WRITES | {op.UPDATE}
"""Kinds of steps on things that have a value."""

PREEMPTION: Final = "preemption"
INTERRUPT: Final = "interrupt"
SWITCH: Final = "switch"


class Site(NamedTuple):
    """A place in a source file."""

    file: str = ""
    """The whole path; empty: not known."""
    line: int = 0
    function: str = ""

    def __str__(self) -> str:
        """``file.py:12 function``, without the path."""
        if not self.file:
            return ""
        return f"{self.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{self.line} {self.function}"


class Step(NamedTuple):
    """One entry of a trace."""

    at: int
    """Its place in the trace."""
    number: int
    """Which step it is, from 1; notes have that of the step before."""
    cpu: int
    """The CPU, or from ``trace.nr_cpus`` up a kernel thread."""
    task: str
    """Its name; interrupts have another one than the body."""
    is_irq: bool
    """Whether it is in an interrupt."""
    kind: str
    """The operation, see `operation`."""
    object: str
    """What it is done to. Different objects of one name are told apart: ``x``, ``x#2``."""
    old: str
    """The object's value before; empty where there is none."""
    new: str
    """The value after; or what came of it: who was woken, whether a lock was taken."""
    changes: bool
    """Whether the value is another one after it."""
    site: Site
    """Where: the innermost line that is no part of the harness."""
    calls: tuple[str, ...]
    """The functions that led there, the body first."""
    held: tuple[str, ...]
    """Locks held before it."""
    irqs_off: bool
    """Whether the CPU's interrupts were disabled before it."""
    switch: str
    """
    How the task came here: empty (it was running), ``preemption``, ``interrupt``, or ``switch``: nobody was
    forced out.
    """
    left: str
    """With `switch`: the task that ran before."""
    why: str
    """With a `switch` that was not forced: why that one does not go on."""
    causes: tuple[int, ...]
    """Entries without which it would still wait: a wake-up, a release, an interrupt's sender."""
    is_note: bool
    """No step of the scheduler's."""

    @property
    def value(self) -> str:
        """What was read, or ``old -> new``."""
        if self.kind in READS or not self.old:
            return self.new
        return f"{self.old} -> {self.new}"

    @property
    def where(self) -> str:
        """``file.py:12 function``."""
        return str(self.site)

    @property
    def cpu_name(self) -> str:
        """The CPU's, or the kernel thread's name."""
        return self.task.removesuffix("/irq") if self.is_irq else self.task


class Pending(NamedTuple):
    """What a task was about to do when the execution failed."""

    cpu: int
    task: str
    is_irq: bool
    kind: str
    object: str
    waits_for: str
    """In words, what it waited for; empty: it could have gone on."""
    holder: str
    """The one task that could have let it go on; empty: none, or several."""
    asleep_on: str
    """The wait queue on which it slept."""
    held: tuple[str, ...]
    site: Site


class Trace(list[Step]):
    """
    Every step of one execution, and notes between them.

    ``str(trace)`` is a table with one column for each CPU.
    """

    def __init__(self, nr_cpus: int = 0) -> None:
        super().__init__()
        self.nr_cpus = nr_cpus
        """Kernel threads have the numbers from here on."""
        self.pending: list[Pending] = []
        """Who was in the middle of something when it failed."""
        self.race: tuple[Step, Step] | None = None
        """The two accesses of a data race."""
        self.guard = ""
        """What was to protect the field that they race for."""
        self.sources: dict[str, list[str]] = {}
        """The lines of the files that steps are in, as they were then."""

    @property
    def steps(self) -> int:
        """How many of the entries are steps."""
        return sum(not step.is_note for step in self)

    @property
    def preemptions(self) -> int:
        """How often somebody was stopped who could have gone on: by another CPU, or by an interrupt."""
        return sum(step.switch in (PREEMPTION, INTERRUPT) for step in self)

    def line_at(self, site: Site) -> str:
        """The source text there; empty if it is not known."""
        lines = self.sources.get(site.file, ())
        return lines[site.line - 1].strip() if 0 < site.line <= len(lines) else ""

    def __str__(self) -> str:
        from concmem.explore.render.table import render_table

        return render_table(self)
