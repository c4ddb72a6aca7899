"""verify() finds address spaces that disagree: each rule is broken by hand, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from concmem.errors import AddressSpaceError
from concmem.machine import Machine
from concmem.mm.mman import MAP_SHARED, PROT_READ, PROT_WRITE
from concmem.mm.pgtable import PTE_RW
from concmem.mm.process import Process

from .helpers import on_cpu
from .process_helpers import PAGE

RW = PROT_READ | PROT_WRITE


class Scene:
    """A process with an anonymous page at `anon` and a page of a file at `shared`."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.p: Process = m.process()
        file = m.shmem_create(2 * PAGE)
        assert file is not None
        self.file = file
        on_cpu(m, self._map)
        self.mm = self.p.mm
        self.vmas = list(self.mm.vmas)

    def _map(self) -> None:
        self.anon = self.p.mmap(4 * PAGE) or 0
        self.shared = self.p.mmap(2 * PAGE, RW, MAP_SHARED, 0, self.file) or 0
        self.p.touch(self.anon)
        self.p.touch(self.anon + PAGE)
        self.p.touch(self.shared)

    def table(self, address: int) -> tuple[list[int], int]:
        return self.mm.page_table.ptes[address >> 21], address >> 12 & 511

    def set_entry(self, address: int, change: Callable[[int], int]) -> None:
        table, index = self.table(address)
        table[index] = change(table[index])

    def page(self, address: int):  # type: ignore[no-untyped-def]
        return self.m.pfn_to_page(self.mm.page_table.walk(address) >> 12)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Machine(cpus=1, memory="16M") as m:
        scene = Scene(m)
        m.verify()
        yield scene


def shift_vma(s: Scene) -> None:
    s.vmas[0].vm_end += PAGE


def split_vma(s: Scene) -> None:
    s.mm.split_vma(s.vmas[1], s.anon + 2 * PAGE)


def drop_vma(s: Scene) -> None:
    s.mm.remove_vma(s.vmas[1])


def set_rw(s: Scene) -> None:
    s.vmas[1].vm_flags &= ~PROT_WRITE


def copy_entry(s: Scene) -> None:
    table, index = s.table(s.anon)
    table[index + 2] = table[index]
    s.mm.rss_anon += 1


def lose_entry(s: Scene) -> None:
    s.set_entry(s.anon, lambda pte: 0)
    s.mm.rss_anon -= 1


def lose_file_entry(s: Scene) -> None:
    s.set_entry(s.shared, lambda pte: 0)
    s.mm.rss_shmem -= 1


def count(name: str) -> Callable[[Scene], None]:
    def change(s: Scene) -> None:
        setattr(s.mm, name, getattr(s.mm, name) + 1)

    change.__name__ = name
    return change


def mapcount(s: Scene) -> None:
    s.page(s.anon)._mapcount = 1


def file_mapcount(s: Scene) -> None:
    s.page(s.shared)._mapcount += 1


def file_references(s: Scene) -> None:
    s.page(s.shared)._count.dec_and_test()


def file_user(s: Scene) -> None:
    s.file.get()


def wrong_file_page(s: Scene) -> None:
    s.file.pages[1] = s.file.pages.pop(0)


def wrong_anon_vma(s: Scene) -> None:
    s.vmas[1].anon_vma = None


def promise(s: Scene) -> None:
    s.m.processes.context.commit.vm_committed_as.add(1)


def table_page(s: Scene) -> None:
    del s.mm.page_table.pages[39, 0xFF]


def stray_table(s: Scene) -> None:
    page = on_cpu(s.m, s.m.alloc_pages)
    s.mm.page_table.pages[30, 5] = page


def pgoff(s: Scene) -> None:
    s.vmas[1].vm_pgoff += 1


def clean_writable(s: Scene) -> None:
    s.set_entry(s.anon, lambda pte: pte & ~0x40)


def zero_page_writable(s: Scene) -> None:
    s.set_entry(s.anon + 2 * PAGE, lambda pte: 0x241 | PTE_RW)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (shift_vma, "overlap"),
        (split_vma, "should be one"),
        (drop_vma, "is in no VMA"),
        (set_rw, "allows writing"),
        (copy_entry, "mapped 2 times"),
        (lose_entry, "lost"),
        (lose_file_entry, "mapped 0 times"),
        (count("total_vm"), "total_vm"),
        (count("data_vm"), "data_vm"),
        (count("stack_vm"), "stack_vm"),
        (count("exec_vm"), "exec_vm"),
        (count("map_count"), "map_count"),
        (count("rss_anon"), "rss_anon"),
        (count("rss_shmem"), "rss_shmem"),
        (mapcount, "mapcount 2"),
        (file_mapcount, "mapcount 2, but mapped 1 times"),
        (file_references, "too few references"),
        (file_user, "has 3 users"),
        (wrong_file_page, "not that page of the file"),
        (wrong_anon_vma, "not its own"),
        (promise, "vm_committed_as"),
        (table_page, "hangs in the air"),
        (stray_table, "hangs in the air|needed by no VMA"),
        (pgoff, "anonymous with pgoff"),
        (clean_writable, "without being dirty"),
        (zero_page_writable, "zero page|dirty"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_rule_is_checked(scene: Scene, breaks: Callable[[Scene], None], message: str) -> None:
    """The error says which rule, and where."""
    breaks(scene)
    with pytest.raises(AddressSpaceError, match=message):
        scene.m.verify()


def test_a_mapped_page_cannot_be_freed(scene: Scene) -> None:
    """The page allocator refuses it; the address space stays as it was."""
    page = scene.page(scene.anon)
    with pytest.raises(Exception, match="nonzero mapcount"):
        on_cpu(scene.m, scene.m.free_pages, page)
    scene.m.verify()
