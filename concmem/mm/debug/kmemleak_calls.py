"""The calls of the leak detector for code that allocates, and for code that knows better."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

from concmem.errors import BadArgument, BadArgumentType, NotACpu
from concmem.mm.debug.kmemleak_object import KMEMLEAK_BLACK, KMEMLEAK_GREY
from concmem.mm.debug.kmemleak_report import KmemleakReport
from concmem.mm.debug.kmemleak_thread import KmemleakThread
from concmem.mm.debug.kmemleak_track import SIZE_MAX
from concmem.mm.gfp import GFP_KERNEL, check_gfp
from concmem.mm.slab_flags import SLAB_NOLEAKTRACE

T = TypeVar("T")


class KmemleakCalls(KmemleakReport):
    """Each is as the kernel's function ``kmemleak_<name>``, and works on any thread."""

    _thread: KmemleakThread
    """Set at boot."""

    # -- for who allocates

    def alloc(
        self, pointer: int | None, size: int, min_count: int = 1, gfp: int = GFP_KERNEL
    ) -> None:
        """
        Say that *size* bytes at *pointer* are allocated. What caches, ``kmalloc`` and ``vmalloc`` give is known.

        Args:
            min_count: references without which it is a leak; 0: it never is, -1: nor is it scanned.
        """
        if self._check(pointer, size=size):
            if isinstance(min_count, bool) or not isinstance(min_count, int):
                raise BadArgumentType(f"min_count: expected a whole number, got {min_count!r}")
            if not KMEMLEAK_BLACK <= min_count < 1 << 31:
                raise BadArgument(f"min_count: must be at least {KMEMLEAK_BLACK}, got {min_count}")
            # It is going to be read, so it has to be memory.
            self._memory.read(pointer, 1)
            self._memory.read(pointer + size - 1, 1)
            check_gfp(gfp)
            self.create_object(pointer, size, min_count, gfp)

    def alloc_recursive(
        self, pointer: int | None, size: int, min_count: int, flags: int, gfp: int = GFP_KERNEL
    ) -> None:
        """As `alloc`, of an object of a cache with *flags*: nothing, with ``SLAB_NOLEAKTRACE``."""
        if not flags & SLAB_NOLEAKTRACE:
            self.alloc(pointer, size, min_count, gfp)

    def free(self, pointer: int | None) -> None:
        """Say that the block at *pointer* is about to be freed; nothing if it is not known."""
        if self._check(pointer):
            self.delete_object_full(pointer)

    def free_recursive(self, pointer: int | None, flags: int) -> None:
        """As `free`, of an object of a cache with *flags*."""
        if not flags & SLAB_NOLEAKTRACE:
            self.free(pointer)

    def free_part(self, pointer: int | None, size: int) -> None:
        """Say that of a block *size* bytes at *pointer* are about to be freed; the rests are blocks then."""
        if self._check(pointer, size=size):
            self.delete_object_part(pointer, size, GFP_KERNEL)

    def update_trace(self, pointer: int | None) -> None:
        """The caller counts as who has allocated the block at *pointer*, from now on."""
        if self._check(pointer) and self._enabled.value:
            self._update_trace(pointer)

    # -- for who knows better

    def not_leak(self, pointer: int | None) -> None:
        """The block at *pointer* is no leak, and what it refers to is none either."""
        if self._check(pointer) and self._enabled.value:
            self._paint_ptr(pointer, KMEMLEAK_GREY)

    def ignore(self, pointer: int | None) -> None:
        """The block at *pointer* is no leak, and has no references."""
        if self._check(pointer) and self._enabled.value:
            self._paint_ptr(pointer, KMEMLEAK_BLACK)

    def scan_area(self, pointer: int | None, size: int = SIZE_MAX, gfp: int = GFP_KERNEL) -> None:
        """
        Of the block that *pointer* is in, only this part, and others so named, has references.

        Args:
            size: bytes; by default all to the block's end.
        """
        check_gfp(gfp)
        if self._check(pointer, size=size) and self._enabled.value:
            self._on_a_cpu(lambda: self._add_scan_area(pointer, size, gfp))

    def no_scan(self, pointer: int | None) -> None:
        """The block at *pointer* has no references."""
        if self._check(pointer) and self._enabled.value:
            self._object_no_scan(pointer)

    def erase(self, where: int) -> None:
        """Store 0 in the word at *where*: an address there is of no use any more."""
        if self._check(where):
            self._memory.write_u64(where, 0)

    @staticmethod
    def _check(pointer: object, size: object = 1) -> TypeGuard[int]:
        """Raise `BadArgument` unless these can be an address and a size; whether it is one, not ``NULL``."""
        if pointer is not None and pointer.__class__ is not int:
            raise BadArgumentType(f"pointer: expected an address, got {pointer!r}")
        if isinstance(size, bool) or not isinstance(size, int):
            raise BadArgumentType(f"size: expected bytes, got {size!r}")
        if not 1 <= size <= SIZE_MAX:
            raise BadArgument(f"size: must be at least 1, got {size}")
        return bool(pointer)

    def _on_a_cpu(self, fn: Callable[[], T]) -> T:
        try:
            self._rt.smp_processor_id()
        except NotACpu:
            return self._thread.call(fn)
        return fn()
