"""
What a machine has for debugging: its parts, made early at boot, since pages and caches are made with them.

Nothing is here for who does not ask for it: page hooks, shadow memory and fault injection are ``None`` then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.debug.checked_memory import CheckedMemory
from concmem.mm.debug.fault_attr import parse_fault_attr
from concmem.mm.debug.fault_injection import FailPageAlloc, FailSlab, FaultInjection
from concmem.mm.debug.kasan import Kasan
from concmem.mm.debug.page_debug import PageDebug
from concmem.mm.debug.page_owner import PageOwner
from concmem.mm.debug.page_poison import PagePoison
from concmem.mm.debug.page_report import PageReporter
from concmem.mm.debug.report import DebugReports
from concmem.mm.debug.slab_debug import SlabDebugOptions, parse_slab_debug
from concmem.mm.debug.stack_depot import StackDepot

if TYPE_CHECKING:
    from collections.abc import Callable

    from concmem.mm.log import KernelLog
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime

T = TypeVar("T", FailSlab, FailPageAlloc)


class DebugConfig(NamedTuple):
    """What is wanted; see :class:`concmem.Machine`."""

    slab_debug: str | bool | None = None
    page_poison: bool = False
    page_owner: bool = False
    kasan: bool | str = False
    failslab: bool | str = False
    fail_page_alloc: bool | str = False

    def check(self) -> None:
        """Raise `BadArgument`, with the parameter's name, if something cannot be."""
        parse_slab_debug(self.slab_debug)
        for name in ("page_poison", "page_owner"):
            if not isinstance(getattr(self, name), bool):
                raise BadArgumentType(
                    f"{name}: expected True or False, got {getattr(self, name)!r}"
                )
        if self.kasan not in (False, True, "report", "panic"):
            raise BadArgument(
                f"kasan: expected True, False, 'report' or 'panic', got {self.kasan!r}"
            )
        for name in ("failslab", "fail_page_alloc"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                parse_fault_attr(name, value)


class Debugging:
    """Of one machine."""

    def __init__(
        self,
        rt: Runtime,
        config: DebugConfig,
        memory: Memory,
        mem_map: MemMap,
        events: VmEvents,
        log: KernelLog,
        poison_class: type[PagePoison],
    ) -> None:
        config.check()
        self.slab_debug: SlabDebugOptions = parse_slab_debug(config.slab_debug)
        self.reports = reports = DebugReports(rt, log)
        self.depot = StackDepot()
        self.page_owner = PageOwner(rt, mem_map, self.depot) if config.page_owner else None
        page_reporter = PageReporter(reports, self.page_owner)
        self.page_poison = (
            poison_class(rt, memory, mem_map, events, page_reporter) if config.page_poison else None
        )

        def fault_attr(cls: Callable[..., T], value: bool | str) -> T | None:
            if value is False:
                return None
            attr = cls(rt, events, reports)
            if isinstance(value, str):
                attr.setup(value)
            return attr

        self.failslab = fault_attr(FailSlab, config.failslab)
        fail_page_alloc = fault_attr(FailPageAlloc, config.fail_page_alloc)
        self.fail = FaultInjection(self.failslab, fail_page_alloc)
        self.kasan: Kasan | None = None
        self.memory = memory
        """Memory as its users see it."""
        if config.kasan:
            raises = config.kasan != "report"
            self.kasan = Kasan(rt, memory, mem_map, self.depot, reports, page_reporter, raises)
            self.memory = CheckedMemory(memory, self.kasan)
        parts = self.page_poison, self.page_owner, self.kasan, fail_page_alloc
        self.pages = PageDebug(memory, page_reporter, *parts) if parts != (None,) * 4 else None

    @property
    def finds_accesses(self) -> bool:
        """Whether anything is on that finds bytes which were used wrongly."""
        off = SlabDebugOptions()
        return self.slab_debug != off or bool(self.page_poison or self.kasan)

    def verify(self) -> None:
        """
        Look at free pages, then raise what has been found so far. The caller has parked all CPUs.

        Raises:
            MemoryCorruption: somebody has written where nobody may.
        """
        if self.page_poison is not None:
            self.page_poison.verify()
        self.reports.raise_new()
