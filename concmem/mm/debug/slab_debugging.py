"""All that the slab allocator has for debugging, in one place for whoever makes caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concmem.mm.debug.fault_injection import FailSlab
    from concmem.mm.debug.kasan import Kasan
    from concmem.mm.debug.slab_debug import SlabDebugOptions
    from concmem.mm.debug.slub_check import SlubCheck
    from concmem.mm.debug.slub_debug import SlubDebug
    from concmem.mm.debug.slub_validate import SlubValidate


class SlabDebugging(NamedTuple):
    """Of one machine."""

    options: SlabDebugOptions
    slub: SlubDebug
    """Allocation and freeing of debug caches."""
    check: SlubCheck
    validate: SlubValidate
    kasan: Kasan | None
    failslab: FailSlab | None
