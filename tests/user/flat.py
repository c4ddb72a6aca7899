"""
A naive process for tests of malloc: flat memory, a break, and a first-fit list of mappings.

It knows nothing of VMAs, page tables or locks but one, and so is an independent base: what malloc does wrong on
it is malloc's own.
"""

from __future__ import annotations

from collections import Counter

from concmem.errors import KernelBug
from concmem.runtime import api
from concmem.runtime.free import FreeRuntime

PAGE = 4096
HEAP = 0x5555_5555_9000
MAPPINGS = 0x7FFF_0000_0000
GUARD = 0x1_0000_0000


class Fault(KernelBug):
    """An access to nothing."""


class FlatProcess:
    """
    *size* bytes of memory for all pages; *heap* bytes that the break may go up to.

    Attributes:
        pages: by page number: the frame that is mapped there.
        noaccess: pages that are reserved only.
    """

    def __init__(self, rt: FreeRuntime, size: int = 8 << 20, heap: int = 1 << 32) -> None:
        self.rt = rt
        self._lock = rt.mutex("mmap_lock")
        self._bytes = bytearray(size)
        self._free_frames = list(range(size // PAGE))[::-1]
        self._view = memoryview(self._bytes).cast("Q")
        self.pages: dict[int, int] = {}
        self.ranges: dict[int, int] = {}  # mappings: start -> end, without the heap
        self.noaccess: dict[int, int] = {}
        self.brk_now = HEAP
        self.heap = heap
        self.fail_mmap = False
        self.events: Counter[str] = Counter()
        self._words = rt.percpu(lambda: rt.watch_words(self._view, "memory"), "words")

    # -- system calls

    def sbrk(self, increment: int) -> int | None:
        with self._lock:
            old = self.brk_now
            if not HEAP <= old + increment <= HEAP + self.heap:
                return None
            self.brk_now = old + increment
            self._drop(self.brk_now + PAGE - 1 & -PAGE, old + PAGE - 1 & -PAGE)
            return old

    def mmap(self, length: int, prot: int, flags: int, addr: int = 0) -> int | None:
        length = length + PAGE - 1 & -PAGE
        with self._lock:
            if self.fail_mmap or length > GUARD:
                return None
            if flags & 0x10:
                self._cut(addr, addr + length)
            else:
                addr = self._find(addr, length)
            self.ranges[addr] = addr + length
            if not prot:
                self.noaccess[addr] = addr + length
            return addr

    def _find(self, hint: int, length: int) -> int:
        for start in ([hint] if hint else []) + [MAPPINGS, *sorted(self.ranges.values())]:
            end = start + length
            if start >= MAPPINGS and not any(s < end and start < e for s, e in self.ranges.items()):
                return start
        raise AssertionError

    def munmap(self, addr: int, length: int) -> bool:
        assert addr % PAGE == 0
        assert length > 0
        with self._lock:
            self._cut(addr, addr + (length + PAGE - 1 & -PAGE))
        return True

    def mprotect(self, addr: int, length: int, prot: int) -> bool:
        assert addr % PAGE == 0
        assert prot == 3
        with self._lock:
            _subtract(self.noaccess, addr, addr + length)
        return True

    def _cut(self, start: int, end: int) -> None:
        _subtract(self.ranges, start, end)
        _subtract(self.noaccess, start, end)
        self._drop(start, end)

    def _drop(self, start: int, end: int) -> None:
        for page in [page for page in list(self.pages) if start <= page * PAGE < end]:
            self._free_frames.append(self.pages.pop(page))

    # -- memory

    def map_page(self, address: int) -> int:
        with self._lock:
            page = address // PAGE
            frame = self.pages.get(page)
            if frame is None:
                at = page * PAGE
                is_heap = HEAP <= at < self.brk_now
                if not is_heap and (
                    not any(s <= at < e for s, e in self.ranges.items())
                    or any(s <= at < e for s, e in self.noaccess.items())
                ):
                    raise Fault(f"{address:#x} is not mapped")
                frame = self.pages[page] = self._free_frames.pop()
                self._bytes[frame * PAGE : (frame + 1) * PAGE] = bytes(PAGE)
            return frame * (PAGE // 8)

    def words(self) -> api.Words:
        return self._words.this()

    def _offset(self, address: int) -> int:
        return self.map_page(address) * 8 + address % PAGE

    def read(self, address: int, nr_bytes: int) -> bytes:
        return (
            bytes(self._bytes[self._offset(a)] for a in range(address, address + nr_bytes))
            if nr_bytes < 64
            else self._read_pages(address, nr_bytes)
        )

    def _read_pages(self, address: int, nr_bytes: int) -> bytes:
        pieces = []
        while nr_bytes:
            length = min(nr_bytes, PAGE - address % PAGE)
            at = self._offset(address)
            pieces.append(bytes(self._bytes[at : at + length]))
            address, nr_bytes = address + length, nr_bytes - length
        return b"".join(pieces)

    def write(self, address: int, data: bytes) -> None:
        while data:
            length = min(len(data), PAGE - address % PAGE)
            at = self._offset(address)
            self._bytes[at : at + length] = data[:length]
            address, data = address + length, data[length:]

    def peek(self, address: int) -> int | None:
        frame = self.pages.get(address // PAGE)
        return None if frame is None else self._view[frame * 512 + address % PAGE // 8]

    def poke(self, address: int, value: int) -> None:
        """What a program with a bug does to memory."""
        self.write(address, (value % (1 << 64)).to_bytes(8, "little"))

    def count(self, event: str) -> None:
        self.events[event] += 1


def _subtract(ranges: dict[int, int], start: int, end: int) -> None:
    """Take a range out of ranges."""
    for low, high in list(ranges.items()):
        if low < end and start < high:
            del ranges[low]
            if low < start:
                ranges[low] = start
            if end < high:
                ranges[end] = high
