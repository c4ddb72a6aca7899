"""
What a step touches, and so which steps commute: the independence relation of partial-order reduction.

A footprint is a list of (object, is-it-written). Two steps of different tasks are dependent when they touch an
object in common that one of them writes. What is not obvious:

* *Waiting* writes the queue, and gives the lock up; so it writes both.
* *Interrupts.* An interrupt suspends the CPU's body until it ends, so where it comes matters to every step of that
  body. On a CPU that ever gets interrupts, every step of the body reads the CPU, and every step of the handler,
  and whoever sends it an interrupt, writes it.
* *Locks that keep interrupts out.* A CPU that waits for one takes no interrupts, so whoever takes or gives up
  such a lock decides whether others can be interrupted.
* *Global steps.* After ``cpu_relax`` a task waits until all others have run; a time-out may depend on nobody being
  able to go on. Such steps, and the step of a task after it has yielded, write an object that, in programs that
  have any, every other step reads: they commute with nothing.
* *Guarded fields.* What a step's code does to fields under their lock is known only once it has run. The lock
  orders it with all that keep the rules. In programs in which somebody does not (`hidden`), nobody may sleep: what
  a task is about to do may conflict in a way that cannot be seen yet.
"""

from __future__ import annotations

from typing import Any, Final

from concmem.explore import operation as op

Footprint = list[tuple[Any, bool]]

GLOBAL: Final = "everything"
"""The object that global steps write."""

_UNGUARDED: Final = frozenset((op.LOAD, op.STORE))

DEAF: Final = "deaf CPUs"
"""Read by operations on irqsave locks, and written by interrupts."""

GLOBAL_KINDS: Final = frozenset((op.RELAX, op.TIMEOUT, op.SPURIOUS, op.STOP))


class Independence:
    """The relation, as far as it depends on what a program has been seen to use."""

    def __init__(self) -> None:
        self.interrupted: set[int] = set()
        """Numbers of CPUs that get interrupts."""
        self.has_global = False
        """Whether there are global steps."""
        self.timed = False
        """Whether there are time-outs. Then when a wait begins, in steps, decides which one is the first."""
        self.hidden = False
        """Whether there are accesses of guarded fields without their guard."""

    def learn(self, kind: str, obj: Any) -> bool:
        """Look at a step; whether it shows something new, so that all was judged wrongly so far."""
        if kind is op.TIMEOUT and not self.timed:
            self.timed = self.has_global = True
            return True
        if kind in GLOBAL_KINDS and not self.has_global:
            self.has_global = True
            return True
        if kind in _UNGUARDED and not self.hidden and obj.guard:
            self.hidden = True
            return True
        if kind in (op.IRQ, op.SEND):
            cpus = [obj] if hasattr(obj, "number") else obj.cpus  # of one CPU, or of all
            numbers = {cpu.number for cpu in cpus}
            if not numbers <= self.interrupted:
                self.interrupted |= numbers
                return True
        return False

    def footprint(self, task: Any, kind: str, obj: Any, has_yielded: bool = False) -> Footprint:
        """What a step of *task* touches; *has_yielded*: its last step was ``cpu_relax``."""
        touched: Footprint = []
        if obj is not None and kind not in op.LOCAL and kind not in (op.IRQ_OFF, op.IRQ_ON):
            touched.append((obj, kind not in op.READING))
        if kind is op.RESUME:
            touched.append((obj, True))
        elif kind is op.WAIT:
            touched.append((obj.lock, True))
        elif kind is op.SEND and not hasattr(obj, "number"):
            touched += [(cpu, True) for cpu in obj.cpus]
        cpu = task.cpu
        if cpu.number in self.interrupted:
            touched.append((cpu, task.is_irq))
        if self.interrupted:
            lock = obj.lock if kind is op.WAIT else obj
            if task.is_irq or getattr(lock, "irqsave", False):
                touched.append((DEAF, task.is_irq))
        if self.has_global:
            waits = self.timed and kind is op.WAIT
            touched.append((GLOBAL, has_yielded or waits or kind in GLOBAL_KINDS))
        return touched


def dependent(a: Footprint, b: Footprint) -> bool:
    """Whether steps of different tasks with these footprints do not commute."""
    return any(x is y and (v or w) for x, v in a for y, w in b)
