from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from concmem.mm.slab_flags import (
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_HWCACHE_ALIGN,
    SLAB_NO_MERGE,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.mm.statistics import SlabStatistics
from concmem.reports import slab_sysfs

from .samples import make_machine, make_slab, make_slab_cpu, make_slab_node

LIVE = Path(__file__).parent.parent / "data" / "slab-linux-6.18-2cpus.tsv"

# What a live kernel has in each directory, but for sheaf_capacity, which is newer than 6.12.
LIVE_FILES = """
aliases align cache_dma cpu_partial cpu_slabs ctor destroy_by_rcu hwcache_align min_partial
object_size objects objects_partial objs_per_slab order partial poison reclaim_account red_zone
remote_node_defrag_ratio sanity_checks shrink slab_size slabs slabs_cpu_partial store_user
total_objects trace usersize validate
"""


def read(cache: SlabStatistics, name: str) -> str:
    """The text of one file of a cache."""
    return slab_sysfs.cache_files(cache)[name]()


def live_rows() -> list[dict[str, str]]:
    """Every cache of a live kernel: its directory and the numbers in its files."""
    lines = [line for line in LIVE.read_text().splitlines() if not line.startswith("#")]
    columns = lines[0].split("\t")
    return [dict(zip(columns, line.split("\t"), strict=True)) for line in lines[1:]]


def as_cache(row: dict[str, str]) -> SlabStatistics:
    """The statistics that a live cache would have."""
    letters = row["name"].partition("-")[0] if row["name"].startswith(":") else ""
    flags = {
        SLAB_HWCACHE_ALIGN: row["hwcache_align"] == "1",
        SLAB_RECLAIM_ACCOUNT: row["reclaim_account"] == "1",
        SLAB_TYPESAFE_BY_RCU: row["destroy_by_rcu"] == "1",
        SLAB_ACCOUNT: "A" in letters,
        SLAB_CACHE_DMA: row["name"].startswith("dma-"),
    }
    return make_slab(
        "name_of_its_own" if row["name"].startswith(":") else row["name"],
        flags=sum(flag for flag, is_set in flags.items() if is_set),
        object_size=int(row["object_size"]),
        align=int(row["align"]),
        size=int(row["slab_size"]),
        order=int(row["order"]),
        objs_per_slab=int(row["objs_per_slab"]),
        min_partial=int(row["min_partial"]),
        cpu_partial=int(row["cpu_partial"]),
        usersize=0 if row["name"].startswith(":") else int(row["object_size"]),
    )


def test_directories_and_files_of_a_live_kernel() -> None:
    """The properties of every live cache give that kernel's directory name and its numbers."""
    rows = live_rows()
    assert len(rows) > 70
    for row in rows:
        cache = as_cache(row)
        assert list(slab_sysfs.directories(make_machine(slabs=(cache,)))) == [row["name"]]
        for name in row.keys() - {"name"}:
            assert read(cache, name) == f"{row[name]}\n", (row["name"], name)


def test_every_file_of_the_kernel_is_there() -> None:
    """Besides them there are the events, and nothing else."""
    cache = make_slab("cache", events={"alloc_fastpath": (1,), "free_fastpath": (0,)})
    assert sorted(slab_sysfs.cache_files(cache)) == sorted(
        [*LIVE_FILES.split(), "alloc_fastpath", "free_fastpath"]
    )
    for name in LIVE_FILES.split():
        text = read(cache, name)
        assert text == "" if name in ("ctor", "shrink", "validate") else text[-1] == "\n"


def test_texts_of_a_live_kernel() -> None:
    """``kmalloc-64`` and others as read from sysfs."""
    live = make_slab(
        "kmalloc-64",
        usersize=64,
        nodes=(
            make_slab_node(
                nr_slabs=31,
                total_objects=1984,
                nr_partial=12,
                partial_objects=768,
                partial_inuse=452,
            ),
        ),
        cpus=(
            make_slab_cpu(0, slab_node=0, partial_slabs=1, partial_node=0),
            make_slab_cpu(1, slab_node=0, partial_slabs=1, partial_node=0),
        ),
    )
    assert read(live, "slabs") == "31 N0=31\n"
    assert read(live, "cpu_slabs") == "4 N0=4\n"
    assert read(live, "objects") == "1668 N0=1668\n"
    assert read(live, "objects_partial") == "452 N0=452\n"
    assert read(live, "partial") == "12 N0=12\n"
    assert read(live, "total_objects") == "1984 N0=1984\n"
    assert read(live, "slabs_cpu_partial") == "64(2) C0=32(1) C1=32(1)\n"
    assert read(live, "remote_node_defrag_ratio") == "100\n"
    assert read(live, "usersize") == "64\n"
    assert read(live, "aliases") == "0\n"


def test_nothing_is_said_of_nodes_and_cpus_that_have_nothing() -> None:
    """An empty cache has a lone 0; estimated objects are rounded down, sum and parts each."""
    idle = make_slab("cache", nodes=(make_slab_node(), make_slab_node(node=1)))
    for name in ("slabs", "objects", "objects_partial", "partial", "total_objects", "cpu_slabs"):
        assert read(idle, name) == "0\n"
    assert read(idle, "slabs_cpu_partial") == "0(0)\n"
    odd = idle._replace(
        objs_per_slab=21,
        cpus=(
            make_slab_cpu(0, partial_slabs=3, partial_node=0),
            make_slab_cpu(1),
            make_slab_cpu(2, partial_slabs=3, partial_node=0),
        ),
    )
    assert read(odd, "slabs_cpu_partial") == "63(6) C0=31(3) C2=31(3)\n"


def test_counts_by_node() -> None:
    """Nodes in order; empty slabs on their own list are partial slabs for SLUB."""
    cache = make_slab(
        "cache",
        nodes=(
            make_slab_node(
                nr_slabs=9,
                total_objects=576,
                nr_partial=2,
                nr_free=3,
                nr_full=1,
                partial_objects=320,
                partial_inuse=20,
            ),
            make_slab_node(node=1),
            make_slab_node(node=2, nr_slabs=1, total_objects=64),
        ),
        cpus=(
            make_slab_cpu(0, slab_node=2, partial_slabs=2, partial_node=0),
            make_slab_cpu(1, partial_slabs=1, partial_node=0),
        ),
    )
    assert read(cache, "slabs") == "10 N0=9 N2=1\n"
    assert read(cache, "partial") == "5 N0=5\n"
    assert read(cache, "objects") == "340 N0=276 N2=64\n"
    assert read(cache, "cpu_slabs") == "4 N0=3 N2=1\n"


def test_events_name_only_cpus_that_saw_them() -> None:
    """The total, then one number for each such CPU."""
    cache = make_slab("cache", events={"alloc_slab": (3, 0, 4), "order_fallback": (0, 0, 0)})
    assert read(cache, "alloc_slab") == "7 C0=3 C2=4\n"
    assert read(cache, "order_fallback") == "0\n"


def test_constructor_by_name() -> None:
    """A name and a newline, or nothing."""
    assert read(make_slab("cache", ctor="init_once"), "ctor") == "init_once\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, ":0000064"),
        (SLAB_HWCACHE_ALIGN, ":0000064"),
        (SLAB_CACHE_DMA, ":d-0000064"),
        (SLAB_CACHE_DMA32, ":D-0000064"),
        (SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, ":aA-0000064"),
    ],
)
def test_id_of_a_cache_that_can_be_merged(flags: int, expected: str) -> None:
    """A colon, a letter for each flag that must be equal, and the size."""
    assert slab_sysfs.unique_id(make_slab("cache", flags=flags)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": SLAB_TYPESAFE_BY_RCU},
        {"flags": SLAB_NO_MERGE},
        {"ctor": "init_once"},
        {"usersize": 64},
        {"refcount": -1},
    ],
)
def test_a_cache_that_cannot_be_merged_has_its_own_name(fields: dict[str, Any]) -> None:
    """And nothing links to it."""
    stats = make_machine(slabs=(make_slab("cache", **fields),))
    assert list(slab_sysfs.directories(stats)) == ["cache"]
    assert slab_sysfs.links(stats) == {}
    assert read(stats.slabs[0], "aliases") == "0\n"


def test_real_names_are_links() -> None:
    """The name of the cache itself and those of its aliases lead to the id."""
    merged = make_slab("eventpoll_pwq", aliases=("pid", "cred"), refcount=3)
    stats = make_machine(slabs=(make_slab("other", size=128), merged))
    assert slab_sysfs.links(stats) == {
        "other": ":0000128",
        **dict.fromkeys(("eventpoll_pwq", "pid", "cred"), ":0000064"),
    }
    assert read(merged, "aliases") == "2\n"
    assert list(slab_sysfs.directories(stats)) == [":0000064", ":0000128"]


def test_one_id_for_one_cache() -> None:
    """Of two caches that were not merged although they could have been, the older has the id."""
    stats = make_machine(slabs=(make_slab("newer"), make_slab("older")))
    assert {name: cache.name for name, cache in slab_sysfs.directories(stats).items()} == {
        ":0000064": "older",
        "newer": "newer",
    }
    assert slab_sysfs.links(stats) == {"older": ":0000064"}


@pytest.mark.parametrize(("name", "expected"), [("a/../b", "a!..!b"), ("..", "!!"), ("a.b", "a.b")])
def test_names_cannot_leave_the_directory(name: str, expected: str) -> None:
    """Slashes become exclamation marks, as in sysfs."""
    cache = make_slab(name, usersize=64)
    assert list(slab_sysfs.directories(make_machine(slabs=(cache,)))) == [expected]
