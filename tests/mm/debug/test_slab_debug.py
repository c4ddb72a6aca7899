"""The ``slab_debug=`` parameter: which caches are debugged, and how; and what cannot be understood."""

from __future__ import annotations

from typing import Any

import pytest

from concmem.errors import BadArgument
from concmem.machine import Machine
from concmem.mm.debug.slab_debug import parse_slab_debug

F, Z, P, U, T, A = 0x100, 0x400, 0x800, 0x10000, 0x200000, 0x2000000
"""The bits that Linux had for the letters."""


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (None, {"kmalloc-64": 0, "dentry": 0}),
        (False, {"dentry": 0}),
        ("", {"dentry": 0}),
        (True, {"kmalloc-64": F | Z | P | U, "dentry": F | Z | P | U}),
        ("FZPU", {"dentry": F | Z | P | U}),
        ("fzput", {"dentry": F | Z | P | U | T}),
        ("A", {"dentry": A}),
        ("FZ,kmalloc-64", {"kmalloc-64": F | Z, "kmalloc-128": 0, "dentry": 0}),
        (",kmalloc-64", {"kmalloc-64": F | Z | P | U, "dentry": 0}),
        ("FZ,kmalloc-*,dentry", {"kmalloc-64": F | Z, "kmalloc-cg-64": F | Z, "dentry": F | Z, "d": 0}),
        ("F;Z,dentry", {"dentry": Z, "other": F}),
        ("F;-,vma*", {"vma_lock": 0, "dentry": F}),
        ("-", {"dentry": 0}),
        ("ZO", {"dentry": Z}),
    ],
)  # fmt: skip
def test_flags(value: Any, flags: dict[str, int]) -> None:
    """Letters to bits, blocks to caches; the first block that names a cache counts."""
    options = parse_slab_debug(value)
    assert {name: options.flags_for(name, 0) for name in flags} == flags


@pytest.mark.parametrize(
    "value", ["X", "FZQ", "FZPU,", "F,a,,b", "F,a*b", "F,a b", "F,a/b", 3, b"F"]
)
def test_bad_values_name_the_argument(value: Any) -> None:
    """Before anything is made; the message says what is wrong."""
    with pytest.raises(BadArgument, match=r"^slab_debug: "):
        Machine(cpus=1, memory="32M", slab_debug=value)


def test_bad_letter_is_named() -> None:
    """Which, and which there are."""
    with pytest.raises(
        BadArgument, match=r"'Q' in 'FZQ' is no letter of it; there are F Z P U T A O"
    ):
        parse_slab_debug("FZQ")


def test_flags_of_a_cache() -> None:
    """The parameter adds to the flags that a cache is made with, and both make a debug cache."""
    with Machine(cpus=1, memory="32M", slab_debug="Z,thing") as m:
        assert m.kmem_cache_create("thing", 40, flags=F).flags == F | Z
        mine = m.kmem_cache_create("mine", 40, flags=P)
        assert mine.flags == P
        assert mine.layout is not None
        other = m.kmem_cache_create("other", 40)
        assert other.layout is None
        assert "thing" not in other.aliases
        assert other.name == "other"


def test_o_spares_caches_whose_slabs_would_grow() -> None:
    """With O, what would need a higher order has checks only."""
    with Machine(cpus=1, memory="32M", slab_debug="FZPUO") as m:
        assert m.kmem_cache_create("page", 4096).flags == F
        assert m.kmem_cache_create("small", 40).flags == F | Z | P | U
    with Machine(cpus=1, memory="32M", slab_debug="FZPU") as m:
        page = m.kmem_cache_create("page", 4096)
        assert page.flags == F | Z | P | U
        assert page.min_order == 1


def test_without_debugging_nothing_of_it_is_there() -> None:
    """The fast paths of a machine that debugs nothing are those of one that cannot."""
    with Machine(cpus=1, memory="32M") as m:
        assert m.alloc_pages.__module__ == m.free_pages.__module__ == "concmem.mm.fast_path"
        cache = m.kmem_cache_create("thing", 40)
        assert cache.alloc.__module__ == cache.free.__module__ == "concmem.mm.slub_fast_path"
        assert m.kmalloc.__qualname__ == "Kmalloc._make_kmalloc.<locals>.kmalloc"
        assert type(m.memory) is type(m.kernel.memory)
        assert m.kernel.debug.pages is None
        assert m.kernel.debug.kasan is None


@pytest.mark.parametrize("letters", ["F", "Z", "P", "U", "T", "FZPUT", "-"])
def test_sysfs_says_how_a_cache_is_debugged(letters: str) -> None:
    """One file for each letter."""
    files = {"F": "sanity_checks", "Z": "red_zone", "P": "poison", "U": "store_user", "T": "trace"}
    with Machine(cpus=1, memory="32M", slab_debug=f"{letters},kmalloc-64") as m:
        for letter, file in files.items():
            text = m.procfs.read(f"sys/kernel/slab/kmalloc-64/{file}")
            assert text == f"{int(letter in letters)}\n"
            assert m.procfs.read(f"sys/kernel/slab/kmalloc-128/{file}") == "0\n"
