"""Sizes of well-known caches: live kernels' rows of ``/sys/kernel/slab`` against the model's layout."""

from __future__ import annotations

import pytest

from concmem.mm.slab_flags import (
    ALL_FLAGS,
    SLAB_HWCACHE_ALIGN,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.mm.slab_geometry import calculate_geometry
from concmem.traces.known_caches import KNOWN_CACHES, UNKNOWN, known_cache

LIVE = """
MPTCP                1936 1 0 1 1984
TCP                  2304 1 0 1 2368
bdev_cache           1520 1 1 0 1536
bio-248               248 1 0 1  256
bio-392               392 1 0 1  448
btrfs_inode          1008 0 1 0 1016
dax_cache             760 1 1 0  768
erofs_inode           688 0 1 0  696
ext4_inode_cache     1120 0 1 0 1128
inode_cache           616 0 1 0  624
io_kiocb              248 1 0 1  256
kmem_cache            232 1 0 0  256
mqueue_inode_cache    936 1 0 0  960
names_cache          4096 1 0 0 4096
nf_conntrack          248 1 0 1  256
ovl_inode             696 0 1 0  704
shmem_inode_cache     744 0 0 0  752
sighand_cache        2080 1 0 1 2112
sock_inode_cache      768 1 1 0  832
squashfs_inode_cache  680 1 1 0  704
"""
"""Name, object_size, hwcache_align, reclaim_account, destroy_by_rcu, slab_size of Linux 6.18."""


@pytest.mark.parametrize("row", LIVE.strip().splitlines())
def test_known_caches_are_laid_out_as_live_ones(row: str) -> None:
    """Flags and sizes are those that a kernel shows."""
    name, object_size, aligned, reclaimable, typesafe, size = row.split()
    known = known_cache(name)
    assert bool(known.flags & SLAB_HWCACHE_ALIGN) == (aligned == "1")
    assert bool(known.flags & SLAB_RECLAIM_ACCOUNT) == (reclaimable == "1")
    assert bool(known.flags & SLAB_TYPESAFE_BY_RCU) == (typesafe == "1")
    layout = calculate_geometry(int(object_size), known.align, known.flags, known.ctor, 2)
    assert layout is not None
    assert layout.size == int(size)


def test_every_entry_can_be_created() -> None:
    """Flags are flags, alignments powers of two."""
    for known in KNOWN_CACHES.values():
        assert known.flags & ~ALL_FLAGS == 0
        assert known.align & (known.align - 1) == 0


def test_unknown_names_have_no_flags() -> None:
    """Nothing is guessed."""
    for name in ("", "nobody_knows", "bio-", "bio-12x", "xbio-12"):
        assert known_cache(name) == UNKNOWN
