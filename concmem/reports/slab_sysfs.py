"""
``/sys/kernel/slab``: a directory for each cache, with the files of Linux 6.12 with CONFIG_SLUB_STATS.

A cache that others may be merged into has an id for its directory, such as ``:A-0000064``, and
its own name and those of its aliases are links to it. One that cannot be merged has its own name.

Empty slabs are on a list of their own in the model and on the partial list in SLUB; the files count
them as partial. ``ctor`` is a name without an address. ``shrink`` and ``validate`` are for writing
only, so their text is empty; nothing can be written here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from concmem.mm.slab_flags import (
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_HWCACHE_ALIGN,
    SLAB_NEVER_MERGE,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
    SLAB_TYPESAFE_BY_RCU,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from concmem.mm.statistics import MachineStatistics, SlabNodeStatistics, SlabStatistics

_ID_LETTERS: Final = (
    (SLAB_CACHE_DMA, "d"),
    (SLAB_CACHE_DMA32, "D"),
    (SLAB_RECLAIM_ACCOUNT, "a"),
    (SLAB_ACCOUNT, "A"),
)

# -- which directories


def unmergeable(cache: SlabStatistics) -> bool:
    """
    Whether no other cache may share *cache* (``slab_unmergeable``).

    So it is for a cache with a constructor, or with bytes that user space may be copied to, which
    all ``kmalloc`` caches have, and for the caches of boot, whose refcount is below 0.
    """
    return bool(
        cache.flags & SLAB_NEVER_MERGE or cache.ctor or cache.usersize or cache.refcount < 0
    )


def unique_id(cache: SlabStatistics) -> str:
    """What caches have in common that may be merged: flags and size (``create_unique_id``)."""
    letters = "".join(letter for flag, letter in _ID_LETTERS if cache.flags & flag)
    return f":{letters}{'-' if letters else ''}{cache.size:07d}"


def directories(stats: MachineStatistics) -> dict[str, SlabStatistics]:
    """
    Directory and cache, oldest cache first.

    Of caches that could have been merged and were not, the oldest has the id.
    """
    found: dict[str, SlabStatistics] = {}
    for cache in reversed(stats.slabs):
        name = _file_name(cache.name)
        if not unmergeable(cache) and unique_id(cache) not in found:
            name = unique_id(cache)
        found[name] = cache
    return found


def links(stats: MachineStatistics) -> dict[str, str]:
    """Link and the directory that it leads to, both in ``/sys/kernel/slab``."""
    found = directories(stats)
    return {
        link: directory
        for directory, cache in found.items()
        for link in map(_file_name, (cache.name, *cache.aliases))
        if link not in found
    }


def cache_files(cache: SlabStatistics) -> dict[str, Callable[[], str]]:
    """The files of one directory."""
    return {
        **{name: partial(show, cache) for name, show in ATTRIBUTES.items()},
        **{name: partial(_event, by_cpu) for name, by_cpu in cache.events.items()},
    }


def _file_name(name: str) -> str:
    """*name* as a file may be called: sysfs has ``!`` for a slash, and here no name is all dots."""
    return name.replace("/", "!") if name.strip(".") else name.replace(".", "!")


# -- what is in the files


def _number(value: int) -> str:
    return f"{value}\n"


def _flag(flag: int) -> Callable[[SlabStatistics], str]:
    return lambda cache: _number(int(bool(cache.flags & flag)))


def _by_node(counts: Iterable[tuple[int, int]]) -> str:
    """The sum, and what each node has if it has any (``show_slab_objects``)."""
    nodes: dict[int, int] = {}
    for node, count in counts:
        nodes[node] = nodes.get(node, 0) + count
    parts = (f" N{node}={count}" for node, count in sorted(nodes.items()) if count)
    return f"{sum(nodes.values())}{''.join(parts)}\n"


def _nodes(count: Callable[[SlabNodeStatistics], int]) -> Callable[[SlabStatistics], str]:
    return lambda cache: _by_node((node.node, count(node)) for node in cache.nodes)


def _used_objects(node: SlabNodeStatistics) -> int:
    return node.total_objects - (node.partial_objects - node.partial_inuse)


def _cpu_slabs(cache: SlabStatistics) -> str:
    """Slabs that CPUs have; a CPU's partial slabs all count for the node of the first of them."""
    own = [(cpu.slab_node, 1) for cpu in cache.cpus if cpu.slab_node >= 0]
    waiting = [(cpu.partial_node, cpu.partial_slabs) for cpu in cache.cpus if cpu.partial_node >= 0]
    return _by_node(own + waiting)


def _slabs_cpu_partial(cache: SlabStatistics) -> str:
    """Objects and slabs on CPU partial lists. Nobody counts the objects: half of them are free."""
    slabs = {cpu.cpu: cpu.partial_slabs for cpu in cache.cpus if cpu.partial_slabs}
    parts = [f" C{cpu}={n * cache.objs_per_slab // 2}({n})" for cpu, n in slabs.items()]
    total = sum(slabs.values())
    return f"{total * cache.objs_per_slab // 2}({total}){''.join(parts)}\n"


def _event(by_cpu: tuple[int, ...]) -> str:
    """How often, and on which CPU if ever (``show_stat``)."""
    parts = (f" C{cpu}={times}" for cpu, times in enumerate(by_cpu) if times)
    return f"{sum(by_cpu)}{''.join(parts)}\n"


ATTRIBUTES: Final[dict[str, Callable[[SlabStatistics], str]]] = {
    "aliases": lambda cache: _number(max(0, cache.refcount - 1)),
    "align": lambda cache: _number(cache.align),
    "cache_dma": _flag(SLAB_CACHE_DMA),
    "cpu_partial": lambda cache: _number(cache.cpu_partial),
    "cpu_slabs": _cpu_slabs,
    "ctor": lambda cache: f"{cache.ctor}\n" if cache.ctor else "",
    "destroy_by_rcu": _flag(SLAB_TYPESAFE_BY_RCU),
    "hwcache_align": _flag(SLAB_HWCACHE_ALIGN),
    "min_partial": lambda cache: _number(cache.min_partial),
    "object_size": lambda cache: _number(cache.object_size),
    "objects": _nodes(_used_objects),
    "objects_partial": _nodes(lambda node: node.partial_inuse),
    "objs_per_slab": lambda cache: _number(cache.objs_per_slab),
    "order": lambda cache: _number(cache.order),
    "partial": _nodes(lambda node: node.nr_partial + node.nr_free),
    "poison": _flag(SLAB_POISON),
    "reclaim_account": _flag(SLAB_RECLAIM_ACCOUNT),
    "red_zone": _flag(SLAB_RED_ZONE),
    "remote_node_defrag_ratio": lambda cache: _number(100),
    "sanity_checks": _flag(SLAB_CONSISTENCY_CHECKS),
    "shrink": lambda cache: "",
    "slab_size": lambda cache: _number(cache.size),
    "slabs": _nodes(lambda node: node.nr_slabs),
    "slabs_cpu_partial": _slabs_cpu_partial,
    "store_user": _flag(SLAB_STORE_USER),
    "total_objects": _nodes(lambda node: node.total_objects),
    "trace": _flag(SLAB_TRACE),
    "usersize": lambda cache: _number(cache.usersize),
    "validate": lambda cache: "",
}
"""The files that every cache has, and what makes their text; besides them one for each event."""
