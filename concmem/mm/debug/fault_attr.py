"""
Fault injection: when an allocation fails although there is memory.

Every call that comes through all filters and has used up *space* takes part; of those each *interval*-th fails
with a *probability*, at most *times* times.

Chance is of each CPU's own, so that what is injected on one does not depend on what others do. No lock: `times`
and `space` are atomic, and the count of calls is an estimate, as in Linux.

Follows ``lib/fault-inject.c`` of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.debug.stack_depot import save_stack

if TYPE_CHECKING:
    from concmem.mm.debug.report import DebugReports
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime

MAX: Final = (1 << 63) - 1


class Whole:
    """An attribute that is a whole number in a range; anything else is a `BadArgument` that names it."""

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, attr: FaultAttr, owner: type) -> int:
        return int(attr.settings[self._name])

    def __set__(self, attr: FaultAttr, value: int) -> None:
        attr.settings[self._name] = _whole(self._name, value, self._low, self._high)


class Flag:
    """An attribute that is True or False."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, attr: FaultAttr, owner: type) -> bool:
        return bool(attr.settings[self._name])

    def __set__(self, attr: FaultAttr, value: bool) -> None:
        if not isinstance(value, bool):
            raise BadArgumentType(f"{self._name}: expected True or False, got {value!r}")
        attr.settings[self._name] = value


class Function:
    """An attribute that is the name of a function, or ``None``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, attr: FaultAttr, owner: type) -> str | None:
        found: str | None = attr.settings[self._name]
        return found

    def __set__(self, attr: FaultAttr, value: str | None) -> None:
        if value is not None and not isinstance(value, str):
            raise BadArgumentType(f"{self._name}: expected the name of a function, got {value!r}")
        attr.settings[self._name] = value


class FaultAttr:
    """
    ``struct fault_attr``: one thing that can be made to fail. Written at any time, from any thread.

    Attributes:
        interval: each how manieth call may fail.
        probability: that such a call fails, percent.
        verbose: what is logged of a failure: 0 nothing, 1 a line, 2 the stack, too.
        task_filter: numbers of the CPUs whose calls may fail; ``None``: those of all.
        require: only calls with a function of that name on the stack fail; ``None``: any.
        reject: calls with a function of that name on the stack do not fail.
        injected: failures so far.
    """

    __slots__ = (
        "_calls",
        "_events",
        "_reports",
        "_rng",
        "_rt",
        "_space",
        "_times",
        "injected",
        "name",
        "settings",
    )

    interval = Whole(0, MAX)
    probability = Whole(0, 100)
    verbose = Whole(0, 2)
    require = Function()
    reject = Function()

    def __init__(self, rt: Runtime, events: VmEvents, reports: DebugReports, name: str) -> None:
        self.name = name
        self._rt = rt
        self._events = events
        self._reports = reports
        numbers = count()
        self._rng = rt.percpu(lambda: rt.rng(f"{name}/{next(numbers)}"), name)
        self._times = rt.atomic(1, f"{name} times")
        self._space = rt.atomic(0, f"{name} space")
        self._calls = 0
        self.settings: dict[str, Any] = {"interval": 1, "probability": 0, "verbose": 2}
        """What can be set, by name; checked when it is set by attribute."""
        self.task_filter = self.require = self.reject = None
        self.injected = 0

    @property
    def times(self) -> int:
        """How many may fail from now on; -1: no limit."""
        return self._times.value

    @times.setter
    def times(self, value: int) -> None:
        self._times.value = _whole("times", value, -1, MAX)

    @property
    def task_filter(self) -> Container[int] | None:
        """See the class."""
        found: Container[int] | None = self.settings["task_filter"]
        return found

    @task_filter.setter
    def task_filter(self, value: Container[int] | None) -> None:
        if value is not None and not isinstance(value, Container):
            raise BadArgumentType(f"task_filter: expected numbers of CPUs, got {value!r}")
        self.settings["task_filter"] = value

    @property
    def space(self) -> int:
        """Bytes (pages) that are allocated before anything fails."""
        return self._space.value

    @space.setter
    def space(self, value: int) -> None:
        self._space.value = _whole("space", value, 0, MAX)

    def setup(self, text: str) -> None:
        """
        Set ``interval,probability,space,times`` (``setup_fault_attr``).

        Raises:
            BadArgument: *text* is something else; the message begins with the name.
        """
        self.interval, self.probability, self.space, self.times = parse_fault_attr(self.name, text)

    # -- when something is allocated

    def should_fail(self, size: int, nowarn: bool) -> bool:
        """
        Whether this call is to fail (``should_fail_ex``). On a CPU.

        Args:
            size: what is wanted, in units of `space`.
            nowarn: log nothing.
        """
        settings = self.settings
        if not settings["probability"] or not self._times.value:
            return False
        if not self._task_and_stack_match():
            return False
        # No lock: a CPU that sees a value just before another has used it up fails a call later.
        if self._space.value > size:
            self._space.add(-size)
            return False
        if settings["interval"] > 1:
            self._calls += 1
            if self._calls % settings["interval"]:
                return False
        if settings["probability"] <= self._rng.this().randrange(100):
            return False
        left = self._take_one_of_times()
        if left and not nowarn:
            self._fail_dump(left)
        if left:
            self.injected += 1
            self._events.count(f"{self.name}_injected")
        return bool(left)

    def _task_and_stack_match(self) -> bool:
        cpus, require, reject = self.task_filter, self.require, self.reject
        if cpus is not None and self._rt.smp_processor_id() not in cpus:
            return False
        if require is None and reject is None:
            return True
        stack = save_stack(2)
        return (require is None or require in stack) and reject not in stack

    def _take_one_of_times(self) -> int:
        """How many failures were left, this one included; 0: somebody else took the last one."""
        while True:
            left = self._times.value
            if left <= 0 or self._times.cmpxchg(left, left - 1) == left:
                return left

    def _fail_dump(self, times: int) -> None:
        verbose = self.settings["verbose"]
        if not verbose:
            return
        lines = [
            "FAULT_INJECTION: forcing a failure.",
            f"name {self.name}, interval {self.interval}, probability {self.probability}, "
            f"space {self.space}, times {times}",
        ]
        if verbose > 1:
            lines += self._reports.dump_stack()
        self._reports.printk(*lines)


def parse_fault_attr(name: str, text: object) -> tuple[int, int, int, int]:
    """
    ``interval,probability,space,times``, each in its range.

    Raises:
        BadArgument: *text* is something else; the message begins with *name*.
    """
    try:
        words = [int(word) for word in text.split(",")] if isinstance(text, str) else []
        interval, probability, space, times = words
    except ValueError:
        raise BadArgument(
            f"{name}: expected 'interval,probability,space,times', got {text!r}"
        ) from None
    try:
        return (
            _whole("interval", interval, 0, MAX),
            _whole("probability", probability, 0, 100),
            _whole("space", space, 0, MAX),
            _whole("times", times, -1, MAX),
        )
    except BadArgument as error:
        raise BadArgument(f"{name}: {error}") from None


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    if not low <= value <= high:
        raise BadArgument(f"{name}: must be {low} to {high}, got {value}")
    return value
