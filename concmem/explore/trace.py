"""
Recording what happens: every step of an execution with values, source lines, locks and causes.

That is slow, so it is done only when an execution is replayed to be looked at.
"""

from __future__ import annotations

import linecache
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from concmem.explore import operation as op
from concmem.explore.execution import Execution
from concmem.explore.look import Labels, caller, handler_name, pending_of, show, waits_for
from concmem.explore.steps import (
    INTERRUPT,
    PREEMPTION,
    READS,
    SWITCH,
    VALUES,
    Site,
    Step,
    Trace,
)
from concmem.runtime.api import split_guard

if TYPE_CHECKING:
    from concmem.explore.task import ControlledCpu, Task


class _Unsettled(NamedTuple):
    """A step whose result is not known before the next one begins."""

    at: int
    task: Task
    kind: str
    object: Any
    before: Any
    """Its value; of a queue that is about to be woken, those who sleep on it."""


class _Recorder(list[Any]):
    """The trace of an execution, which sees everything that is added to it."""

    def __init__(self, ex: Execution) -> None:
        super().__init__()
        self._ex = ex
        self.steps = Trace()
        self.entries: list[int] = []
        """For each entry of the flat trace, its index in `steps`."""
        self.causes: defaultdict[Task, list[int]] = defaultdict(list)
        """Entries that have let a task go on which has not gone on yet."""
        self.senders: defaultdict[ControlledCpu, deque[int]] = defaultdict(deque)
        """For each interrupt that a CPU has not taken yet, the entry that has sent it, or -1."""
        self.labels = Labels()
        self._last: Task | None = None
        self._unsettled: _Unsettled | None = None

    def __iadd__(self, entry: Any) -> _Recorder:  # type: ignore[misc]
        super().__iadd__(entry)
        task, kind, obj = entry
        self.settle(taken=task if kind is op.TAKEN else None)
        if task is None or task.cpu is None:
            self.entries.append(-1)
        else:
            self.entries.append(len(self.steps))
            self._record(task, kind, obj, *caller(sys._getframe(1)))
        return self

    def _record(self, task: Task, kind: str, obj: Any, site: Site, calls: tuple[str, ...]) -> None:
        index = len(self.steps)
        old = new = ""
        before: Any = None
        if kind in VALUES:
            before, old = self._look(obj)
            new = old
        elif kind is op.IRQ and obj.interrupts:
            new = handler_name(obj.interrupts[0])
        is_note = kind in op.NOTES
        switch, left, why = ("", "", "") if is_note else self._switch(task, kind)
        self.steps.append(
            Step(
                index,
                self._ex.step,
                task.cpu.number,
                task.name,
                task.is_irq,
                kind,
                "every CPU" if kind is op.SEND and hasattr(obj, "cpus") else self.labels(obj),
                old,
                new,
                False,
                site,
                calls,
                tuple(map(self.labels, task.held)),
                not task.cpu.irqs_enabled,
                switch,
                left,
                why,
                () if is_note else self._causes_of(task, kind),
                is_note,
            )
        )
        if kind is op.WAKE:
            before = tuple(obj._waiters)
        self._unsettled = _Unsettled(index, task, kind, obj, before)

    def settle(self, taken: Task | None = None) -> None:
        """What was done last has its result by now; *taken*: who has just got a lock."""
        last, self._unsettled = self._unsettled, None
        if last is None:
            return
        new, changes = "", False
        if last.kind in VALUES and last.kind not in READS:
            now, new = self._look(last.object)
            # A list may be the same one, with something else in it.
            changes = new != self.steps[last.at].old or self._differ(last.before, now)
        elif last.kind is op.TRYLOCK:
            new = "taken" if taken is last.task else "busy"
        elif last.kind is op.WAKE:
            left = last.object._waiters
            woken = [waiter.task.name for waiter in last.before if waiter not in left]
            new = ", ".join(woken) or "nobody sleeps"
        if new:
            self.steps[last.at] = self.steps[last.at]._replace(new=new, changes=changes)

    def sent(self, cpu: ControlledCpu) -> None:
        """Interrupts of *cpu* may have become more: by the last step, if there is one."""
        senders = self.senders[cpu]
        while len(senders) < len(cpu.interrupts):
            sender = -1
            if self.steps and self.steps[-1].kind is op.SEND:
                sender = len(self.steps) - 1
                name = handler_name(cpu.interrupts[-1])
                self.steps[sender] = self.steps[sender]._replace(new=name)
            senders.append(sender)

    def let_go(self, task: Task) -> None:
        """The last step lets *task* go on."""
        if self.steps and task.kind is not op.TIMEOUT:
            self.causes[task].append(len(self.steps) - 1)

    def forget(self) -> None:
        """What came before the bodies is not of interest."""
        self.__init__(self._ex)  # type: ignore[misc]

    def _look(self, obj: Any) -> tuple[Any, str]:
        """The value that *obj* has now, and as a text."""
        with self._outside():
            try:
                value = obj.now
                return value, show(value)
            except Exception:
                return None, "?"

    def _differ(self, before: Any, now: Any) -> bool:
        """Whether a value has changed; what cannot be compared has."""
        with self._outside():
            try:
                return before is not now and not bool(before == now)
            except Exception:
                return True

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Methods of the program's that are called in here take no steps."""
        ex = self._ex
        current, ex.current = ex.current, None
        try:
            yield
        finally:
            ex.current = current

    def _causes_of(self, task: Task, kind: str) -> tuple[int, ...]:
        if kind is op.IRQ:
            senders = self.senders[task.cpu]
            sender = senders.popleft() if senders else -1
            return (sender,) if sender >= 0 else ()
        return tuple(dict.fromkeys(self.causes.pop(task, ())))

    def _switch(self, task: Task, kind: str) -> tuple[str, str, str]:
        """How *task* came here, from which one, and why that does not go on."""
        last, self._last = self._last, task
        if last is None or last is task:
            return "", "", ""
        if last.is_irq and not last.cpu.in_interrupt:
            last = last.cpu.main  # its interrupt was over
        if task.cpu is last.cpu:
            return (INTERRUPT, last.name, "") if kind is op.IRQ else ("", "", "")
        if last.enabled:
            return PREEMPTION, last.name, ""
        return SWITCH, last.name, self._why(last)

    def _why(self, task: Task) -> str:
        """Why *task* does not go on."""
        if task.resting is not None:
            return "yields"
        if task.blocked is not None:
            return waits_for(task.blocked, self.labels)
        return "has ended" if task.kind is None else ""


class TracedExecution(Execution):
    """An execution that is looked at: `steps` tells all."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trace: _Recorder = _Recorder(self)

    @property
    def steps(self) -> Trace:
        """What has happened; complete when the execution is over."""
        recorder = self.trace
        steps = recorder.steps
        race = self.finding.race if self.finding is not None else None
        if race is not None:
            first, second = (recorder.entries[a.position // 3] for a in (race.first, race.second))
            steps.race = steps[first], steps[second]
            steps.guard = split_guard(race.field.guard)[0]
        steps.nr_cpus = sum(not cpu.is_kthread for cpu in self.cpus)
        for site in (*(step.site for step in steps), *(task.site for task in steps.pending)):
            if site.file not in steps.sources:
                steps.sources[site.file] = linecache.getlines(site.file)
        return steps

    def forget_boot(self) -> None:
        """What came before the bodies is not of interest."""
        self.trace.forget()

    # -- what the recorder has to hear of

    def drive(self, goal: Callable[[], bool] | None = None) -> None:
        super().drive(goal)
        self.trace.settle()

    def drive_steps(self, nr: int) -> bool:
        over = super().drive_steps(nr)
        self.trace.settle()
        return over

    def fail(
        self, kind: str, error: BaseException | str, task: Task | None, subject: str = ""
    ) -> NoReturn:
        if self.finding is None:
            self.trace.settle()
            # Who raised, or has ended, does nothing any more.
            done = task if isinstance(error, BaseException) or kind == "lock-leak" else None
            self.trace.steps.pending = pending_of(self, done, self.trace.labels)
        super().fail(kind, error, task, subject)

    def unblock(self, task: Task) -> None:
        self.trace.let_go(task)
        super().unblock(task)

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.trace.let_go(task)
        super().start(tasks)

    def enable_rivals(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.trace.let_go(task)
        super().enable_rivals(tasks)

    def block(self, task: Task, on: Any) -> None:
        if task.blocked is not None and task.blocked is not on:
            self.trace.let_go(task)  # woken, and now it has to wait for the lock
        super().block(task, on)

    def update_irq(self, cpu: ControlledCpu) -> None:
        self.trace.sent(cpu)
        super().update_irq(cpu)
