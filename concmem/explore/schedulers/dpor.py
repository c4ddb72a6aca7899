"""
DPOR: dynamic partial-order reduction with source sets and sleep sets.

Executions that differ only in the order of independent steps (see `footprint`) are equivalent: they end in the same
state, or fail in the same way. This search runs at least one of each class, and few more: after each execution it
looks for *races*, pairs of dependent steps of different tasks that nothing else orders, and for each makes sure that
from the state before the first one, some execution is run in which the other order can come about (Flanagan and
Godefroid, POPL 2005; source sets: Abdulla, Aronis, Jonsson, Sagonas, POPL 2014). Tasks whose next step was tried from
a state already, and commutes with what came instead, *sleep*.

Where this is careful beyond the papers:

* A step that takes a lock races with the step that *took* it before, not with the one that gave it up: these two can
  never both be next. It is ordered after the release all the same.
* So does an interrupt with the step that disabled interrupts, not with those up to where they were enabled.
* If no task that could begin the other order is enabled in the state before, all that are enabled are tried.
* An execution that was broken off (a failure, a deadlock, nobody awake) still has steps that tasks were about to
  take. They count as if they had been taken next.
* What the independence relation must know of a program (who gets interrupts, whether there are steps that commute
  with nothing) is found out on the way. When something new is found, the search begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from concmem.errors import Nondeterminism, ScheduleAbandoned
from concmem.explore import operation as op
from concmem.explore.operation import Operation
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers.footprint import Footprint, Independence, dependent
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution

Clock = dict[int, int]
"""For each task, how many of its steps, by position in the execution, came before; 0: none."""


class Node:
    """A state on the way, and what is tried from there. Tasks are named by their index."""

    __slots__ = ("backtrack", "chosen", "deaf", "done", "enabled", "sleep")

    def __init__(self, enabled: list[int], chosen: int, sleep: set[int], deaf: set[int]) -> None:
        self.enabled = enabled
        self.deaf = deaf
        """The interrupt tasks of CPUs that took none here, whether one was waiting or not."""
        self.chosen = chosen
        self.backtrack = {chosen}
        self.done: set[int] = set()
        self.sleep = sleep


class Step:
    """One step that was taken, or was about to be."""

    __slots__ = ("after", "clock", "footprint", "kind", "obj", "task")

    def __init__(self, task: int, kind: str, obj: Any, footprint: Footprint) -> None:
        self.after: Footprint = []
        """What the code after the operation, up to the next one, touched."""
        self.task = task
        self.kind = kind
        self.obj = obj
        self.footprint = footprint
        self.clock: Clock = {}


class DPOR(Scheduler):
    """Every behaviour at least once."""

    name: ClassVar[str] = "dpor"

    def reset(self, seed: int) -> None:
        self._independence = Independence()
        self._restart()

    def _restart(self) -> None:
        self._stack: list[Node] = []
        self._begun = False
        self._anew = False

    def begin(self, execution: Execution) -> bool:
        if self._anew:
            self._restart()
        if self._begun and not self._next_branch():
            return False
        self._begun = True
        self._depth = 0
        self._execution = execution
        self._before: dict[int, Operation] = {}
        """What each task was about to do in the state before."""
        self._yielded: set[int] = set()
        return True

    def _next_branch(self) -> bool:
        stack = self._stack
        while stack:
            node = stack[-1]
            node.done.add(node.chosen)
            left = node.backtrack - node.done - node.sleep
            if left:
                node.chosen = min(left)
                return True
            stack.pop()
        return False

    # -- on the way

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        depth, stack = self._depth, self._stack
        if depth == len(stack):
            stack.append(self._new_node(enabled, current))
        node = stack[depth]
        self._depth = depth + 1
        for task in enabled:
            if task.index == node.chosen:
                break
        else:
            raise Nondeterminism(
                f"step {depth}: a task that could go on before cannot now: the program does not "
                "depend on its schedule alone"
            )
        self._before = {
            each.index: Operation(each, str(each.kind), each.object) for each in enabled
        }
        return task

    def _new_node(self, enabled: Sequence[Task], current: Task) -> Node:
        sleep = self._sleeping()
        awake = [task for task in enabled if task.index not in sleep]
        if not awake:
            raise ScheduleAbandoned
        chosen = current if current in awake else awake[0]
        deaf = {
            cpu.irq.index
            for cpu in self._execution.cpus
            if not cpu.irqs_enabled or cpu.in_interrupt
        }
        return Node([task.index for task in enabled], chosen.index, sleep, deaf)

    def _sleeping(self) -> set[int]:
        """Who sleeps in the state after the last step: what it would do commutes with that step."""
        if not self._stack or self._independence.hidden:
            return set()
        parent = self._stack[self._depth - 1]
        candidates = (parent.sleep | parent.done) - {parent.chosen}
        if not candidates:
            return set()
        last = self._footprint(self._before[parent.chosen])
        return {
            index
            for index in candidates
            if index in self._before and not dependent(self._footprint(self._before[index]), last)
        }

    def _footprint(self, operation: Operation) -> Footprint:
        # Whether it has yielded just before is not known here: as if it had, which is on the safe side.
        return self._independence.footprint(*operation, has_yielded=True)

    # -- afterwards

    def end(self, execution: Execution) -> None:
        steps = self._steps(execution)
        if self._anew:
            return
        history = _History()
        for position, step in enumerate(steps, 1):
            self._race(history, steps, step, position)
            history.add(step, position)
        for operation in execution.left_pending:
            if operation.kind is op.STARTED:
                continue
            step = Step(
                operation.task.index,
                operation.kind,
                operation.object,
                self._independence.footprint(*operation, has_yielded=True),
            )
            self._race(history, steps, step, len(steps) + 1)

    def _steps(self, execution: Execution) -> list[Step]:
        """The steps of *execution*; sets `_anew` when the independence relation was wrong so far."""
        trace, independence = execution.trace, self._independence
        steps: list[Step] = []
        yielded: set[int] = set()
        for i in range(0, len(trace), 3):
            task, kind, obj = trace[i : i + 3]
            if task is None:
                continue
            if kind in op.NOTES:
                if steps and kind is not op.STARTED:
                    steps[-1].after.append((obj, kind is not op.GUARDED_LOAD))
                continue
            if independence.learn(kind, obj):
                self._anew = True
            footprint = independence.footprint(task, kind, obj, task.index in yielded)
            steps.append(Step(task.index, kind, obj, footprint))
            if kind is op.RELAX:
                yielded.add(task.index)
            else:
                yielded.discard(task.index)
        return steps

    def _race(self, history: _History, steps: list[Step], step: Step, position: int) -> None:
        """Find the steps that race with *step*, from the latest to the earliest; sets its clock."""
        clock = dict(history.clocks.get(step.task, {}))
        ordered = history.only_ordered(step)
        touched = history.candidates(step.footprint)
        touched |= history.of_lock(step)
        if step.kind is op.IRQ:
            ordered = {k for k in touched if self._keeps_out(steps[k - 1], k, step)}
        # The operation first; then what came after it, which it may have ordered.
        for candidates in (touched - ordered, history.candidates(step.after)):
            for earlier in sorted(candidates, reverse=True):
                other = steps[earlier - 1]
                if other.task == step.task or earlier <= clock.get(other.task, 0):
                    continue
                self._reverse(steps, earlier, step, position, clock)
                _join(clock, other.clock)
            for earlier in ordered:
                _join(clock, steps[earlier - 1].clock)
        clock[step.task] = position
        step.clock = clock

    def _keeps_out(self, earlier: Step, position: int, interrupt: Step) -> bool:
        """Whether *interrupt* could not have come in place of *earlier*: it was sent by that, or kept out."""
        if earlier.kind is op.SEND:
            return True
        return position <= len(self._stack) and interrupt.task in self._stack[position - 1].deaf

    def _reverse(
        self, steps: list[Step], earlier: int, step: Step, position: int, clock: Clock
    ) -> None:
        """
        Have *step*, which comes at *position*, tried before the one at *earlier*.

        *clock*: what must come before *step* in any case.
        """
        if earlier > len(self._stack):
            return
        first_task = steps[earlier - 1].task
        independent: list[int] = [
            k
            for k in range(earlier + 1, min(position, len(steps) + 1))
            if steps[k - 1].clock.get(first_task, 0) < earlier
        ]
        initials: set[int] = set()
        seen: set[int] = set()
        for index, k in enumerate(independent):
            each = steps[k - 1]
            if each.task not in seen:
                seen.add(each.task)
                if not any(m <= each.clock.get(steps[m - 1].task, 0) for m in independent[:index]):
                    initials.add(each.task)
        if step.task not in seen and not any(
            m <= clock.get(steps[m - 1].task, 0) for m in independent
        ):
            initials.add(step.task)
        node = self._stack[earlier - 1]
        if node.backtrack & initials:
            return
        possible = initials & set(node.enabled)
        if possible:
            node.backtrack.add(min(possible))
        else:
            node.backtrack.update(node.enabled)

    @property
    def exhaustive(self) -> bool:
        return not self._anew


class _History:
    """The steps so far, by what they touch. Positions count from 1."""

    def __init__(self) -> None:
        self.clocks: dict[int, Clock] = {}
        """The clock of each task's last step."""
        self._writes: dict[int, int] = {}
        self._reads: dict[int, list[int]] = {}
        self._locks: dict[int, list[tuple[int, str]]] = {}
        """For each lock, what was done to it, since it was last taken (that included)."""
        self._keep: list[Any] = []  # objects whose id() is used here

    def add(self, step: Step, position: int) -> None:
        """*step* has been taken."""
        self.clocks[step.task] = step.clock
        for obj, is_written in step.footprint + step.after:
            key = id(obj)
            self._keep.append(obj)
            if is_written:
                self._writes[key] = position
                self._reads[key] = []
            else:
                self._reads.setdefault(key, []).append(position)
        if step.kind is op.ACQUIRE:
            self._locks[id(step.obj)] = [(position, op.ACQUIRE)]
        elif step.kind in (op.RELEASE, op.TRYLOCK):
            taken = step.kind is op.TRYLOCK and (step.obj, True) in step.after
            if taken:
                self._locks[id(step.obj)] = [(position, op.ACQUIRE)]
            else:
                self._locks.setdefault(id(step.obj), []).append((position, step.kind))
        elif step.kind is op.WAIT:
            self._locks.setdefault(id(step.obj.lock), []).append((position, op.RELEASE))

    def candidates(self, footprint: Footprint) -> set[int]:
        """The latest steps that are dependent with one of that *footprint*."""
        found: set[int] = set()
        for obj, is_written in footprint:
            key = id(obj)
            if key in self._writes:
                found.add(self._writes[key])
            if is_written:
                found.update(self._reads.get(key, ()))
        return found

    def of_lock(self, step: Step) -> set[int]:
        """What was done to the lock that *step* takes, since it was last taken."""
        if step.kind is not op.ACQUIRE:
            return set()
        return {position for position, _ in self._locks.get(id(step.obj), ())}

    def only_ordered(self, step: Step) -> set[int]:
        """
        Of these, steps that *step* can never come before: it waits for them.

        The release of a lock that it takes; the end of what it waits for.
        """
        if step.kind is op.ACQUIRE:
            return {
                position
                for position, kind in self._locks.get(id(step.obj), ())
                if kind is op.RELEASE
            }
        if step.kind is op.RESUME:
            position = self._writes.get(id(step.obj))
            return {position} if position is not None else set()
        return set()


def _join(clock: Clock, other: Clock) -> None:
    for task, position in other.items():
        if position > clock.get(task, 0):
            clock[task] = position
