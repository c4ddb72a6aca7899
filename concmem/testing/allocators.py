"""
Programs of allocator calls, and what must be true of them, as naive as can be.

The oracle is a dictionary of what is allocated. Whatever the CPUs do: what is handed out is aligned, overlaps
nothing that somebody has, is zero if that was asked for, and keeps its contents until it is freed; and once
everything is freed, everything is there again. That is looked at between two points, so no lock is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from concmem.explore import ControlledRuntime, Failure, Program
from concmem.explore.runner import Limits
from concmem.machine import Machine
from concmem.mm import gfp as gfp_flags
from concmem.mm.page import Page
from concmem.testing.recording import (
    Marked,
    Operation,
    Preemption,
    Recording,
    Result,
    raise_failure,
    run_once,
)

PAGE_SIZE: Final = 4096
OBJECT_SIZE: Final = 192
ELEMENT_SIZE: Final = 64
RESERVE: Final = 1
"""Elements that the memory pool keeps."""


@dataclass
class Owned:
    """Something that was allocated."""

    kind: str
    address: int
    contents: bytes
    handle: Any
    """What its allocator takes back."""


class Allocators:
    """A machine, and who has what of its memory."""

    def __init__(self, rt: ControlledRuntime, cpus: int, **machine: Any) -> None:
        options: dict[str, Any] = {"memory": "16M", "slab_merge": False} | machine
        self.m = m = Machine(cpus=cpus, runtime=rt, **options)
        self.cache = m.kmem_cache_create("objects", OBJECT_SIZE)
        (pool,) = m.run([partial(m.mempool_create_kmalloc_pool, RESERVE, ELEMENT_SIZE)])
        assert pool is not None
        self.pool = pool
        self.finished = rt.atomic(0, "finished")
        """CPUs that are done. Who reads it knows what they did, in the eyes of the race detector, too."""
        self.owned: list[Owned] = []
        self._stamp = 0

    # -- the calls

    def kmalloc(self, size: int, gfp: int) -> Owned | None:
        address = self.m.kmalloc(size, gfp)
        # Powers of two are aligned to themselves.
        align = size if size & (size - 1) == 0 else 8
        return self._got("kmalloc", address, size, min(align, PAGE_SIZE), gfp, address)

    def cache_alloc(self, gfp: int) -> Owned | None:
        address = self.cache.alloc(gfp)
        return self._got("cache_alloc", address, OBJECT_SIZE, 8, gfp, address)

    def alloc_pages(self, order: int, gfp: int) -> Owned | None:
        page: Page | None = self.m.alloc_pages(order, gfp)
        size = PAGE_SIZE << order
        address = None if page is None else self.m.page_address(page)
        return self._got("alloc_pages", address, size, size, gfp, (page, order))

    def vmalloc(self, pages: int, gfp: int) -> Owned | None:
        address = self.m.vmalloc(pages * PAGE_SIZE, gfp | gfp_flags.GFP_KERNEL)  # it sleeps
        return self._got("vmalloc", address, pages * PAGE_SIZE, PAGE_SIZE, gfp, address)

    def mempool_alloc(self, gfp: int) -> Owned | None:
        address = self.pool.alloc(gfp & ~gfp_flags.ZERO)  # elements are used again as they are
        return self._got("mempool_alloc", address, ELEMENT_SIZE, 8, gfp & ~gfp_flags.ZERO, address)

    def free(self, owned: Owned | None) -> None:
        """Give *owned* back to where it came from; nothing, if there was no memory."""
        if owned is None:
            return
        found = self.m.memory.read(owned.address, len(owned.contents))
        assert found == owned.contents, (
            f"{owned.kind} {owned.address:#x}: somebody else has written to it"
        )
        # First: once it is given back, another CPU may have it at any moment.
        self.owned.remove(owned)
        _FREE[owned.kind](self, owned.handle)

    def _got(
        self, kind: str, address: int | None, size: int, align: int, gfp: int, handle: Any
    ) -> Owned | None:
        """Something was handed out, or there was no memory."""
        if address is None:
            return None
        assert address % align == 0, f"{kind}({size}): {address:#x} is not aligned to {align}"
        for other in self.owned:
            end = other.address + len(other.contents)
            assert address >= end or address + size <= other.address, (
                f"{kind}({size}): {address:#x} is part of {other.kind} {other.address:#x}"
            )
        if gfp & gfp_flags.ZERO:
            assert self.m.memory.read(address, size) == bytes(size), f"{kind}: it is not zeroed"
        self._stamp += 1
        contents = (self._stamp.to_bytes(4, "little") * (size // 4 + 1))[:size]
        self.m.memory.write(address, contents)
        owned = Owned(kind, address, contents, handle)
        self.owned.append(owned)
        return owned

    # -- the end

    def check(self) -> None:
        """All CPUs are done: what is left is as it was, and when it is freed everything is there again."""
        self.m.verify()
        # Not earlier: a mistake may only show while both CPUs still have what they were given.
        self.m.run([self._free_all])
        self.m.verify()
        kept = len(self.pool.elements)
        assert kept == self.pool.curr_nr == RESERVE, (
            f"the memory pool has {kept} elements in reserve, counts {self.pool.curr_nr}, and is to keep "
            f"{RESERVE}"
        )
        # They raise if an object, or an element, is missing.
        self.m.run([self._destroy])
        self.m.verify()

    def _free_all(self) -> None:
        assert self.finished.value <= self.m.runtime.nr_cpus
        for owned in list(self.owned):
            self.free(owned)

    def _destroy(self) -> None:
        self.cache.destroy()
        self.pool.destroy()


_FREE: Final[dict[str, Callable[[Allocators, Any], None]]] = {
    "kmalloc": lambda self, address: self.m.kfree(address),
    "cache_alloc": lambda self, address: self.cache.free(address),
    "alloc_pages": lambda self, handle: self.m.free_pages(*handle),
    "vmalloc": lambda self, address: self.m.vfree(address),
    "mempool_alloc": lambda self, address: self.pool.free(address),
}

CALLS: Final[dict[str, Callable[..., Owned | None]]] = {
    "kmalloc": Allocators.kmalloc,
    "cache_alloc": Allocators.cache_alloc,
    "alloc_pages": Allocators.alloc_pages,
    "vmalloc": Allocators.vmalloc,
    "mempool_alloc": Allocators.mempool_alloc,
}
"""What a program can call, besides ``free``."""


@dataclass
class Call:
    """One call of a program: an allocation, or ``free``."""

    cpu: int
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    preempt: Sequence[Preemption] = ()
    last: int = 0
    """With ``free``: of what is not freed yet, the one so many before the last."""


class AllocatorProgram:
    """
    Allocator calls, and the CPUs that do them: what `programs` draws.

    It is a program of `concmem.explore`, too: ``explore.replay(program, schedule)``.
    """

    def __init__(self, calls: Sequence[Call], *, cpus: int = 2, **machine: Any) -> None:
        self.calls = list(calls)
        self.cpus = cpus
        self.machine = machine
        self.recording = Recording()
        left: list[Result] = []
        for call in self.calls:
            self._record(call, left)

    def _record(self, call: Call, left: list[Result]) -> None:
        """Add *call*; *left*: results that were not freed. To free nothing is no operation."""
        if call.name != "free":
            function = CALLS[call.name]
            left.append(
                self.recording.add(Operation(call.cpu, function, call.arguments, call.preempt))
            )
        elif left:
            owned = left.pop(-1 - call.last % len(left))
            self.recording.add(Operation(call.cpu, Allocators.free, {"owned": owned}, call.preempt))

    def __call__(self, rt: ControlledRuntime) -> Program:
        return self._program(rt, None)

    def _program(self, rt: ControlledRuntime, marked: Marked | None) -> Program:
        subject = Allocators(rt, self.cpus, **self.machine)
        bodies = self.recording.bodies(rt, subject, self.cpus, marked, subject.finished.inc)
        return Program(bodies, subject.check)

    def run(self, **limits: Any) -> Failure | None:
        """
        Run it once, with its preemptions.

        Args:
            limits: ``max_steps``, ``early_timeouts``, ``spurious_wakeups``, ``detectors``, as of
                `explore.check`.
        """
        marked = Marked()
        return run_once(lambda rt: self._program(rt, marked), marked, self.cpus, Limits(**limits))

    def check(self, **limits: Any) -> None:
        """The same, and raise the error of what it finds, with the table and the replay line."""
        failure = self.run(**limits)
        if failure is not None:
            raise_failure(self, failure)

    def __repr__(self) -> str:
        more = "".join(f", {name}={value!r}" for name, value in self.machine.items())
        return f"AllocatorProgram({self.calls!r}, cpus={self.cpus}{more})"
