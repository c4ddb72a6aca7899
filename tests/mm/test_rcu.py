"""Readers, grace periods, callbacks, and memory that keeps its type while somebody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from concmem.errors import BadArgumentType, LockMisuse, NotACpu, SleepInAtomic
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU

from .helpers import WAIT, nr_buddy_pages, nr_managed, on_cpu
from .slab_helpers import create


@pytest.fixture(params=["free", "jitter"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Three CPUs; verified at the end."""
    with Machine(cpus=3, memory="16M", runtime=request.param, slab_merge=False) as machine:
        yield machine
        machine.verify()


class Signal:
    """Something that one CPU tells another."""

    def __init__(self, m: Machine) -> None:
        self._rt = m.runtime
        self._cell = self._rt.cell(False, "signal")

    def send(self) -> None:
        self._cell.value = True

    @property
    def sent(self) -> bool:
        return self._cell.value

    def wait(self) -> None:
        while not self._cell.value:
            self._rt.cpu_relax()


def in_reader(m: Machine, depth: int, inside: Callable[[], Any]) -> Callable[[], Any]:
    """A body that runs *inside* within so many readers."""

    def body() -> Any:
        for _ in range(depth):
            m.rcu.read_lock()
        try:
            return inside()
        finally:
            for _ in range(depth):
                m.rcu.read_unlock()

    return body


def test_nobody_reads(m: Machine) -> None:
    """Without a reader a grace period just ends."""
    before = m.rcu.nr_grace_periods.value
    on_cpu(m, m.rcu.synchronize_rcu)
    assert m.rcu.nr_grace_periods.value == before + 1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_grace_period_waits_for_readers(m: Machine, depth: int) -> None:
    """synchronize_rcu returns only after the outermost reader that was there has left."""
    inside, order = Signal(m), list[str]()
    seen: list[bool] = []

    def reading() -> None:
        inside.send()
        # The grace period interrupts this CPU to look; then it is being waited for.
        data = m.rcu._data.this()
        while not data.waiting:
            m.runtime.cpu_relax()
        for _ in range(depth - 1):
            m.rcu.read_unlock()
        m.runtime.cpu_relax()
        seen.append(bool(order))
        for _ in range(depth - 1):
            m.rcu.read_lock()
        order.append("reader")

    def waits() -> None:
        inside.wait()
        m.rcu.synchronize_rcu()
        order.append("grace period")

    m.run([waits, in_reader(m, depth, reading)])
    assert order == ["reader", "grace period"]
    assert seen == [False]


def test_later_readers_are_not_waited_for(m: Machine) -> None:
    """A reader that begins after its CPU was seen outside does not delay the grace period."""
    inside, late_inside, ended = Signal(m), Signal(m), Signal(m)
    cpu1 = m.runtime.cpus[1]  # type: ignore[attr-defined]

    def waits() -> None:
        inside.wait()
        m.rcu.synchronize_rcu()
        ended.send()

    def late() -> None:
        while not cpu1.nr_interrupts:
            m.runtime.cpu_relax()
        m.rcu.read_lock()
        late_inside.send()
        ended.wait()
        m.rcu.read_unlock()

    def early() -> None:
        inside.send()
        late_inside.wait()

    m.run([waits, late, in_reader(m, 1, early)])
    assert ended.sent


def test_two_grace_periods_for_one_reader(m: Machine) -> None:
    """A reader that several CPUs wait for tells all of them."""
    inside, order = Signal(m), list[str]()

    def reading() -> None:
        inside.send()
        data = m.rcu._data.this()
        while len(data.waiting) < 2:
            m.runtime.cpu_relax()
        order.append("reader")

    def waits() -> None:
        inside.wait()
        m.rcu.synchronize_rcu()
        order.append("grace period")

    m.run([waits, in_reader(m, 1, reading), waits])
    assert order == ["reader", "grace period", "grace period"]


def test_a_reader_in_an_interrupt(m: Machine) -> None:
    """Handlers may read; the grace period is told by the reader that ends last."""

    def body() -> None:
        m.rcu.read_lock()
        m.call_on(0, in_reader(m, 2, lambda: None))
        assert m.rcu._data.this().nesting == 1
        m.rcu.read_unlock()

    on_cpu(m, body)
    on_cpu(m, m.rcu.synchronize_rcu, cpu=1)


def test_rules_that_can_be_broken(m: Machine) -> None:
    """Leaving a reader that is none, waiting for oneself, and sleeping where one must not."""
    with pytest.raises(LockMisuse, match="rcu_read_unlock: no reader"):
        on_cpu(m, m.rcu.read_unlock)
    with pytest.raises(LockMisuse, match="synchronize_rcu: called in a reader"):
        on_cpu(m, in_reader(m, 1, m.rcu.synchronize_rcu))
    with pytest.raises(SleepInAtomic):
        on_cpu(m, lambda: m.call_on(0, m.rcu.synchronize_rcu))
    for use in (m.rcu.read_lock, m.rcu.read_unlock):
        with pytest.raises(NotACpu):
            use()
    with pytest.raises(BadArgumentType, match=r"^callback: "):
        on_cpu(m, m.rcu.call_rcu, 5)  # type: ignore[arg-type]
    on_cpu(m, m.rcu.rcu_barrier)


def test_a_barrier_in_a_reader(m: Machine) -> None:
    """It would wait for its own CPU: it says so, as synchronize_rcu does."""
    with pytest.raises(LockMisuse, match="rcu_barrier"):
        on_cpu(m, in_reader(m, 1, m.rcu.rcu_barrier))


def test_callbacks_in_order(m: Machine) -> None:
    """From one CPU they are called in the order in which they were queued, after the reader has left."""
    inside, order = Signal(m), list[Any]()

    def reading() -> None:
        inside.send()
        data = m.rcu._data.this()
        while not data.waiting:
            m.runtime.cpu_relax()
        order.append("reader")

    def queues() -> None:
        inside.wait()
        for number in range(20):
            m.rcu.call_rcu(lambda number=number: order.append(number))
        m.rcu.rcu_barrier()
        order.append("barrier")

    m.run([queues, in_reader(m, 1, reading)])
    assert order == ["reader", *range(20), "barrier"]


def test_a_barrier_is_more_than_a_grace_period(m: Machine) -> None:
    """
    A grace period of one's own may end while callbacks still wait for their turn.

    The first callback is made to take as long as the barrier needs to be seen waiting for it.
    """
    begun, go, done = Signal(m), Signal(m), list[str]()

    def slow() -> None:
        begun.send()
        go.wait()
        done.append("first")

    def body() -> list[str]:
        m.rcu.call_rcu(slow)
        m.rcu.call_rcu(lambda: done.append("second"))
        begun.wait()
        m.rcu.synchronize_rcu()
        seen = list(done)
        go.send()
        m.rcu.rcu_barrier()
        return seen

    assert on_cpu(m, body) == []
    assert done == ["first", "second"]


def test_a_barrier_from_any_thread(m: Machine) -> None:
    """rcu_barrier also works where there is no CPU, and call_rcu in an interrupt."""
    done: list[int] = []
    on_cpu(m, lambda: m.call_on(0, lambda: m.rcu.call_rcu(lambda: done.append(1))))
    m.rcu.rcu_barrier()
    assert done == [1]


def test_a_callback_that_raises(m: Machine) -> None:
    """It is reported at the end of the run, and later callbacks are called all the same."""
    done: list[int] = []

    def body() -> None:
        m.rcu.call_rcu(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
        m.rcu.call_rcu(lambda: done.append(1))
        m.rcu.rcu_barrier()

    with pytest.raises(ExceptionGroup) as caught:
        m.run([body])
    assert caught.group_contains(ZeroDivisionError)
    assert done == [1]
    on_cpu(m, m.rcu.rcu_barrier)


def test_callbacks_that_queue_callbacks(m: Machine) -> None:
    """A callback may queue the next; each barrier waits for those queued before it."""
    done: list[int] = []

    def callback(left: int) -> None:
        done.append(left)
        if left:
            m.rcu.call_rcu(lambda: callback(left - 1))

    on_cpu(m, m.rcu.call_rcu, lambda: callback(3))
    for _ in range(4):
        on_cpu(m, m.rcu.rcu_barrier)
    assert done == [3, 2, 1, 0]


# -- SLAB_TYPESAFE_BY_RCU


def emptied(m: Machine, flags: int) -> tuple[KmemCache, int]:
    """A cache with one object, in use."""
    s = create(m, "typesafe", 512, flags=flags)
    address = on_cpu(m, s.alloc)
    m.memory.write(address, b"\x5a" * 512)
    return s, address


@pytest.mark.parametrize("flags", [SLAB_TYPESAFE_BY_RCU, 0])
def test_memory_keeps_its_type_for_readers(m: Machine, flags: int) -> None:
    """While a reader is inside, the slab of a freed object stays a slab of its cache; else not."""
    s, address = emptied(m, flags)
    inside, shrunk = Signal(m), Signal(m)

    def reading() -> tuple[bool, bytes]:
        inside.send()
        shrunk.wait()
        page = m.mem_map.slabs.get(address >> 12)
        kept = page is not None and page.slab_cache is s and page.is_slab()
        return kept, m.memory.read(address, 512)

    def frees() -> None:
        inside.wait()
        s.free(address)
        s.shrink()
        shrunk.send()

    _, result = m.run([frees, in_reader(m, 1, reading)])
    assert result is not None
    kept, contents = result
    assert kept == bool(flags)
    if flags:
        assert contents == b"\x5a" * 512
    assert s.node[0].nr_slabs == 0
    m.rcu.rcu_barrier()
    assert not m.mem_map.slabs


def test_verify_knows_slabs_that_wait(m: Machine) -> None:
    """Slabs that a grace period keeps are nobody's, and not lost."""
    s, address = emptied(m, SLAB_TYPESAFE_BY_RCU)
    inside, verified = Signal(m), Signal(m)

    def reading() -> None:
        inside.send()
        while not verified.sent:
            m.runtime.cond_resched()
            m.runtime.cpu_relax()

    reader = m.submit(1, in_reader(m, 1, reading))
    on_cpu(m, inside.wait)
    on_cpu(m, s.free, address)
    on_cpu(m, s.shrink)
    assert len(m.mem_map.slabs) == 1 << s.order
    m.verify()
    verified.send()
    reader.result(WAIT)


def destroys_while_a_reader_is_inside(m: Machine) -> int:
    """Pages of slabs that are left when destroy() has returned."""
    s, address = emptied(m, SLAB_TYPESAFE_BY_RCU)
    inside = Signal(m)

    def reading() -> None:
        inside.send()
        data = m.rcu._data.this()
        while not data.waiting:
            m.runtime.cpu_relax()

    def destroys() -> int:
        inside.wait()
        s.free(address)
        s.destroy()
        return len(m.mem_map.slabs)

    left = m.run([destroys, in_reader(m, 1, reading)])[0]
    assert left is not None
    m.rcu.rcu_barrier()
    return left


def test_destroy_waits_for_slabs(m: Machine) -> None:
    """When destroy() returns no slab of the cache is left, and all pages are back."""
    assert destroys_while_a_reader_is_inside(m) == 0
    on_cpu(m, m.drain_all_pages)
    assert nr_buddy_pages(m) == nr_managed(m)


def test_readers_find_objects_of_the_right_type() -> None:
    """
    Readers follow stale addresses while others allocate, free and shrink: what they find is either
    the object or another of the same cache, never a page that somebody else has got.
    """
    for runtime in ("free", "jitter"):
        with Machine(cpus=4, memory="16M", runtime=runtime, slab_merge=False, seed=1) as m:
            magic = (0xC0FFEE).to_bytes(8, "little")
            s = create(
                m,
                "typed",
                3000,
                flags=SLAB_TYPESAFE_BY_RCU,
                ctor=lambda address: m.memory.write(address, magic),  # noqa: B023
            )
            published = [m.runtime.cell(0, f"slot {i}") for i in range(4)]

            def writer(m: Machine = m, s: KmemCache = s, published: list[Any] = published) -> None:
                for turn in range(40):
                    address = s.alloc()
                    assert address
                    slot = published[turn % 4]
                    old, slot.value = slot.value, 0
                    if old:
                        s.free(old)
                    slot.value = address
                    if turn % 5 == 0:
                        s.shrink()
                    scratch = m.alloc_pages(3)
                    assert scratch is not None
                    m.memory.fill(m.page_address(scratch), 32768, 0xEE)
                    m.free_pages(scratch, 3)

            def reader(m: Machine = m, published: list[Any] = published) -> int:
                found = 0
                for turn in range(150):
                    m.rcu.read_lock()
                    address = published[turn % 4].value
                    if address:
                        m.runtime.cpu_relax()
                        assert m.memory.read(address, 8) == magic  # noqa: B023
                        found += 1
                    m.rcu.read_unlock()
                return found

            m.run([writer, reader, reader, reader])
            m.verify()
            on_cpu(m, lambda: s.free_bulk([slot.value for slot in published]))  # noqa: B023
            on_cpu(m, s.destroy)
            assert not m.mem_map.slabs


def test_a_body_that_ends_in_a_reader(m: Machine) -> None:
    """It is told of, and holds up nobody afterwards."""

    def forgets() -> None:
        m.rcu.read_lock()
        m.rcu.read_lock()

    with pytest.raises(ExceptionGroup) as caught:
        m.run([None, forgets])
    (failure,) = caught.value.exceptions
    assert isinstance(failure, LockMisuse)
    assert "cpu1: a body ended between" in str(failure)
    on_cpu(m, m.rcu.rcu_barrier)
    m.run([m.rcu.synchronize_rcu])
