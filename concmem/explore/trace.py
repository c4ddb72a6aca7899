"""
Recording what happens: every step of an execution with values, source lines, locks and causes.

That is slow, so it is done only when an execution is replayed to be looked at.
"""

from __future__ import annotations

import linecache
import re
import reprlib
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from concmem.explore import operation as op
from concmem.explore.execution import Execution
from concmem.explore.steps import (
    INTERRUPT,
    PREEMPTION,
    READS,
    SWITCH,
    VALUES,
    Pending,
    Site,
    Step,
    Trace,
)
from concmem.explore.stuck import describe
from concmem.runtime.api import split_guard

if TYPE_CHECKING:
    from concmem.explore.task import ControlledCpu, Task

_PACKAGE: Final = str(Path(__file__).resolve().parent.parent)
_MECHANISM: Final = (f"{_PACKAGE}/explore/", f"{_PACKAGE}/runtime/")
"""Files whose frames are no source of an operation."""

_BOTTOM: Final = (Execution._run_body.__code__, Execution.run_handler.__code__)
"""Where the program's own frames begin."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
"""In a ``repr``: other in each run."""

_brief: Final = reprlib.Repr()
_brief.maxstring = _brief.maxother = 40


class _Labels:
    """Names of objects; a second object of the same name gets another one."""

    def __init__(self) -> None:
        self._labels: dict[int, tuple[Any, str]] = {}
        self._uses: Counter[str] = Counter()

    def __call__(self, obj: Any) -> str:
        if obj is None:
            return ""
        found = self._labels.get(id(obj))
        if found is None:
            name = op.name_of(obj)
            self._uses[name] += 1
            label = name if self._uses[name] == 1 else f"{name}#{self._uses[name]}"
            found = self._labels[id(obj)] = obj, label  # keeps it, and so its id
        return found[1]


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
        self.labels = _Labels()
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
            self._record(task, kind, obj, *_caller(sys._getframe(1)))
        return self

    def _record(self, task: Task, kind: str, obj: Any, site: Site, calls: tuple[str, ...]) -> None:
        index = len(self.steps)
        old = new = ""
        before: Any = None
        if kind in VALUES:
            before, old = self._look(obj)
            new = old
        elif kind is op.IRQ and obj.interrupts:
            new = _handler_name(obj.interrupts[0])
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
                name = _handler_name(cpu.interrupts[-1])
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
        """The value that *obj* has now, and as a text. Looking is no step, whatever methods it calls."""
        ex = self._ex
        current, ex.current = ex.current, None
        try:
            value = obj.now
            return value, _show(value)
        except Exception:
            return None, "?"
        finally:
            ex.current = current

    def _differ(self, before: Any, now: Any) -> bool:
        """Whether a value has changed; what cannot be compared has."""
        ex = self._ex
        current, ex.current = ex.current, None
        try:
            return before is not now and not bool(before == now)
        except Exception:
            return True
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
            return _waits_for(task.blocked, self.labels)
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

    def fail(
        self, kind: str, error: BaseException | str, task: Task | None, subject: str = ""
    ) -> NoReturn:
        if self.finding is None:
            self.trace.settle()
            # Who raised, or has ended, does nothing any more.
            done = task if isinstance(error, BaseException) or kind == "lock-leak" else None
            self.trace.steps.pending = _pending(self, done, self.trace.labels)
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
        if (
            task.blocked is not None and task.blocked is not on
        ):  # woken, and has to wait for the lock
            self.trace.let_go(task)
        super().block(task, on)

    def update_irq(self, cpu: ControlledCpu) -> None:
        self.trace.sent(cpu)
        super().update_irq(cpu)


def _pending(ex: Execution, done: Task | None, labels: _Labels) -> list[Pending]:
    """What everybody but *done* is in the middle of."""
    frames = sys._current_frames()
    found = []
    for task in (task for cpu in ex.cpus for task in (cpu.main, cpu.irq)):
        cpu = task.cpu
        if task is done or task.kind is None or (task.is_irq and not cpu.in_interrupt):
            continue
        frame = frames.get(cpu.thread.ident)
        site = Site() if frame is None or task.suspended else _caller(frame)[0]
        blocked = task.blocked
        queue = getattr(blocked, "queue", None)
        find = getattr(blocked, "holder_to_wait_for", None)
        holder = cpu.irq if task.suspended else find() if find is not None else None
        found.append(
            Pending(
                cpu.number,
                task.name,
                task.is_irq,
                task.kind,
                labels(task.object),
                "is interrupted" if task.suspended else _waits_for(blocked, labels),
                holder.name if holder is not None else "",
                labels(queue) if queue is not None else "",
                tuple(map(labels, task.held)),
                site,
            )
        )
    return found


def _waits_for(blocked: Any, labels: _Labels) -> str:
    """What somebody does who waits for *blocked*; empty for ``None``."""
    if blocked is None:
        return ""
    queue = getattr(blocked, "queue", None)
    if queue is not None:
        return f"sleeps on {labels(queue)}"
    if hasattr(blocked, "owner"):
        holders = [blocked.owner] if blocked.owner else getattr(blocked, "readers", [])
        names = ", ".join(task.name for task in holders)
        return f"waits for {labels(blocked)}" + (f", held by {names}" if names else "")
    return f"waits for {describe(blocked)}"


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_show_value(each) for each in value) + ")"
    return _show_value(value)


def _show_value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 32:
        return hex(value)
    return _ADDRESS.sub("", _brief.repr(value))


def _handler_name(handler: Any) -> str:
    """What an interrupt does."""
    while True:
        inner = getattr(handler, "fn", None) or getattr(handler, "func", None)
        if inner is None:
            break
        handler = inner
    return _short(getattr(handler, "__qualname__", type(handler).__name__))


def _short(qualname: str) -> str:
    """``Counter.add``, ``body``: without the function that it is defined in."""
    return qualname.rsplit("<locals>.", 1)[-1]


def _caller(frame: FrameType | None) -> tuple[Site, tuple[str, ...]]:
    """The innermost place that is no part of the harness, and the functions from the body to there."""
    site = Site()
    calls: list[str] = []
    while frame is not None and frame.f_code not in _BOTTOM:
        code = frame.f_code
        if not code.co_filename.startswith(_MECHANISM):
            function = _short(code.co_qualname)
            if not calls:
                site = Site(code.co_filename, frame.f_lineno, function)
            calls.append(function)
        frame = frame.f_back
    return site, tuple(reversed(calls))
