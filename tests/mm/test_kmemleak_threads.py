"""The leak detector while CPUs allocate and free on their own threads: automatic scans, commands, the end."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from concmem.machine import Machine
from concmem.mm.sections import MemoryWords

from .helpers import PAGE, on_cpu
from .kmemleak_helpers import detector, leak_machine

pytestmark = pytest.mark.stress

CPUS = 4
ROUNDS = 400
SLOTS = 8


def load(m: Machine, cpu: int, slots: MemoryWords) -> Callable[[], None]:
    """What a CPU does: blocks of all kinds, each in a slot of static data for as long as it has it."""
    rng = Random(cpu)
    free: dict[int, Callable[[int], None]] = {}

    def body() -> None:
        with m.stack_frame(1) as frame:  # what is in hand
            for number in range(ROUNDS):
                step(number, frame)
            for index in range(SLOTS):
                drop(index, frame)

    def drop(index: int, frame: MemoryWords) -> None:
        old = frame[0] = slots[index]
        slots[index] = None
        if old:
            free.pop(old)(old)

    def step(number: int, frame: MemoryWords) -> None:
        index = rng.randrange(SLOTS)
        if slots[index]:
            drop(index, frame)
            return
        size, allocate, release = rng.choice(
            [
                (rng.randint(16, 2000), m.kmalloc, m.kfree),
                (3 * PAGE, m.kmalloc, m.kfree),
                (PAGE, m.vmalloc, m.vfree),
            ]
        )
        address = frame[0] = allocate(size)
        assert address is not None
        m.memory.write(address, bytes([number % 255 + 1]) * 16)
        slots[index] = address
        free[address] = release

    return body


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_automatic_scans_of_a_busy_machine(runtime: str) -> None:
    """
    Four CPUs allocate and free, the detector's own thread scans all the time, and finds nothing.

    Blocks are old enough after a second. An address is in nothing but a variable of Python from its allocation to the
    next line: a CPU's thread would have to stand still there that long, and two whole scans.
    """
    with leak_machine(cpus=CPUS, memory="64M", runtime=runtime) as m:
        kmemleak = detector(m)
        kmemleak.msecs_min_age = 1000
        known = kmemleak.statistics().nr_objects
        slots = [m.data(SLOTS) for _ in range(CPUS)]
        bodies = [m.submit(cpu, load(m, cpu, slots[cpu])) for cpu in range(CPUS)]
        for _ in range(20):  # all that is verified waits meanwhile
            kmemleak.write("scan=on")
            m.verify()
        while not all(body.done() for body in bodies):
            kmemleak.write("scan")
        for body in bodies:
            body.result()
        kmemleak.write("scan=off")
        on_cpu(m, m.workqueue.drain)
        assert kmemleak.report() == ""
        assert "new suspected" not in m.log.read()
        assert kmemleak.statistics().nr_scans > 0
        assert kmemleak.statistics().nr_objects == known
        on_cpu(m, m.rcu.rcu_barrier)
        m.verify()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_what_is_lost_under_load_is_found(runtime: str) -> None:
    """One block is lost on each CPU, in the middle of everything; those are found, and no other."""
    with leak_machine(cpus=CPUS, memory="64M", runtime=runtime) as m:
        kmemleak = detector(m)
        slots = [m.data(SLOTS) for _ in range(CPUS)]
        lost: list[int] = []

        def body(cpu: int) -> None:
            run = load(m, cpu, slots[cpu])
            run()
            address = m.kmalloc(64)
            assert address is not None
            m.memory.write(address, b"lost" * 16)
            lost.append(address)
            load(m, cpu + CPUS, slots[cpu])()

        m.run([lambda cpu=cpu: body(cpu) for cpu in range(CPUS)])
        for _ in range(2):
            kmemleak.scan()
        assert sorted(leak.address for leak in kmemleak.leaks()) == sorted(lost)
        for address in lost:
            on_cpu(m, m.kfree, address)
        assert kmemleak.leaks() == []


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_switched_off_in_the_middle(runtime: str) -> None:
    """Blocks that are known are forgotten or freed, by whoever comes first; a scan under way ends."""
    with leak_machine(cpus=CPUS, memory="64M", runtime=runtime) as m:
        kmemleak = detector(m)
        kmemleak.msecs_min_age = 1000
        slots = [m.data(SLOTS) for _ in range(CPUS)]
        bodies = [m.submit(cpu, load(m, cpu, slots[cpu])) for cpu in range(CPUS)]
        kmemleak.write("scan=on")
        kmemleak.write("off")
        m.verify()
        for body in bodies:
            body.result()
        on_cpu(m, m.workqueue.drain)
        m.verify()
        assert not kmemleak.statistics().enabled
        assert kmemleak.statistics().nr_objects == 0
        on_cpu(m, m.rcu.rcu_barrier)
        objects = m.slab.find("kmemleak_object")
        on_cpu(m, objects.flush_all)
        assert objects.statistics().active_objects == 0
