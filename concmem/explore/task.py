"""
What a scheduler chooses between: tasks, each one flow of control of a CPU.

Each CPU (and each kernel thread) is an OS thread and has two tasks: what it runs, and its interrupts.
Both run on the CPU's thread, so while an interrupt is taken the other one is suspended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threading import Thread

    from concmem.explore.jobs import Job
    from concmem.explore.locks import ControlledLock


class Task:
    """One flow of control: a CPU's body, or its interrupts."""

    __slots__ = (
        "area",
        "blocked",
        "cpu",
        "enabled",
        "gate",
        "held",
        "index",
        "is_irq",
        "kind",
        "name",
        "object",
        "resting",
        "subclass",
        "suspended",
    )

    def __init__(self, cpu: ControlledCpu | None, index: int, name: str, is_irq: bool) -> None:
        self.cpu: Any = cpu
        self.index = index
        """The order of choices: CPUs, then their interrupts, then kernel threads."""
        self.name = name
        self.is_irq = is_irq
        self.gate: Any = None
        """A lock that is taken while the thread has to wait; see `Worker`."""
        self.area: list[Any] = cpu.area if cpu is not None else []
        self.kind: str | None = None
        """The pending operation's kind; ``None``: nothing to do."""
        self.object: Any = None
        """The pending operation's object."""
        self.enabled = False
        """Whether it is in `Execution.enabled`."""
        self.blocked: Any = None
        """What it waits for, or ``None``."""
        self.suspended = False
        """Whether an interrupt runs on top of it."""
        self.resting: set[Task] | None = None
        """After ``cpu_relax``: the tasks that have to run first."""
        self.held: list[ControlledLock] = []
        """Locks it holds, in the order they were taken."""
        self.subclass = 0
        """The level at which it takes its next lock, for the lock validator."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


class ControlledCpu:
    """One CPU or kernel thread in one execution."""

    def __init__(self, number: int, name: str, nr_cpus: int) -> None:
        self.number = number
        self.name = name
        self.area: list[Any] = [False, self, {}, {}]
        """Item 0, attention, then the CPU itself, and its per-CPU data."""
        is_cpu = number < nr_cpus
        first = number if is_cpu else 2 * number
        second = number + nr_cpus if is_cpu else 2 * number + 1
        self.main = Task(self, first, name, False)
        self.irq = Task(self, second, f"{name}/irq", True)
        self.thread: Thread | None = None
        self.native_id = 0
        self.run_queue: deque[Job] = deque()
        self.interrupts: deque[Callable[[], Any]] = deque()
        self.nr_due = 0
        """Of `interrupts`, how many came while they were disabled: taken as soon as they are enabled."""
        self.irqs_enabled = True
        self.in_interrupt = False
        self.nr_interrupts = 0
        self.active = False
        """Whether the thread is inside of a body or handler."""

    def renew(self) -> None:
        """For the next execution: as new."""
        self.area = [False, self, {}, {}]
        self.run_queue.clear()
        self.interrupts.clear()
        self.nr_due = self.nr_interrupts = 0
        self.irqs_enabled = True
        self.in_interrupt = self.active = False
        for task in (self.main, self.irq):
            task.area = self.area
            task.kind = task.object = task.blocked = task.resting = None
            task.enabled = task.suspended = False
            task.held.clear()
            task.subclass = 0

    @property
    def is_kthread(self) -> bool:
        return self.main.index != self.number

    def __repr__(self) -> str:
        return f"<{self.name}>"
