"""
Directed tests: steps of different CPUs forced into one order, at named points.

Where the scheduler finds the order, as in :func:`concmem.explore.check`, no sequencer is needed. It is for an
order that is known: that of a bug report, or the one case that a test is about. It works in every mode: real
threads wait on a condition variable, under control a CPU whose turn it is not is not enabled.

What a sequencer orders is not synchronised by it: the race detector looks at the program as if it were not there.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType, ConcmemError
from concmem.explore import operation as op
from concmem.explore.controlled import ControlledRuntime
from concmem.runtime.api import Runtime

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task

DEADLINE: Final = 10.0
"""Seconds that a real thread waits for its turn."""

_SLICE: Final = 0.02
"""Seconds after which a waiting CPU looks for interrupts, and for the end of the machine."""


class OutOfOrder(ConcmemError, AssertionError):
    """The order that a `Sequencer` was told cannot be kept. The message says who waits for which point."""


class Sequencer:
    """
    Forces an order at named points.

    Args:
        rt: the runtime, of any mode.
        order: names of points, in the order in which they are to be passed. A name may be there several
            times: then for the first, second, ... time that somebody comes there.
        deadline: seconds that a real thread waits; under control, nobody waits in vain: that is a deadlock.

    Raises:
        BadArgument: *order* is no list of names.
    """

    name = "sequencer"

    def __init__(self, rt: Runtime, order: Sequence[str], deadline: float = DEADLINE) -> None:
        if isinstance(order, str) or not all(isinstance(point, str) for point in order):
            raise BadArgumentType(f"order: expected a list of names of points, got {order!r}")
        if not order:
            raise BadArgument("order: there is no point in it")
        if not deadline > 0:
            raise BadArgument(f"deadline: must be positive, got {deadline!r}")
        self.order = tuple(order)
        self._next = 0
        """Points that were passed; of the order, the one whose turn it is."""
        self._came: Counter[str] = Counter()
        self._busy = False
        """Whether somebody is at the point whose turn it is, and has not left it."""
        self._waits: _Waits = (
            _ControlledWaits(self, rt.execution)
            if isinstance(rt, ControlledRuntime)
            else _ThreadWaits(self, rt, deadline)
        )

    def point(self, name: str) -> None:
        """
        Wait for the turn of point *name*, and pass it.

        Whoever comes there more often than the order says passes at once.

        Raises:
            BadArgument: there is no such point in the order.
            OutOfOrder: the deadline is over. Others that wait raise it, too.
        """
        with self.turn(name):
            pass

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """
        As `point`; but the next point's turn comes only when the ``with`` block has ended.

        The block must not wait for others' points.
        """
        if name not in self.order:
            raise BadArgument(f"point: there is no {name!r} in the order {', '.join(self.order)}")
        place = self._place(name)
        if place is None:
            yield
            return
        self._waits.wait(place)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._waits.advance()

    def _place(self, name: str) -> int | None:
        """Which place in the order this arrival at *name* has."""
        with self._waits.lock:
            self._came[name] += 1
            places = [i for i, point in enumerate(self.order) if point == name]
            came = self._came[name]
        return places[came - 1] if came <= len(places) else None

    def is_turn(self, place: int) -> bool:
        """Whether it is the turn of that place in the order."""
        return self._next == place

    def step(self) -> None:
        """One point was passed. Caller holds the lock of the mode, if there is one."""
        self._next += 1

    @property
    def passed(self) -> tuple[str, ...]:
        """The points that were passed, in order."""
        return self.order[: self._next]

    def assert_done(self) -> None:
        """
        Raise `OutOfOrder` unless every point was passed.

        For the end of a test, which else would pass although nobody ever came to a point.
        """
        left = self.order[self._next :]
        if left:
            raise OutOfOrder(
                f"nobody passed {', '.join(left)}; passed: {', '.join(self.passed) or 'none'}"
            )

    def describe_next(self) -> str:
        """What has to happen first, for messages."""
        if self._next == len(self.order):
            return "all points were passed"
        state = "has not been left" if self._busy else "is next, and nobody has come there"
        return f"{self.order[self._next]!r} {state}"


class _ThreadWaits:
    """Real threads: a condition variable."""

    def __init__(self, sequencer: Sequencer, rt: Runtime, deadline: float) -> None:
        self._sequencer = sequencer
        self._rt = rt
        self._deadline = deadline
        # lock: who waits, and all state of the sequencer but `_busy`, which is for messages.
        self.lock = threading.Lock()
        self._passed = threading.Condition(self.lock)
        self._waiting: dict[int, str] = {}
        self._stuck = ""

    def wait(self, place: int) -> None:
        sequencer, me = self._sequencer, threading.get_ident()
        end = monotonic() + self._deadline
        who = threading.current_thread().name.removeprefix("concmem-")
        try:
            while True:
                with self.lock:
                    self._waiting[me] = f"{who} waits for the turn of {sequencer.order[place]!r}"
                    if sequencer.is_turn(place):
                        return
                    if not self._stuck and monotonic() > end:
                        self._stuck = self._describe()
                        self._passed.notify_all()
                    if self._stuck:
                        raise OutOfOrder(self._stuck)
                    self._passed.wait(_SLICE)
                self._look_around()
        finally:
            with self.lock:
                self._waiting.pop(me, None)

    def _look_around(self) -> None:
        """Interrupts, and the end of the machine, get in; if the caller is a CPU."""
        try:
            self._rt.smp_processor_id()
        except RuntimeError:
            return
        self._rt.cpu_relax()

    def _describe(self) -> str:
        return (
            f"after {self._deadline:g} s: {'; '.join(self._waiting.values())}; "
            f"{self._sequencer.describe_next()}"
        )

    def advance(self) -> None:
        with self.lock:
            self._sequencer.step()
            self._passed.notify_all()


class _NoLock:
    """Under control one CPU runs at a time."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Waiting:
    """What a CPU is blocked on, under control."""

    def __init__(self, sequencer: Sequencer, task: Task, place: int) -> None:
        self._sequencer = sequencer
        self.task = task
        self.place = place
        self.name = f"point {sequencer.order[place]}"

    def describe(self) -> str:
        name = self._sequencer.order[self.place]
        return f"the turn of {name!r} ({self._sequencer.describe_next()})"


class _ControlledWaits:
    """Under control: who has to wait is not enabled."""

    lock = _NoLock()

    def __init__(self, sequencer: Sequencer, ex: Execution) -> None:
        self._sequencer = sequencer
        self._ex = ex
        self._waiting: list[_Waiting] = []

    def wait(self, place: int) -> None:
        ex, sequencer = self._ex, self._sequencer
        me = ex.current
        if me is None:
            ex.drive(lambda: sequencer.is_turn(place))
            return
        # The object is the same at all points, so that they conflict; but it is never written in the
        # eyes of the race detector, so that it orders nothing.
        me.kind, me.object = op.RESUME, sequencer
        if sequencer.is_turn(place):
            ex.point(me)
            return
        waiting = _Waiting(sequencer, me, place)
        self._waiting.append(waiting)
        ex.block(me, waiting)
        ex.wait(me)

    def advance(self) -> None:
        sequencer = self._sequencer
        sequencer.step()
        for waiting in list(self._waiting):
            if sequencer.is_turn(waiting.place):
                self._waiting.remove(waiting)
                self._ex.unblock(waiting.task)


_Waits = _ThreadWaits | _ControlledWaits
