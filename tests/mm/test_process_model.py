"""Address spaces against a naive model: for each page what may be done with it and what is in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from concmem.errors import BadArgument, SegmentationFault
from concmem.machine import Machine
from concmem.mm.mman import (
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    START_BRK,
)

from .helpers import on_cpu
from .process_helpers import FIXED, PAGE, committed, ranges

RW = PROT_READ | PROT_WRITE
NR_PAGES = 24
FILE_PAGES = 6
BASE = START_BRK + 64 * PAGE
"""The window that mappings are made in; it crosses no border of a table."""
PROTS = st.sampled_from([PROT_NONE, PROT_READ, RW, RW, RW, PROT_READ | PROT_EXEC])
PAGES = st.integers(0, NR_PAGES - 1)


@dataclass
class ModelPage:
    """A page as a process sees it: bytes of its own, or those of a file until it writes."""

    prot: int
    own: bytearray | None
    file: bytearray | None = None
    shared: bool = False

    def contents(self) -> bytearray:
        if self.own is not None:
            return self.own
        assert self.file is not None
        return self.file

    def to_write(self) -> bytearray:
        if self.own is None and not self.shared:
            self.own = bytearray(self.contents())
        return self.contents()


@dataclass
class ModelSpace:
    """One process: page number, counted from BASE or START_BRK, and page."""

    pages: dict[int, ModelPage] = field(default_factory=dict)
    heap: list[bytearray] = field(default_factory=list)
    brk: int = START_BRK


class AddressSpaces(RuleBasedStateMachine):
    """Two processes and a file."""

    def __init__(self) -> None:
        super().__init__()
        self.m = Machine(cpus=2, memory="8M")
        self.file_pages = [bytearray(PAGE) for _ in range(FILE_PAGES)]
        self.file = self.m.shmem_create(FILE_PAGES * PAGE)
        self.processes = [self.m.process("a"), self.m.process("b")]
        self.spaces = [ModelSpace(), ModelSpace()]

    def teardown(self) -> None:
        try:
            for p in self.processes:
                on_cpu(self.m, p.exit)
            assert self.file is not None
            on_cpu(self.m, self.file.close)
            self.m.verify()
            assert committed(self.m) == 0
        finally:
            self.m.close()

    who = st.integers(0, 1)

    @rule(who=who, page=PAGES, nr=st.integers(1, 8), prot=PROTS)
    def map_anonymous(self, who: int, page: int, nr: int, prot: int) -> None:
        nr = min(nr, NR_PAGES - page)
        args = (nr * PAGE, prot, FIXED, BASE + page * PAGE)
        assert on_cpu(self.m, self.processes[who].mmap, *args, cpu=who) == args[3]
        for i in range(page, page + nr):
            self.spaces[who].pages[i] = ModelPage(prot, bytearray(PAGE))

    @rule(
        who=who, page=PAGES, first=st.integers(0, FILE_PAGES - 1), nr=st.integers(1, 6),
        prot=PROTS, shared=st.booleans(),
    )  # fmt: skip
    def map_file(self, who: int, page: int, first: int, nr: int, prot: int, shared: bool) -> None:
        nr = min(nr, NR_PAGES - page, FILE_PAGES - first)
        flags = MAP_FIXED | (MAP_SHARED if shared else MAP_PRIVATE)
        args = (nr * PAGE, prot, flags, BASE + page * PAGE, self.file, first * PAGE)
        assert on_cpu(self.m, self.processes[who].mmap, *args, cpu=who) == args[3]
        for i in range(nr):
            file = self.file_pages[first + i]
            self.spaces[who].pages[page + i] = ModelPage(prot, None, file, shared)

    @rule(who=who, page=PAGES, nr=st.integers(1, 8))
    def unmap(self, who: int, page: int, nr: int) -> None:
        nr = min(nr, NR_PAGES - page)
        assert on_cpu(self.m, self.processes[who].munmap, BASE + page * PAGE, nr * PAGE, cpu=who)
        for i in range(page, page + nr):
            self.spaces[who].pages.pop(i, None)

    @rule(who=who, page=PAGES, nr=st.integers(1, 8), prot=PROTS)
    def protect(self, who: int, page: int, nr: int, prot: int) -> None:
        nr = min(nr, NR_PAGES - page)
        pages = [self.spaces[who].pages.get(i) for i in range(page, page + nr)]
        try:
            args = (BASE + page * PAGE, nr * PAGE, prot)
            assert on_cpu(self.m, self.processes[who].mprotect, *args, cpu=who)
        except BadArgument:
            assert None in pages
            return
        for model in pages:
            assert model is not None
            model.prot = prot

    @rule(
        who=who, page=PAGES, offset=st.integers(0, PAGE - 1), data=st.binary(min_size=1, max_size=6)
    )
    def write(self, who: int, page: int, offset: int, data: bytes) -> None:
        """May cross into the next page; what fits before a fault is written."""
        pages = self.spaces[who].pages
        expected = True
        for i, byte in enumerate(data):
            number, where = divmod(page * PAGE + offset + i, PAGE)
            model = pages.get(number)
            if model is None or not model.prot & PROT_WRITE:
                expected = False
                break
            model.to_write()[where] = byte
        try:
            address = BASE + page * PAGE + offset
            on_cpu(self.m, self.processes[who].write, address, data, cpu=who)
            done = True
        except SegmentationFault:
            done = False
        assert done == expected

    @rule(who=who, page=PAGES, nr=st.integers(1, 3))
    def read(self, who: int, page: int, nr: int) -> None:
        models = [self.spaces[who].pages.get(i) for i in range(page, page + nr)]
        try:
            data = on_cpu(self.m, self.processes[who].read, BASE + page * PAGE, nr * PAGE, cpu=who)
        except SegmentationFault:
            assert any(model is None or not model.prot for model in models)
            return
        expected = b""
        for model in models:
            assert model is not None
            assert model.prot
            expected += bytes(model.contents())
        assert data == expected

    @rule(who=who, nr_bytes=st.integers(0, 10 * PAGE))
    def brk(self, who: int, nr_bytes: int) -> None:
        space = self.spaces[who]
        wanted = START_BRK + nr_bytes
        assert on_cpu(self.m, self.processes[who].brk, wanted, cpu=who) == wanted
        space.brk = wanted
        nr = -(-nr_bytes // PAGE)
        del space.heap[nr:]
        space.heap += [bytearray(PAGE) for _ in range(nr - len(space.heap))]

    @rule(who=who, data=st.data())
    def use_heap(self, who: int, data: st.DataObject) -> None:
        heap = self.spaces[who].heap
        if heap:
            page = data.draw(st.integers(0, len(heap) - 1))
            p, address = self.processes[who], START_BRK + page * PAGE
            assert on_cpu(self.m, p.read, address, PAGE, cpu=who) == bytes(heap[page])
            heap[page][7] ^= 0x55
            on_cpu(self.m, p.write, address + 7, bytes(heap[page][7:8]), cpu=who)

    @invariant()
    def agree(self) -> None:
        self.m.verify()
        for p, space in zip(self.processes, self.spaces, strict=True):
            mapped = {
                address: vma.vm_flags & 7
                for vma in p.mm.vmas
                for address in range(vma.vm_start, vma.vm_end, PAGE)
                if BASE <= address < BASE + NR_PAGES * PAGE
            }
            assert mapped == {
                BASE + number * PAGE: page.prot for number, page in space.pages.items()
            }
            heap = [end for start, end in ranges(p) if start == START_BRK]
            assert heap == [START_BRK + len(space.heap) * PAGE][: bool(space.heap)]
            assert p.mm.total_vm == 33 + len(space.pages) + len(space.heap)


AddressSpaces.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAddressSpaces = AddressSpaces.TestCase
