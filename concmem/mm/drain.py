"""Emptying the page sets of all CPUs (``drain_all_pages``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concmem.mm.vmstat import VmEvents
    from concmem.mm.zone import Zone
    from concmem.runtime.api import Runtime


class Drain:
    """
    Each CPU empties its own sets, as an interrupt: nobody else touches them.

    Locks:
        pcpu_drain_mutex    one drain at a time
    """

    def __init__(self, rt: Runtime, zones: Sequence[Zone], events: VmEvents) -> None:
        self._rt = rt
        self._zones = zones
        self._events = events
        self._mutex = rt.mutex("pcpu_drain_mutex")

    def drain_all_pages(self, force: bool = False) -> None:
        """
        Empty the page sets of every CPU. May sleep; the caller has interrupts enabled.

        Args:
            force: also those that look empty, since one that is being filled does. For who has set all limits
                to 0, and relies on the sets being empty from now on (``zone_pcp_disable``).
        """
        self._mutex.acquire()
        self._drain_and_unlock(force)

    def try_drain_all_pages(self) -> None:
        """The same, unless somebody is at it already: for reclaim, which only hopes."""
        if self._mutex.trylock():
            self._drain_and_unlock(force=False)

    def _drain_and_unlock(self, force: bool) -> None:
        try:
            pending = list(range(self._rt.nr_cpus))
            while pending:
                # A CPU that was interrupted in the middle of a page set is asked again: it goes
                # on between two requests.
                pending = [cpu for cpu in pending if not self._drain_cpu(cpu, force)]
                if pending:
                    self._rt.cpu_relax()
        finally:
            self._mutex.release()

    def _drain_cpu(self, cpu: int, force: bool) -> bool:
        # No lock: an empty set may fill again at any time, also right after a drain.
        if not force and not any(zone.pageset.of(cpu).count for zone in self._zones):
            return True
        drained: bool = self._rt.call_on(cpu, self._drain_local)
        return drained

    def _drain_local(self) -> bool:
        """On the CPU: false when the interrupted operation is in the middle of a page set."""
        self._events.count("drain_all_pages")
        return all([zone.pageset.this().drain() for zone in self._zones])
