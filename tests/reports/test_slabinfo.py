from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.errors import BadArgument
from concmem.reports import slabinfo

from .samples import make_machine, make_slab, make_slab_node

LIVE_LINES = """\
kmalloc-64          2878   3712     64   64    1 : tunables    0    0    0 : slabdata     58     58      0
task_struct          124    135   5824    5    8 : tunables    0    0    0 : slabdata     27     27      0
"""

TITLE = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
"""

KMALLOC_64 = make_slab(
    "kmalloc-64",
    nodes=(
        make_slab_node(
            nr_slabs=58, total_objects=3712, nr_partial=20, partial_objects=1280, partial_inuse=446
        ),
    ),
)
TASK_STRUCT = make_slab(
    "task_struct",
    size=5824,
    order=3,
    nodes=(
        make_slab_node(
            nr_slabs=27, total_objects=135, nr_partial=4, partial_objects=20, partial_inuse=9
        ),
    ),
)


def fields(text: str) -> list[list[str]]:
    """The three parts of each cache's line, as a program finds them that splits at colons."""
    lines = text.splitlines()
    assert lines[0] == "slabinfo - version: 2.1"
    assert lines[1].startswith("# name")
    found = []
    for line in lines[2:]:
        numbers, tunables, slabdata = line.split(" : ")
        assert tunables.split() == ["tunables", "0", "0", "0"]
        words = slabdata.split()
        assert words[0] == "slabdata"
        assert words[3] == "0"
        found.append([*numbers.split(), *words[1:3]])
    return found


def test_lines_of_a_live_kernel() -> None:
    """The numbers of two live caches give that kernel's lines, below the kernel's title."""
    stats = make_machine(slabs=(KMALLOC_64, TASK_STRUCT))
    assert slabinfo.render(stats) == TITLE + LIVE_LINES


def test_no_cache() -> None:
    """Only the title."""
    assert slabinfo.render(make_machine()) == TITLE


def test_what_is_free_on_cpus_counts_as_active() -> None:
    """Only free objects in slabs on the lists of nodes are not active, on all nodes together."""
    nodes = (
        make_slab_node(nr_slabs=4, total_objects=256, free_objects=200),
        make_slab_node(
            node=1,
            nr_slabs=3,
            total_objects=192,
            free_objects=100,
            nr_partial=1,
            nr_free=1,
            partial_objects=128,
            partial_inuse=28,
        ),
    )
    (row,) = slabinfo.rows(make_machine(slabs=(make_slab("cache", nodes=nodes),)))
    assert (row.active_objs, row.num_objs) == (448 - 100, 448)
    assert (row.active_slabs, row.num_slabs) == (7, 7)


@pytest.mark.parametrize(("partial", "inuse", "active"), [(128, 0, 0), (0, 9, 64)])
def test_counters_of_different_moments(partial: int, inuse: int, active: int) -> None:
    """Objects are never less active than none or more than all, whatever was counted when."""
    node = make_slab_node(
        nr_slabs=1, total_objects=64, partial_objects=partial, partial_inuse=inuse
    )
    (row,) = slabinfo.rows(make_machine(slabs=(make_slab("cache", nodes=(node,)),)))
    assert row.active_objs == active


def test_long_names_and_large_numbers_push_the_line_out() -> None:
    """Nothing is cut."""
    node = make_slab_node(nr_slabs=1234567, total_objects=79012288)
    cache = make_slab("a_name_of_more_than_17", nodes=(node,))
    assert fields(slabinfo.render(make_machine(slabs=(cache,)))) == [
        ["a_name_of_more_than_17", "79012288", "79012288", "64", "64", "1", "1234567", "1234567"]
    ]


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
@settings(derandomize=True, deadline=None, database=None, max_examples=20)
def test_numbers_read_back(seed: int, nr_caches: int) -> None:
    """An independent reader and `parse` both find every number of every cache, in order."""
    rng = Random(seed)

    def number() -> int:
        return rng.randrange(10 ** rng.randint(0, 9))

    slabs = tuple(
        make_slab(
            f"cache-{index}",
            size=1 + number(),
            order=rng.randrange(4),
            nodes=tuple(
                make_slab_node(node=node, nr_slabs=number(), total_objects=number())
                for node in range(2)
            ),
        )
        for index in range(nr_caches)
    )
    text = slabinfo.render(make_machine(slabs=slabs))
    rows = slabinfo.parse(text)
    assert [list(map(str, row)) for row in rows] == fields(text)
    assert rows == slabinfo.rows(make_machine(slabs=slabs))
    for cache, row in zip(slabs, rows, strict=True):
        assert row.name == cache.name
        assert row.num_objs == sum(node.total_objects for node in cache.nodes)
        assert row.num_slabs == row.active_slabs == sum(node.nr_slabs for node in cache.nodes)
        assert (row.objsize, row.objperslab) == (cache.size, cache.objs_per_slab)
        assert row.pagesperslab == 2**cache.order


def test_parse_a_live_kernel() -> None:
    """The numbers of the live lines."""
    assert slabinfo.parse(TITLE + LIVE_LINES) == [
        ("kmalloc-64", 2878, 3712, 64, 64, 1, 58, 58),
        ("task_struct", 124, 135, 5824, 5, 8, 27, 27),
    ]


def test_parse_what_other_kernels_write() -> None:
    """A blank in a name, and the further parts of a kernel built for debugging."""
    line = LIVE_LINES.splitlines()[0].replace("kmalloc-64", "UNIX sock ")
    tail = " : globalstat   22848   1920    23    0 : cpustat  27000   1500"
    assert slabinfo.parse(f"{TITLE}{line}{tail}\n\n") == [
        ("UNIX sock", 2878, 3712, 64, 64, 1, 58, 58)
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected 'slabinfo - version"),
        ("MemTotal: 3 kB\n", "line 1: expected"),
        (TITLE.replace("2.1", "1.1"), "line 1: expected"),
        (TITLE + "kmalloc-64 2878 3712 64 64 1\n", "line 3: .* 'kmalloc-64 2878"),
        (TITLE + LIVE_LINES.replace("124", "-24"), "line 4: "),
        (TITLE + LIVE_LINES[:-10], "line 4: "),
    ],
)
def test_parse_says_which_line_is_wrong(text: str, words: str) -> None:
    """What is no slabinfo is refused."""
    with pytest.raises(BadArgument, match=f"^slabinfo: {words}"):
        slabinfo.parse(text)
