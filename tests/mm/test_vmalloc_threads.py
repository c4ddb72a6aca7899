"""All CPUs at once: stamps in every page, areas freed by other CPUs, and everything back at the end."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest

from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.vmap_space import VmapSpace

from .helpers import PAGE, nr_buddy_pages, nr_managed


class EarlySpace(VmapSpace):
    """Purges all the time."""

    def lazy_max_pages(self) -> int:
        return 60


CLASSES: dict[type, type] = {VmapSpace: EarlySpace}

Owned = tuple[str, int, int, bytes, list[Page]]
"""Kind, address, pages, stamp, pages mapped."""


class Exerciser:
    """Random mappings on every CPU; some travel to whoever takes them."""

    def __init__(self, m: Machine, operations: int) -> None:
        self.m = m
        self.operations = operations
        self.travelling: deque[Owned] = deque()

    def make(self, rng: Random, stamp: bytes) -> Owned | None:
        m = self.m
        nr = rng.choice((1, 1, 2, 3, 5, 9, 17))
        pages: list[Page] = []
        if rng.random() < 0.6:
            kind, address = "vmalloc", m.vmalloc(nr * PAGE)
        else:
            while len(pages) < nr and (page := m.alloc_pages()) is not None:
                pages.append(page)
            if len(pages) < nr:
                return self.give_back(pages)
            kind = rng.choice(("vmap", "ram", "ram"))
            address = m.vmap(pages) if kind == "vmap" else m.vm_map_ram(pages)
        if address is None:
            return self.give_back(pages)
        owned = kind, address, nr, stamp, pages
        for page in range(nr):
            m.memory.write(address + page * PAGE + 2044, stamp)
        return owned

    def give_back(self, pages: list[Page]) -> None:
        for page in pages:
            self.m.free_pages(page)

    def free(self, owned: Owned) -> None:
        kind, address, nr, stamp, pages = owned
        for page in range(nr):
            found = self.m.memory.read(address + page * PAGE + 2044, 8)
            assert found == stamp, f"{address:#x} has two owners"
        if kind == "vmalloc":
            self.m.vfree(address)
        elif kind == "vmap":
            self.m.vunmap(address)
        else:
            self.m.vm_unmap_ram(address, nr)
        self.give_back(pages)

    def body(self, cpu: int) -> None:
        rng = Random(cpu)
        mine: list[Owned] = []
        for number in range(self.operations):
            choice = rng.random()
            if choice < 0.5:
                owned = self.make(rng, (cpu << 32 | number).to_bytes(8, "little"))
                if owned is not None:
                    (mine if choice < 0.3 else self.travelling).append(owned)
            elif choice < 0.7 and mine:
                self.free(mine.pop(rng.randrange(len(mine))))
            elif choice < 0.97:
                try:
                    owned = self.travelling.popleft()
                except IndexError:
                    continue
                self.free(owned)
            elif choice < 0.985:
                self.m.vm_unmap_aliases()
            else:
                self.m.procfs.read("vmallocinfo")
        for owned in mine:
            self.free(owned)

    def run(self) -> None:
        m = self.m
        m.run([lambda cpu=cpu: self.body(cpu) for cpu in range(m.runtime.nr_cpus)])
        m.verify()
        left = list(self.travelling)
        m.run([lambda: [self.free(owned) for owned in left]])
        m.workqueue.drain()
        m.run([m.vm_areas.space.reclaim_and_purge_vmap_areas])
        m.drain_all_pages()
        m.verify()
        assert nr_buddy_pages(m) == nr_managed(m)
        assert m.vm_areas.nr_vmalloc_pages.value == 0
        space = m.vm_areas.space
        assert [(va.va_start, va.va_end) for va in space.free] == [(space.start, space.end)]


@pytest.mark.parametrize("runtime", ["free", "jitter"])
@pytest.mark.parametrize("cpus", [1, 2, 4, 9])
def test_random_work(cpus: int, runtime: str) -> None:
    """No page and no address has two owners, and none is lost."""
    with Machine(cpus=cpus, memory="32M", runtime=runtime, seed=cpus, classes=CLASSES) as m:
        Exerciser(m, 1600 // cpus).run()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_short_of_addresses(runtime: str) -> None:
    """Three CPUs in 1 MiB of addresses: purges on every CPU, refusals, nothing lost."""
    with Machine(
        cpus=3, memory="32M", vmalloc_size="2M", runtime=runtime, seed=3, classes=CLASSES
    ) as m:
        Exerciser(m, 500).run()
        assert m.vm_areas.space.nr_purges.value > 3


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_short_of_pages(runtime: str) -> None:
    """Allocations that fail half-way give back what they have, beside others that do not."""
    with Machine(cpus=3, memory="4M", runtime=runtime, seed=3, classes=CLASSES) as m:

        def body(cpu: int) -> int:
            rng = Random(cpu)
            failed = 0
            for _ in range(25):
                kept = [m.vmalloc(rng.randrange(1, 400) * PAGE, 0x2CC0) for _ in range(2)]
                failed += kept.count(None)
                for address in kept:
                    m.vfree(address)
            return failed

        failed = m.run([lambda cpu=cpu: body(cpu) for cpu in range(3)])
        assert any(failed)
        Exerciser(m, 100).run()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_handlers_free(runtime: str) -> None:
    """Interrupt handlers on all CPUs free what bodies have allocated, while those go on."""
    with Machine(cpus=3, memory="32M", runtime=runtime, seed=5, classes=CLASSES) as m:
        exerciser = Exerciser(m, 200)

        def body(cpu: int) -> None:
            for i in range(30):
                address = m.vmalloc((i % 4 + 1) * PAGE)
                target = (cpu + 1 + i % 2) % 3
                m.call_on(target, lambda address=address: m.vfree(address), wait=False)
            exerciser.body(cpu)

        m.run([lambda cpu=cpu: body(cpu) for cpu in range(3)])
        m.workqueue.drain()
        m.run([lambda: None])  # what failed in the worker
        exerciser.operations = 0
        exerciser.run()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_verify_while_all_work(runtime: str) -> None:
    """Stopping the machine at any moment finds everything in order."""
    with Machine(cpus=3, memory="32M", runtime=runtime, seed=6, classes=CLASSES) as m:
        exerciser = Exerciser(m, 40)
        futures = [m.submit(cpu, exerciser.body, cpu) for cpu in range(3)]
        while not all(future.done() for future in futures):
            m.verify()
        for future in futures:
            future.result(50)
        exerciser.operations = 0
        exerciser.run()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_one_of_many_frees_wins(runtime: str) -> None:
    """When all CPUs free one address, one of them succeeds, and the others are told."""
    with Machine(cpus=4, memory="16M", runtime=runtime, seed=7) as m:
        for _ in range(20):
            address = m.submit(0, m.vmalloc, 3 * PAGE).result(50)
            futures = [m.submit(cpu, m.vfree, address) for cpu in range(4)]
            errors = [future.exception(50) for future in futures]
            assert errors.count(None) == 1
            assert all(type(error).__name__ == "DoubleFree" for error in errors if error)
        m.verify()
