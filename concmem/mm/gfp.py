"""
GFP flags: how an allocation may behave and where it may come from.

Plain integers with the bit values of Linux 6.12 (``include/linux/gfp_types.h``); text in both
directions as ``%pGg`` prints them.
"""

from __future__ import annotations

from typing import Final

from concmem.errors import BadArgument, BadArgumentType

GfpFlags = int

GFP_DMA: Final = 0x01
GFP_HIGHMEM_BIT: Final = 0x02
GFP_DMA32: Final = 0x04
MOVABLE: Final = 0x08
RECLAIMABLE: Final = 0x10
HIGH: Final = 0x20
IO: Final = 0x40
FS: Final = 0x80
ZERO: Final = 0x100
DIRECT_RECLAIM: Final = 0x400
KSWAPD_RECLAIM: Final = 0x800
WRITE: Final = 0x1000
NOWARN: Final = 0x2000
RETRY_MAYFAIL: Final = 0x4000
NOFAIL: Final = 0x8000
NORETRY: Final = 0x10000
MEMALLOC: Final = 0x20000
COMP: Final = 0x40000
NOMEMALLOC: Final = 0x80000
HARDWALL: Final = 0x100000
THISNODE: Final = 0x200000
ACCOUNT: Final = 0x400000
ZEROTAGS: Final = 0x800000

RECLAIM: Final = 0xC00  # DIRECT_RECLAIM | KSWAPD_RECLAIM

# Written as literals: constants of the code, unlike computed integers, cost a free-threaded
# interpreter no shared reference count.
GFP_NOWAIT: Final = 0x2800  # KSWAPD_RECLAIM | NOWARN
GFP_ATOMIC: Final = 0x820  # HIGH | KSWAPD_RECLAIM
GFP_NOIO: Final = 0xC00  # RECLAIM
GFP_NOFS: Final = 0xC40  # RECLAIM | IO
GFP_KERNEL: Final = 0xCC0  # RECLAIM | IO | FS
GFP_KERNEL_ACCOUNT: Final = 0x400CC0
GFP_USER: Final = 0x100CC0  # GFP_KERNEL | HARDWALL
GFP_HIGHUSER: Final = 0x100CC2
GFP_HIGHUSER_MOVABLE: Final = 0x100CCA
GFP_TRANSHUGE_LIGHT: Final = 0x1C20CA  # (HIGHUSER_MOVABLE | COMP | NOMEMALLOC | NOWARN) & ~RECLAIM
GFP_TRANSHUGE: Final = 0x1C24CA  # GFP_TRANSHUGE_LIGHT | DIRECT_RECLAIM

ALL_FLAGS: Final = 0xFFFDFF

# The order of the kernel's gfpflag_names: the largest combinations first, then by bit.
# Since Linux kernel commit 772dd0342727 ("mm: enumerate all gfp flags") (in v6.10).
_NAMES: Final = (
    ("GFP_TRANSHUGE", GFP_TRANSHUGE),
    ("GFP_TRANSHUGE_LIGHT", GFP_TRANSHUGE_LIGHT),
    ("GFP_HIGHUSER_MOVABLE", GFP_HIGHUSER_MOVABLE),
    ("GFP_HIGHUSER", GFP_HIGHUSER),
    ("GFP_USER", GFP_USER),
    ("GFP_KERNEL_ACCOUNT", GFP_KERNEL_ACCOUNT),
    ("GFP_KERNEL", GFP_KERNEL),
    ("GFP_NOFS", GFP_NOFS),
    ("GFP_ATOMIC", GFP_ATOMIC),
    ("GFP_NOIO", GFP_NOIO),
    ("GFP_NOWAIT", GFP_NOWAIT),
    ("GFP_DMA", GFP_DMA),
    ("GFP_DMA32", GFP_DMA32),
    ("__GFP_RECLAIM", RECLAIM),
    ("__GFP_HIGHMEM", GFP_HIGHMEM_BIT),
    ("__GFP_MOVABLE", MOVABLE),
    ("__GFP_RECLAIMABLE", RECLAIMABLE),
    ("__GFP_HIGH", HIGH),
    ("__GFP_IO", IO),
    ("__GFP_FS", FS),
    ("__GFP_ZERO", ZERO),
    ("__GFP_DIRECT_RECLAIM", DIRECT_RECLAIM),
    ("__GFP_KSWAPD_RECLAIM", KSWAPD_RECLAIM),
    ("__GFP_WRITE", WRITE),
    ("__GFP_NOWARN", NOWARN),
    ("__GFP_RETRY_MAYFAIL", RETRY_MAYFAIL),
    ("__GFP_NOFAIL", NOFAIL),
    ("__GFP_NORETRY", NORETRY),
    ("__GFP_MEMALLOC", MEMALLOC),
    ("__GFP_COMP", COMP),
    ("__GFP_NOMEMALLOC", NOMEMALLOC),
    ("__GFP_HARDWALL", HARDWALL),
    ("__GFP_THISNODE", THISNODE),
    ("__GFP_ACCOUNT", ACCOUNT),
    ("__GFP_ZEROTAGS", ZEROTAGS),
)
_VALUES: Final = {
    **dict(_NAMES),
    "__GFP_DMA": GFP_DMA,
    "__GFP_DMA32": GFP_DMA32,
    "none": 0,
}


def show_gfp_flags(gfp: GfpFlags) -> str:
    """The names as the kernel prints them, such as ``GFP_KERNEL|__GFP_ZERO``."""
    names = []
    for name, bits in _NAMES:
        if gfp & bits == bits:
            names.append(name)
            gfp &= ~bits
    if gfp:
        names.append(f"{gfp:#x}")
    return "|".join(names) or "none"


def parse_gfp_flags(text: str) -> GfpFlags:
    """
    The flags of a trace or a command line: names or numbers joined by ``|``.

    Raises:
        BadArgument: a name that no flag has.
    """
    gfp = 0
    for name in text.split("|"):
        name = name.strip()
        if name in _VALUES:
            gfp |= _VALUES[name]
            continue
        try:
            gfp |= int(name, 0)
        except ValueError:
            raise BadArgument(f"gfp: there is no flag {name!r}") from None
    return gfp


def check_gfp(gfp: object) -> None:
    """Raise `BadArgument` unless *gfp* is a combination of GFP flags."""
    if isinstance(gfp, bool) or not isinstance(gfp, int):
        raise BadArgumentType(f"gfp: expected GFP flags, got {gfp!r}")
    if gfp & ~ALL_FLAGS:
        raise BadArgument(f"gfp: {gfp:#x} has bits that are no GFP flag")
    if gfp & (MOVABLE | RECLAIMABLE) == MOVABLE | RECLAIMABLE:
        raise BadArgument("gfp: __GFP_MOVABLE and __GFP_RECLAIMABLE exclude each other")
