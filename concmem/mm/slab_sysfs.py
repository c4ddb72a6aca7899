"""
The directories of caches in ``/sys/kernel/slab``: which caches have one, and who is told.

Late in the boot sysfs is there; caches that were made before get their directories then. A cache that is
destroyed drops its directory when nobody can find it any more, if it has one: whether that is so must be
asked while slab_mutex is held. (What is in a directory: :mod:`concmem.reports.slab_sysfs`.)

Follows ``sysfs_slab_add``, ``sysfs_slab_release`` and ``slab_sysfs_init`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from concmem.errors import KernelBug

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.runtime.api import Runtime


class SlabSysfs:
    """The directories of all caches of a machine."""

    def __init__(self, rt: Runtime) -> None:
        self._is_up = rt.cell(False, "slab_state")
        # slab_mutex, but for removal by who owns the cache alone
        self._kobjects: set[KmemCache] = set()
        # no lock
        self.uevent_helper: Callable[[str], None] | None = None
        """User space, told the name of each new cache by its creator; may sleep and make caches."""

    @property
    def is_up(self) -> bool:
        """Whether new caches get directories (``slab_state == FULL``). Changes under slab_mutex."""
        return self._is_up.value

    def init(self, caches: Iterable[KmemCache]) -> None:
        """Sysfs is there, and *caches* are all there are (``slab_sysfs_init``). Caller holds slab_mutex."""
        self._is_up.value = True
        self._kobjects.update(caches)

    def add(self, s: KmemCache) -> None:
        """A new cache. Caller holds slab_mutex."""
        if self.is_up:
            self._kobjects.add(s)

    def uevent(self, name: str) -> None:
        """Tell user space of a new cache, and wait for it. The caller holds no lock."""
        if self.uevent_helper is not None:
            self.uevent_helper(name)

    def release(self, s: KmemCache) -> None:
        """
        Drop the directory of a cache that nobody finds any more (``sysfs_slab_release``).

        Raises:
            KernelBug: it never had one.
        """
        try:
            self._kobjects.remove(s)
        except KeyError:
            raise KernelBug(
                f"kobject: '{s.name}': is not initialized, yet kobject_put() is being called."
            ) from None
