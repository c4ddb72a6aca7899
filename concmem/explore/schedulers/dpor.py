"""
DPOR: dynamic partial-order reduction with source sets and sleep sets.

Executions that differ only in the order of steps that commute (`reduction.footprint`) end in the same state, or
fail in the same way. This search runs at least one of each such class, and few more. Whenever a step is taken, it
looks for *races* (`reduction.history`): pairs of steps of which the second could have come before the first. For
each, it makes sure that from the state before the first one something is tried that leads to the other order
(Flanagan and Godefroid, POPL 2005; source sets: Abdulla, Aronis, Jonsson, Sagonas, POPL 2014). Tasks whose next
step was tried from a state before, and commutes with all that came since, *sleep* (`reduction.tree`); an execution
in which all that could go on sleep is broken off.

An execution that ends early still owes the orders of what did not come to pass:

* The last step, a failure as a rule, is taken to conflict with all that could have come instead.
* Tasks that waited for a lock or for the end of an interrupt at that time count as if they had gone on next.
* Tasks that a step has disabled, or whose next operation it has changed, are tried before that step too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from concmem.errors import Nondeterminism, ScheduleAbandoned
from concmem.explore import operation as op
from concmem.explore.locks import ControlledLock
from concmem.explore.reduction.footprint import Footprint
from concmem.explore.reduction.history import Actor, races
from concmem.explore.reduction.observer import ModelTime, Observer
from concmem.explore.reduction.tree import Node, Pending, Tree
from concmem.explore.scheduler import Scheduler

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task


class _Stopped(NamedTuple):
    """How things stood at the end of an execution, before anything was unwound."""

    length: int
    """Of the trace."""
    held_up: list[tuple[Task, str, Any, Any]]
    """
    Tasks that could not go on: itself, the kind and the object of its next operation, and what it waited for,
    or ``None`` if it was interrupted or rested.
    """


class DPOR(Scheduler):
    """
    Every outcome, but not every order of steps that commute.

    An *outcome* is the final state, or the kind and the place of a failure.
    """

    name: ClassVar[str] = "dpor"

    _observer: Observer
    """Of the execution of now."""

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._time = ModelTime()
        self._restart()
        self.discarded = 0
        """Executions before the search was begun anew, see `ModelTime`."""

    def _restart(self) -> None:
        self._tree = Tree()
        self._executions = 0
        self._is_complete = self._has_gaps = False

    @property
    def exhaustive(self) -> bool:
        """Whether the whole space has been covered."""
        return self._is_complete and not self._has_gaps

    def begin(self, execution: Execution) -> bool:
        if self._is_complete:
            return False
        if self._executions and not self._tree.next_branch(self._observer.names):
            self._is_complete = True
            return False
        self._observer = Observer(execution, self._time)
        self._depth = 0
        self._is_redundant = False
        self._stopped: _Stopped | None = None
        execution.on_stop = partial(self._note_stop, execution)
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        observer, depth = self._observer, self._depth
        if depth:
            self._take_in(depth - 1)
        pending = observer.pending(enabled)
        if depth:
            self._want_disabled(depth - 1, pending)
        observer.start()
        nodes = self._tree.nodes
        if depth == len(nodes):
            nodes.append(self._new_node(pending, enabled, current))
        node = nodes[depth]
        if node.pending != pending:
            raise Nondeterminism(
                f"step {depth}: other tasks are enabled, or other operations announced, than after the same "
                "choices before: the program does not depend on its schedule alone"
            )
        chosen = next(task for task in enabled if task.index == node.chosen)
        if depth == len(nodes) - 1:
            observer.before(chosen, node.after_all)
        self._depth = depth + 1
        return chosen

    def _new_node(self, pending: Pending, enabled: Sequence[Task], current: Task) -> Node:
        names = self._observer.names
        asleep = self._tree.asleep(pending, names)
        awake = [task for task in enabled if task.index not in asleep]
        if not awake:
            self._is_redundant = True
            raise ScheduleAbandoned
        task = current if current in awake else awake[0]
        known = len(names.objects)
        return Node(pending, asleep, task.index, known, self._observer.fires(task))

    def _take_in(self, number: int, end: int | None = None) -> None:
        """The step from node *number* has been taken."""
        tree, observer = self._tree, self._observer
        after_all = tree.nodes[number].after_all
        if number < len(tree.events):
            event = tree.events[number]
            observer.again(event, after_all)
        else:
            event = observer.event(number, end)
            found = observer.history.add(event, after_all)
            tree.events.append(event)
            for race in found:
                tree.reverse(race, number, event.actor)
        for index in event.enables:
            observer.history.enables(event, index)

    def _want_disabled(self, number: int, pending: Pending) -> None:
        """Who could have gone on before the last step, and now cannot, or not in the same way."""
        node = self._tree.nodes[number]
        for index, operation in node.pending.items():
            if index != node.chosen and pending.get(index) != operation:
                node.wanted.add(index)

    def _note_stop(self, execution: Execution) -> None:
        held_up = [
            (task, task.kind, task.object, task.blocked)
            for cpu in execution.cpus
            for task in (cpu.main, cpu.irq)
            if task.kind is not None and (task.blocked or task.suspended or task.resting)
        ]
        self._stopped = _Stopped(len(execution.trace), held_up)

    def end(self, execution: Execution) -> None:
        self._executions += 1
        tree, depth = self._tree, self._depth
        abandoned = isinstance(execution.scheduler_error, ScheduleAbandoned)
        if (
            abandoned and not self._is_redundant
        ):  # by somebody else, who may know why; here it is a gap
            self._has_gaps = True
            del tree.nodes[depth:], tree.events[depth:]
        if depth < len(tree.nodes):
            raise Nondeterminism(
                f"step {depth}: the execution ended, which went on after the same choices before: the "
                "program does not depend on its schedule alone"
            )
        if not depth:
            return
        # A CPU that hangs does not stop.
        length, held_up = self._stopped or _Stopped(len(execution.trace), [])
        if not self._is_redundant:
            self._take_in(depth - 1, length)
            # Whoever could have gone on instead: now it cannot.
            tree.nodes[depth - 1].want_all()
        for task, kind, obj, blocked in held_up:
            self._never_taken(task, kind, obj, blocked)
        if self._time.is_too_coarse(execution.step):
            self.discarded = self._executions
            self._restart()
            self._time.is_exact = True

    def _never_taken(self, task: Task, kind: str, obj: Any, blocked: Any) -> None:
        """*task* could not do this before the end, because of a lock or an interrupt."""
        if blocked is not None and not isinstance(blocked, ControlledLock):
            return
        names, cpu = self._observer.names, task.cpu
        footprint = Footprint(kind)
        footprint.add(task, kind, obj, names, budgets=False)
        self._race(task, footprint)
        if task is cpu.main and cpu.interrupts and getattr(blocked, "irqsave", False):
            footprint = Footprint(op.IRQ)
            footprint.add(cpu.irq, op.IRQ, cpu, names, budgets=False)
            footprint.add_spinning(task, names.of(blocked))
            self._race(cpu.irq, footprint)

    def _race(self, task: Task, footprint: Footprint) -> None:
        actor = Actor(task.index, task.cpu.number, task.is_irq)
        for race in races(self._observer.history.edges(actor, footprint), actor):
            self._tree.reverse(race, len(self._tree.events), actor)
