"""
Calibrated programs: small ones with one known bug each, and how many schedules it takes to find it.

From the CS and CB groups of SCTBench, described anew. Scheduling points are synchronisation and the accesses that
are called racy, which are cells here. The main thread counts as one: it is the body on CPU 0, starts the others
in order (``rt.submit`` is a point), and waits for their ends where the original does (``result()`` is a point).
Each program has a corrected twin, under which nothing may be found.

`EXPECTED` is the mean number of schedules to the bug, over 4,000 runs of an independent simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from concmem.explore import ControlledRuntime, Program

Body = Callable[[], None]


def _main(rt: ControlledRuntime, *bodies: Body, join: bool) -> Program:
    """A main thread that starts *bodies* in order."""

    def main() -> None:
        futures = [rt.submit(number, body) for number, body in enumerate(bodies, 1)]
        if join:
            for future in futures:
                future.result()

    return Program([main, *(None for _ in bodies)])


def account(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """Deposit and withdrawal under a lock; the check expects the wrong sum."""
    lock = rt.mutex("lock")
    x = {"bal": 1, "y": 2, "z": 4, "d": 0, "w": 0}

    def check() -> None:
        with lock:
            if x["d"] and x["w"]:
                right = (1 + x["y"]) - x["z"]
                assert x["bal"] == (right if fixed else (1 - x["y"]) - x["z"]), "balance"

    def deposit() -> None:
        with lock:
            x["bal"] += x["y"]
            x["d"] = 1

    def withdraw() -> None:
        with lock:
            x["bal"] -= x["z"]
            x["w"] = 1

    return _main(rt, check, deposit, withdraw, join=False)


def bluetooth_driver(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """A driver is stopped between the test of the flag and the reference that it takes."""
    pending = rt.atomic(1, "pendingIo")
    stopping, event, stopped = (
        rt.cell(False, name) for name in ("stoppingFlag", "stoppingEvent", "stopped")
    )

    def dec() -> None:
        if pending.add_return(-1) == 0:
            event.value = True

    def adder() -> None:
        future = rt.submit(1, stopper)
        if fixed:  # the reference first, then the test
            pending.inc()
            if not stopping.value:
                assert not stopped.value, "stopped while in use"
            dec()
        elif not stopping.value:
            pending.inc()
            assert not stopped.value, "stopped while in use"
            dec()
        future.result()

    def stopper() -> None:
        stopping.value = True
        dec()
        if event.value:
            stopped.value = True

    return Program([adder, None])


def deadlock01(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """Two locks in opposite orders."""
    a, b = rt.mutex("a"), rt.mutex("b")
    counter = [0]

    def first() -> None:
        with a, b:
            counter[0] += 1

    def second() -> None:
        if fixed:
            with a, b:
                counter[0] -= 1
        else:
            b.acquire()
            a.acquire()
            counter[0] -= 1
            a.release()
            b.release()

    return _main(rt, first, second, join=True)


def lazy01(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """Two additions and a check that does not expect both."""
    lock = rt.mutex("lock")
    data = [0]

    def add(n: int) -> None:
        with lock:
            data[0] += n

    def check() -> None:
        with lock:
            assert data[0] <= 3 if fixed else data[0] < 3, "data"

    return _main(rt, partial(add, 1), partial(add, 2), check, join=True)


def reorder(rt: ControlledRuntime, setters: int, fixed: bool = False) -> Program:
    """Setters store a, then b; a checker expects both or none."""
    a, b = rt.cell(0, "a"), rt.cell(0, "b")
    lock = rt.mutex("lock")

    def set_both() -> None:
        if fixed:
            with lock:
                a.value, b.value = 1, -1
        else:
            a.value = 1
            b.value = -1

    def is_consistent() -> bool:
        return (a.value == 0 and b.value == 0) or (a.value == 1 and b.value == -1)

    def check() -> None:
        if fixed:
            with lock:
                assert is_consistent(), "half set"
        else:
            assert is_consistent(), "half set"

    return _main(rt, *[set_both] * setters, check, join=True)


def reorder_3(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """`reorder` with three threads: two setters and the checker."""
    return reorder(rt, 2, fixed)


def twostage(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """Two values that belong together, each under a lock of its own."""
    first, second = rt.mutex("l1"), rt.mutex("l2")
    d1 = rt.cell(0, "d1")
    d2 = [0]

    def update() -> None:
        first.acquire()
        d1.value = 1
        if not fixed:
            first.release()
        with second:
            d2[0] = d1.value + 1
        if fixed:
            first.release()

    def reader() -> None:
        with first:
            if d1.value == 0:
                return
            t1 = d1.value
        with second:
            t2 = d2[0]
        assert t2 == t1 + 1, "the second is not of the first"

    return _main(rt, update, reader, join=True)


def wronglock_3(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """One thread counts under one lock, three under another."""
    data, thread = rt.mutex("D"), rt.mutex("T")
    v = rt.cell(0, "v")

    def careful() -> None:
        with data:
            x = v.value
            v.value = v.value + 1
            assert v.value == x + 1, "somebody else counted"

    def wrong() -> None:
        with data if fixed else thread:
            v.value = v.value + 1

    return _main(rt, careful, wrong, wrong, wrong, join=True)


class _StringBuffer:
    """A Java string buffer: every method is synchronised, and two of them in a row are not."""

    def __init__(self, rt: ControlledRuntime, name: str, text: str) -> None:
        self.lock = rt.mutex(name)
        self.text = text

    def length(self) -> int:
        with self.lock:
            return len(self.text)

    def get_chars(self, start: int, end: int) -> str:
        with self.lock:
            assert end <= len(self.text), "index out of bounds"
            return self.text[start:end]

    def erase(self, start: int, end: int) -> None:
        with self.lock:
            self.text = self.text[:start] + self.text[end:]

    def append(self, text: str) -> None:
        with self.lock:
            self.text += text


def stringbuffer(rt: ControlledRuntime, fixed: bool = False) -> Program:
    """The length of a buffer that another thread shortens before its text is taken."""
    sb, buffer = _StringBuffer(rt, "sb", ""), _StringBuffer(rt, "B", "abc")

    def append_buffer() -> None:
        rt.submit(1, change)
        with sb.lock:
            if fixed:
                with buffer.lock:
                    sb.text += buffer.text
            else:
                sb.text += buffer.get_chars(0, buffer.length())

    def change() -> None:
        buffer.erase(0, 3)
        buffer.append("abc")

    return Program([append_buffer, None])


class Expected(NamedTuple):
    """What is known of a calibrated program."""

    threads: int
    steps: int
    preemptions: int
    """The least number of preemptions that show the bug."""
    delays: int
    """The least number of delays."""
    means: dict[str, float | None]
    """Mean number of schedules to the bug, by scheduler; ``None``: never."""


SCHEDULERS: Final = ("random", "pct-2", "pct-3", "pos", "urw")


def _expected(n: int, k: int, pb: int, db: int, *means: float | None) -> Expected:
    return Expected(n, k, pb, db, dict(zip(SCHEDULERS, means, strict=True)))


PROGRAMS: Final[dict[str, Callable[..., Program]]] = {
    each.__name__: each
    for each in (account, bluetooth_driver, deadlock01, lazy01, reorder_3, twostage, wronglock_3, stringbuffer)
}  # fmt: skip

EXPECTED: Final[dict[str, Expected]] = {
    "account": _expected(4, 9, 0, 1, 8.9, 5.3, 6.7, 6.2, 4.8),
    "bluetooth_driver": _expected(2, 11, 1, 1, 16.1, 20.1, 16.9, 11.4, 12.2),
    "deadlock01": _expected(3, 12, 1, 1, 2.7, 10.4, 6.3, 4.0, 2.0),
    "lazy01": _expected(4, 12, 0, 0, 1.7, 1.7, 1.6, 1.8, 2.4),
    "reorder_3": _expected(4, 13, 1, 2, 36.7, 33.1, 21.3, 17.4, 10.4),
    "twostage": _expected(3, 16, 1, 1, 40.4, 7.3, 4.6, 10.4, 31.5),
    "wronglock_3": _expected(5, 26, 1, 1, 3.2, 16.7, 9.2, 3.3, 3.6),
    "stringbuffer": _expected(2, 11, 2, 2, 14.8, None, 46.0, 12.7, 8.3),
}


def make(name: str, steps: int) -> Any:
    """The scheduler of that column, told the number of steps as the simulator was."""
    from concmem import explore

    if name.startswith("pct-"):
        return explore.PCT(depth=int(name[4:]), steps=steps)
    return explore.SCHEDULERS[name]()
