"""Parameters of malloc and what `mallopt` may change (``struct malloc_par``, ``mp_``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.user.chunk import MAX_FAST, MINSIZE, SIZE_SZ

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

M_MXFAST: Final = 1
M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3
M_MMAP_MAX: Final = -4
M_ARENA_TEST: Final = -7
M_ARENA_MAX: Final = -8

DEFAULT_MMAP_THRESHOLD: Final = 128 << 10
"""Bytes of a chunk from which on it gets a mapping of its own."""

DEFAULT_MMAP_THRESHOLD_MAX: Final = 32 << 20
"""The dynamic threshold grows no further than this."""

DEFAULT_TOP_PAD: Final = 128 << 10
"""Bytes asked for beyond what is needed, whenever a heap grows."""

DEFAULT_MMAP_MAX: Final = 65536

HEAP_MAX_SIZE: Final = 2 * DEFAULT_MMAP_THRESHOLD_MAX
"""Bytes of the address range of one mmapped heap, and its alignment: 64 MiB."""

HEAP_MIN_SIZE: Final = 32 << 10

MAX_FAST_REQUEST: Final = 160
"""The largest value of M_MXFAST."""

_INT_MAX: Final = (1 << 31) - 1


class MallocParams:
    """
    ``mp_``. Read everywhere without a lock.

    Thresholds are cells: any CPU may store them in a free (`set_dynamic_threshold`), or by mallopt, while
    others read. That is a race, and harmless: whichever value is read, old or new, only decides between
    two places that both serve the request, and a chunk says itself (M) where it came from.
    """

    def __init__(self, rt: Runtime) -> None:
        self.mmap_threshold = rt.cell(DEFAULT_MMAP_THRESHOLD, "mp_.mmap_threshold")
        self.trim_threshold = rt.cell(DEFAULT_MMAP_THRESHOLD, "mp_.trim_threshold")
        self.no_dyn_threshold = rt.cell(False, "mp_.no_dyn_threshold")
        self.top_pad = rt.cell(DEFAULT_TOP_PAD, "mp_.top_pad")
        self.n_mmaps_max = rt.cell(DEFAULT_MMAP_MAX, "mp_.n_mmaps_max")
        self.max_fast = rt.cell(MAX_FAST, "global_max_fast")
        self.arena_test = rt.cell(8, "mp_.arena_test")
        self.arena_max = rt.cell(0, "mp_.arena_max")
        self.n_mmaps = rt.atomic(0, "mp_.n_mmaps")
        """Chunks with a mapping of their own."""
        self.mmapped_mem = rt.atomic(0, "mp_.mmapped_mem")
        """Bytes in them."""

    def set_dynamic_threshold(self, size: int) -> None:
        """
        A mapped chunk of *size* bytes is freed: from now on such ones come from the heap.

        Programs often free and allocate the same size again, and a mapping is expensive.
        """
        # No lock: see the class. Two CPUs may store the halves of two different frees.
        if self.no_dyn_threshold.value:
            return
        if self.mmap_threshold.value < size <= DEFAULT_MMAP_THRESHOLD_MAX:
            self.mmap_threshold.value = size
            self.trim_threshold.value = 2 * size

    def mallopt(self, param: int, value: int) -> bool:
        """
        Set ``M_...`` *param*; whether that was possible, as the C function says.

        Setting one of the four thresholds switches the dynamic threshold off.
        """
        for name, each in (("param", param), ("value", value)):
            if isinstance(each, bool) or not isinstance(each, int):
                raise BadArgumentType(f"{name}: expected a whole number, got {each!r}")
        if not -_INT_MAX - 1 <= value <= _INT_MAX:
            raise BadArgument(f"value: must fit into 32 bits, got {value}")
        if param == M_MXFAST:
            if not 0 <= value <= MAX_FAST_REQUEST:
                return False
            self.max_fast.value = (value + SIZE_SZ) & ~15 if value else MINSIZE // 2
            return True
        if param in (M_ARENA_TEST, M_ARENA_MAX):
            if value <= 0:
                return False
            cell = self.arena_test if param == M_ARENA_TEST else self.arena_max
            cell.value = value
            return True
        return self._set_threshold(param, value)

    def _set_threshold(self, param: int, value: int) -> bool:
        cells = {
            M_TRIM_THRESHOLD: self.trim_threshold,
            M_TOP_PAD: self.top_pad,
            M_MMAP_THRESHOLD: self.mmap_threshold,
            M_MMAP_MAX: self.n_mmaps_max,
        }
        if param not in cells:
            return True  # the C function ignores what it does not know
        if param == M_MMAP_THRESHOLD and not 0 <= value <= HEAP_MAX_SIZE // 2:
            return False
        # As size_t: -1 is "never". A count of mappings is an int.
        cells[param].value = value if value >= 0 or param == M_MMAP_MAX else value + (1 << 64)
        self.no_dyn_threshold.value = True
        return True
