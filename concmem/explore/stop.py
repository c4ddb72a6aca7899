"""``stop_machine`` of the controlled mode: wait until every CPU is between two operations, then run alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from concmem.explore import operation as op

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import ControlledCpu, Task

T = TypeVar("T")


class Stops:
    """
    Those who want the machine stopped, one after the other.

    A CPU is parked when it is idle, sleeps, or has come to ``cond_resched``.
    """

    name = "stop_machine"

    def __init__(self, ex: Execution) -> None:
        self._ex = ex
        self.stopper: Any = None
        """The task that stops the machine, or the driver."""
        self._parked: list[Task] = []
        self._waiting: list[Task] = []
        """Tasks that want to be the next."""

    def cond_resched(self) -> None:
        """A point; and where the CPU parks if somebody stops the machine."""
        ex = self._ex
        me = ex.current
        if me is None:
            return
        me.kind, me.object = op.RESCHED, None
        ex.point(me)
        while self.stopper is not None and self._may_park(me):
            self._parked.append(me)
            me.kind, me.object = op.RESUME, self
            ex.block(me, self)
            ex.wait(me)

    def _may_park(self, me: Task) -> bool:
        cpu = me.cpu
        return self.stopper is not me and not cpu.in_interrupt and cpu.irqs_enabled

    def stop_machine(self, fn: Callable[[], T]) -> T:
        """Run *fn* while every other CPU is parked."""
        ex = self._ex
        me = ex.current
        if me is None:
            return self._stop_from_outside(fn)
        me.kind, me.object = op.STOP, self
        ex.point(me)
        while self.stopper is not None:
            # Wait for the turn; as good as parked meanwhile.
            self._waiting.append(me)
            me.kind = op.RESUME
            ex.block(me, self)
            ex.wait(me)
        self._begin(me)
        if not self._all_parked():
            me.kind = op.STOP
            ex.block(me, self)
            ex.wait(me)
        held = self._hold_all(me)
        enabled, me.cpu.irqs_enabled = me.cpu.irqs_enabled, False
        try:
            return fn()
        finally:
            me.cpu.irqs_enabled = enabled
            self._end(held)

    def _stop_from_outside(self, fn: Callable[[], T]) -> T:
        ex = self._ex
        if self.stopper is not None:
            ex.drive(lambda: self.stopper is None)
        self._begin(ex.driver)
        if not self._all_parked():
            ex.drive(self._all_parked)
        try:
            return fn()
        finally:
            self._end([])

    def _begin(self, stopper: Task) -> None:
        self.stopper = stopper
        for cpu in self._ex.cpus:
            cpu.area[0] = True  # so that hot paths call cond_resched

    def _end(self, held: list[Task]) -> None:
        ex = self._ex
        self.stopper = None
        for cpu in ex.cpus:
            cpu.area[0] = False
        for task in held:
            task.suspended = False
            ex.update(task)
        parked, self._parked = self._parked, []
        waiting, self._waiting = self._waiting, []
        for task in parked + waiting:
            ex.unblock(task)

    def _hold_all(self, me: Task) -> list[Task]:
        """Sleepers that were woken meanwhile stay where they are: *me* runs alone."""
        ex = self._ex
        held = [task for task in ex.enabled if task is not me]
        for task in held:
            task.suspended = True
            ex.update(task)
        return held

    def look(self) -> bool:
        """Nobody is enabled: is that because all have parked? Then the stopper goes on."""
        stopper = self.stopper
        if stopper is None or stopper.blocked is not self or not self._all_parked():
            return False
        self._ex.unblock(stopper)
        return True

    def _all_parked(self) -> bool:
        return all(self._is_parked(cpu) for cpu in self._ex.cpus)

    def _is_parked(self, cpu: ControlledCpu) -> bool:
        main = cpu.main
        if main is self.stopper or main.kind is None:
            return True
        if main.kind is op.STARTED:  # has not begun
            return True
        return not cpu.in_interrupt and main.blocked is not None and self._sleeps(main)

    def _sleeps(self, task: Task) -> bool:
        """In a wait that may sleep, and so takes part in a stop; not spinning."""
        return task.cpu.irqs_enabled and not getattr(task.blocked, "spins", False)
