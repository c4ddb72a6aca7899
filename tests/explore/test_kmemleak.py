"""
The leak detector under every kind of schedule: scans while others allocate and free.

That such programs find what kernels once did wrong is shown in tests/bugs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem import explore
from concmem.errors import BadArgument
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak

EXECUTIONS = 300

Bodies = tuple[list[Callable[[], Any]], Callable[[], Any]]


class Eager(Kmemleak):
    """Leaves its RCU reader at every object: else only a CPU that somebody waits for does."""

    def _need_resched(self) -> bool:
        return True


def kmemleak_of(m: Machine) -> Kmemleak:
    assert isinstance(m.kmemleak, Kmemleak)
    return m.kmemleak


def age(m: Machine) -> None:
    """Let all that is there get older than 5 seconds, of the model's time."""
    rt = m.runtime
    lock = rt.spinlock("age")
    queue = rt.waitqueue(lock, "age")

    def sleep() -> None:
        with lock:
            queue.wait(6.0)

    m.run([sleep])


def program(
    function: Callable[[Machine], Bodies],
) -> Callable[..., Callable[[ControlledRuntime], Program]]:
    """Make *function*, which gives bodies and a check, a program of a machine with the class given."""

    def with_class(cls: type[Kmemleak] = Kmemleak) -> Callable[[ControlledRuntime], Program]:
        def make(rt: ControlledRuntime) -> Program:
            m = Machine(memory="16M", runtime=rt, kmemleak=True, classes={Kmemleak: cls})
            bodies, after = function(m)

            def check() -> None:
                after()
                m.verify()

            return Program(bodies, check)

        return make

    return with_class


def check(make: Any, scheduler: str, executions: int) -> Any:
    outcome = explore.check(make, scheduler, executions=executions, cpus=2, shrink=False)
    assert outcome.failure is not None or outcome.executions == executions
    return outcome.failure


# -- programs


@program
def scan_while_allocating(m: Machine) -> Bodies:
    """One CPU scans; the other allocates, links, moves and frees."""
    head, slots = m.data(), m.data(2)
    old = m.run([lambda: [m.kmalloc(64) for _ in range(3)]])[0]
    assert old is not None
    head[0], slots[0] = old[0], old[2]
    for block in old:
        m.memory.write(block, b"x" * 64)
    m.memory.write_u64(old[0], old[1])
    age(m)
    kmemleak = kmemleak_of(m)

    def scan() -> None:
        for _ in range(2):
            assert kmemleak.scan() == 0, kmemleak.report()

    def work() -> None:
        block = m.kmalloc(64)
        area = m.vmalloc(4096)
        assert block is not None
        # Into the list, behind its head: forwards, and back.
        m.memory.write_u64(block, old[1])
        m.memory.write_u64(block + 8, old[0])
        m.memory.write_u64(old[1] + 8, block)
        m.memory.write_u64(old[0], block)
        # From one slot to the other; who moves a block changes it.
        m.memory.write_u64(old[2], 1)
        slots[0], slots[1] = None, old[2]
        m.vfree(area)
        # Out of the list again.
        m.memory.write_u64(old[1] + 8, old[0])
        m.memory.write_u64(old[0], old[1])
        m.kfree(block)

    def after() -> None:
        slots[1] = None
        assert m.run([lambda: kmemleak.scan() + kmemleak.scan()]) == [1]
        leaks = m.run([kmemleak.leaks])[0]
        assert leaks is not None
        assert [leak.address for leak in leaks] == [old[2]]

    return [scan, work], after


@program
def both_free_one_block(m: Machine) -> Bodies:
    """Two who free parts of one block, or all of it, at once."""
    kmemleak = kmemleak_of(m)
    page = m.run([m.alloc_pages])[0]
    assert page is not None
    base = m.page_address(page)
    m.run([lambda: kmemleak.alloc(base, 64)])

    def body() -> None:
        kmemleak.free(base)

    def after() -> None:
        assert base not in [obj.pointer for obj in kmemleak.objects()]

    return [body, body], after


@program
def free_at_the_cursor(m: Machine) -> Bodies:
    """The scan sleeps at a block while it, and the next one, are freed."""
    blocks = m.run([lambda: [m.kmalloc(64) for _ in range(9)]])[0]
    assert blocks is not None

    def scan() -> None:
        kmemleak_of(m).scan()

    def free() -> None:
        for block in blocks[:8]:
            m.kfree(block)
        m.rcu.rcu_barrier()

    return [scan, free], lambda: None


@program
def unmapped_while_switched_off(m: Machine) -> Bodies:
    """An area is scanned, while the detector is switched off and the area is freed."""
    area = m.run([lambda: m.vmalloc(16 * 4096)])[0]
    assert area is not None
    m.data()[0] = area

    def scan() -> None:
        try:
            kmemleak_of(m).scan()
        except BadArgument as error:
            if "kmemleak is off" not in str(error):
                raise

    def free() -> None:
        kmemleak_of(m).disable()
        m.vfree(area)

    return [scan, free], lambda: None


class NetConsole:
    """A log that allocates when it prints."""

    def __init__(self, m: Machine) -> None:
        self._m = m
        self._log = m.log

    def printk(self, text: str) -> None:
        self._m.kfree(self._m.kmalloc(256))
        self._log.printk(text)


@program
def print_when_the_pool_is_empty(m: Machine) -> Bodies:
    """There is no memory for an object, and the pool is empty."""
    kmemleak = kmemleak_of(m)
    kmemleak._mem_pool_free = 0
    kmemleak._log = NetConsole(m)  # type: ignore[assignment]
    allocate = kmemleak._alloc_metadata
    calls: list[int] = []

    def first_fails(*args: Any) -> int | None:
        calls.append(1)
        return None if len(calls) == 1 else allocate(*args)

    kmemleak._alloc_metadata = first_fails  # type: ignore[method-assign]

    def body() -> None:
        m.kfree(m.kmalloc(64))

    def after() -> None:
        assert "Memory pool empty" in m.log.read()

    return [body], after


PROGRAMS = {
    "scan_while_allocating": scan_while_allocating,
    "both_free_one_block": both_free_one_block,
    "free_at_the_cursor": free_at_the_cursor,
    "unmapped_while_switched_off": unmapped_while_switched_off,
    "print_when_the_pool_is_empty": print_when_the_pool_is_empty,
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_the_code_as_it_is(name: str, scheduler: str) -> None:
    """No false leak, no data race, no lock out of order, nothing broken."""
    cls = Eager if name == "free_at_the_cursor" else Kmemleak
    executions = EXECUTIONS // 2 if name == "scan_while_allocating" else 60
    failure = check(PROGRAMS[name](cls), scheduler, executions)
    assert failure is None, str(failure)
