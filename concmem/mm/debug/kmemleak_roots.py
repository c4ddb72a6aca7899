"""
Where the leak detector's scan begins, besides memory: what a kernel has in memory, and the model in objects of Python.

Locks:
    kmemleak_roots_lock     what was registered; a leaf
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from concmem.errors import BadArgumentType
from concmem.mm.debug.kmemleak_paint import KmemleakPaint

if TYPE_CHECKING:
    from concmem.mm.log import KernelLog
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.rcu import Rcu
    from concmem.mm.vm_area import VmAreas
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime

PAGES_AT_A_TIME: Final = 64

Words = Callable[[Any], Iterable[int]]
"""Addresses that the owner of a root holds."""


class KmemleakRoots(KmemleakPaint):
    """What of the leak detector knows where addresses are besides memory."""

    __guarded_by__: ClassVar = {"_roots": "_roots_lock"}

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        log: KernelLog,
        events: VmEvents,
        rcu: Rcu,
        mem_map: MemMap,
    ) -> None:
        super().__init__(rt, memory, log, events, rcu)
        self._mem_map = mem_map
        self._vm_areas: VmAreas | None = None
        self._roots_lock = rt.spinlock("kmemleak_roots_lock")
        self._roots: dict[int, tuple[weakref.ref[Any], Words]] = {}  # _roots_lock

    def register_root(self, owner: object, words: Words) -> None:
        """
        Have ``words(owner)`` give addresses that count as references, as long as *owner* exists.

        For what holds addresses and is no memory of the model. Called in each scan, on any CPU, and while
        others change what it looks at.
        """
        if not callable(words):
            raise BadArgumentType(f"words: expected a function, got {words!r}")
        try:
            reference = weakref.ref(owner)
        except TypeError:
            raise BadArgumentType(f"owner: cannot be referred to weakly: {owner!r}") from None
        with self._roots_lock:
            self._roots[id(owner)] = reference, words

    def unregister_root(self, owner: object) -> None:
        """Forget *owner*, if it is known."""
        with self._roots_lock:
            self._roots.pop(id(owner), None)

    def _root_words(self) -> Iterator[Iterable[int]]:
        """Words of what is memory in a kernel, and objects of Python here; some at a time."""
        yield from self._page_structs()
        yield self._vm_structs()
        with self._roots_lock:
            roots = list(self._roots.items())
        for key, (reference, words) in roots:
            owner = reference()
            if owner is not None:
                # All of them at once: nobody else's code runs under kmemleak_lock.
                yield list(words(owner))
                continue
            with self._roots_lock:
                if self._roots.get(key, (None,))[0] is reference:
                    del self._roots[key]

    def _page_structs(self) -> Iterator[list[int]]:
        """The words of each ``struct page`` in use that may be an address."""
        pages = list(self._mem_map.pages.values())
        for first in range(0, len(pages), PAGES_AT_A_TIME):
            words: list[Any] = []
            for page in pages[first : first + PAGES_AT_A_TIME]:
                if page.is_allocated():
                    words += page.private, page.mapping  # what its free list leads to is free
            yield [word for word in words if word.__class__ is int]

    def _vm_structs(self) -> list[int]:
        """``vm_struct->addr`` of all areas. So an area of vmalloc needs one reference more."""
        addresses = []
        for node in self._vm_areas.space.nodes if self._vm_areas is not None else ():
            with node.busy_lock:
                addresses += [va.va_start for va in node.busy if va.vm is not None]
        return addresses
