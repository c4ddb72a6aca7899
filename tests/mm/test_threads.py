"""All CPUs at once: patterns in every page, pages freed by other CPUs, and everything back at the end."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest

from concmem.machine import Machine
from concmem.mm.page import Page

from .helpers import nr_buddy_pages, nr_managed

GFPS = (0xCC0, 0xCC8, 0xCD0, 0x820, 0xCC1, 0xDC0, 0x140CCA)

Owned = tuple[Page, int, bytes]


class Exerciser:
    """Random allocations and frees on every CPU; some pages travel to whoever takes them."""

    def __init__(self, m: Machine, operations: int) -> None:
        self.m = m
        self.operations = operations
        self.travelling: deque[Owned] = deque()

    def stamp(self, page: Page, order: int, stamp: bytes) -> None:
        for pfn in range(page.pfn, page.pfn + (1 << order)):
            self.m.memory.write(0xFFFF_8880_0000_0000 + pfn * 4096 + 64, stamp)

    def check(self, page: Page, order: int, stamp: bytes) -> None:
        for pfn in range(page.pfn, page.pfn + (1 << order)):
            found = self.m.memory.read(0xFFFF_8880_0000_0000 + pfn * 4096 + 64, 8)
            assert found == stamp, f"pfn {pfn:#x} has two owners"

    def free(self, owned: Owned) -> None:
        self.check(*owned)
        self.m.free_pages(owned[0], owned[1])

    def body(self, cpu: int) -> None:
        rng = Random(cpu)
        mine: list[Owned] = []
        for number in range(self.operations):
            choice = rng.random()
            if choice < 0.5:
                order = rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 6, 9))
                page = self.m.alloc_pages(order, rng.choice(GFPS) | 0x2000)
                if page is not None:
                    stamp = (cpu << 32 | number).to_bytes(8, "little")
                    self.stamp(page, order, stamp)
                    (mine if choice < 0.35 else self.travelling).append((page, order, stamp))
            elif choice < 0.7 and mine:
                self.free(mine.pop(rng.randrange(len(mine))))
            elif choice < 0.97:
                try:
                    owned = self.travelling.popleft()
                except IndexError:
                    continue
                self.free(owned)
            elif choice < 0.98:
                self.m.drain_all_pages()
        for owned in mine:
            self.free(owned)

    def run(self) -> None:
        self.m.run([lambda cpu=cpu: self.body(cpu) for cpu in range(self.m.runtime.nr_cpus)])
        self.m.verify()
        left = list(self.travelling)
        self.m.run([lambda: [self.free(owned) for owned in left]])
        self.m.drain_all_pages()
        self.m.verify()
        assert nr_buddy_pages(self.m) == nr_managed(self.m)


@pytest.mark.parametrize("runtime", ["free", "jitter"])
@pytest.mark.parametrize("cpus", [1, 2, 4, 16])
def test_random_work(cpus: int, runtime: str) -> None:
    """No page has two owners, and no page is lost."""
    with Machine(cpus=cpus, memory="48M", runtime=runtime, seed=cpus) as m:
        Exerciser(m, 5000 // cpus).run()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_random_work_on_nodes(runtime: str) -> None:
    """Four nodes, with page sets of every zone on every CPU."""
    with Machine(cpus=4, memory="64M", nodes=4, runtime=runtime, seed=1) as m:
        Exerciser(m, 400).run()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_random_work_with_handlers(runtime: str) -> None:
    """Interrupt handlers on all CPUs allocate and free what they share with nobody."""
    with Machine(cpus=4, memory="48M", runtime=runtime, seed=4) as m:
        exerciser = Exerciser(m, 300)
        kept: list[deque[tuple[Page, int]]] = [deque() for _ in range(4)]

        def handler() -> None:
            cpu = m.smp_processor_id()
            order = len(kept[cpu]) % 4
            page = m.alloc_pages(order, 0x820 | 0x2000)
            if page is not None:
                kept[cpu].append((page, order))
            if len(kept[cpu]) > 5:
                m.free_pages(*kept[cpu].popleft())

        def body(cpu: int) -> None:
            for target in range(4):
                if target != cpu:
                    for _ in range(20):
                        m.call_on(target, handler, wait=False)
            exerciser.body(cpu)

        m.run([lambda cpu=cpu: body(cpu) for cpu in range(4)])
        m.verify()
        m.run([lambda: [m.free_pages(*each) for pages in kept for each in pages]])
        exerciser.operations = 0
        exerciser.run()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_references_from_all_sides(runtime: str) -> None:
    """Each CPU takes and drops references to shared pages; the last drop frees, and only that."""
    with Machine(cpus=4, memory="16M", runtime=runtime, seed=6) as m:
        pages = m.run([lambda: [m.alloc_pages(order) for order in (0, 0, 1, 4)]])[0]
        assert pages is not None
        for page in pages:
            assert page is not None
            for _ in range(3):
                m.get_page(page)

        def body() -> None:
            for _ in range(100):
                for page in pages:
                    m.get_page(page)  # type: ignore[arg-type]
                    m.put_page(page)  # type: ignore[arg-type]
            for page in pages:
                m.put_page(page)  # type: ignore[arg-type]

        m.run([body] * 4)
        m.drain_all_pages()
        m.verify()
        assert nr_buddy_pages(m) == nr_managed(m)
