"""What a machine is made of: checked once, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from concmem.errors import BadArgument, BadArgumentType
from concmem.units import (
    MAX_NR_CPUS,
    MAX_PAGE_ORDER,
    PAGE_SIZE,
    PAGEBLOCK_NR_PAGES,
    VMALLOC_SIZE,
    format_size,
    parse_size,
)

PAGEBLOCK_SIZE = PAGEBLOCK_NR_PAGES * PAGE_SIZE


@dataclass(frozen=True)
class MachineConfig:
    """All parameters of :class:`concmem.Machine`, in bytes and numbers."""

    cpus: int = 4
    memory: int = 256 << 20
    nodes: int = 1
    cma: int = 0
    vmalloc_size: int = VMALLOC_SIZE
    min_free_kbytes: int | None = None
    pagesets: bool = True
    slab_merge: bool = True
    freelist_random: bool = False
    freelist_hardened: bool = False
    slab_debug: str | bool | None = None
    page_poison: bool = False
    page_owner: bool = False
    kasan: bool | str = False
    failslab: bool | str = False
    fail_page_alloc: bool | str = False
    kmemleak: bool = False
    classes: Mapping[type, type] = field(default_factory=dict)

    @classmethod
    def check(
        cls,
        *,
        cpus: object,
        memory: int | str,
        nodes: object,
        cma: int | str,
        vmalloc_size: int | str = VMALLOC_SIZE,
        min_free_kbytes: object,
        pagesets: bool,
        classes: Mapping[type, type] | None,
        slab_merge: bool = True,
        freelist_random: bool = False,
        freelist_hardened: bool = False,
        slab_debug: str | bool | None = None,
        page_poison: bool = False,
        page_owner: bool = False,
        kasan: bool | str = False,
        failslab: bool | str = False,
        fail_page_alloc: bool | str = False,
        kmemleak: object = False,
    ) -> MachineConfig:
        """
        The checked configuration; what is for debugging is checked by what it is for, at boot.

        Raises:
            BadArgument: something cannot be; the message starts with the parameter's name.
        """
        config = cls(
            cpus=_whole_number("cpus", cpus, 1, MAX_NR_CPUS),
            memory=parse_size(memory, "memory"),
            nodes=_whole_number("nodes", nodes, 1, 64),
            cma=parse_size(cma, "cma"),
            vmalloc_size=parse_size(vmalloc_size, "vmalloc_size"),
            min_free_kbytes=None
            if min_free_kbytes is None
            else _whole_number("min_free_kbytes", min_free_kbytes, 1, 1 << 40),
            pagesets=pagesets,
            slab_merge=slab_merge,
            freelist_random=freelist_random,
            freelist_hardened=freelist_hardened,
            slab_debug=slab_debug,
            page_poison=page_poison,
            page_owner=page_owner,
            kasan=kasan,
            failslab=failslab,
            fail_page_alloc=fail_page_alloc,
            kmemleak=_flag("kmemleak", kmemleak),
            classes=classes or {},
        )
        config._check_memory()
        for base, replacement in config.classes.items():
            if not isinstance(base, type):
                raise BadArgumentType(f"classes: expected classes as keys, got {base!r}")
            if not (isinstance(replacement, type) and issubclass(replacement, base)):
                raise BadArgument(f"classes: {replacement!r} is no subclass of {base.__name__}")
        return config

    def _check_memory(self) -> None:
        if self.memory % PAGE_SIZE:
            raise BadArgument(f"memory: must be a multiple of {PAGE_SIZE}, got {self.memory}")
        # Nodes begin at a block of the largest order, so that no block is in two of them.
        smallest = PAGEBLOCK_SIZE if self.nodes == 1 else PAGE_SIZE << MAX_PAGE_ORDER
        if self.memory < smallest * self.nodes:
            raise BadArgument(
                f"memory: needs at least {format_size(smallest)} for each of {self.nodes} "
                f"node(s), got {format_size(self.memory)}"
            )
        if self.memory > 1 << 46:
            raise BadArgument(f"memory: at most 64T, got {format_size(self.memory)}")
        if self.min_free_kbytes is not None and self.min_free_kbytes * 1024 > self.memory // 2:
            raise BadArgument(
                f"min_free_kbytes: {self.min_free_kbytes} is more than half of memory"
            )
        if self.vmalloc_size % PAGE_SIZE or not 1 << 20 <= self.vmalloc_size <= VMALLOC_SIZE:
            raise BadArgument(
                f"vmalloc_size: must be whole pages, 1M to {format_size(VMALLOC_SIZE)}, "
                f"got {self.vmalloc_size}"
            )
        if self.cma % PAGEBLOCK_SIZE:
            raise BadArgument(
                f"cma: must be a multiple of {format_size(PAGEBLOCK_SIZE)}, got {self.cma}"
            )


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadArgumentType(f"{name}: expected True or False, got {value!r}")
    return value


def _whole_number(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    if not low <= value <= high:
        raise BadArgument(f"{name}: must be {low} to {high}, got {value}")
    return value
