"""
What a trace does not say of a cache: how well-known caches of Linux 6.12 are created.

The size of an object depends on it. Alignment to cache lines pads it; a constructor, or objects that
readers may still look at after they are freed, put the free pointer behind it. The kernel's caches
are a public fact, stated here from knowledge of them, for the sizes of x86-64.

Left out are flags that change nothing in a replay (``SLAB_PANIC``), and caches that are created with no
flag, no alignment and no constructor: for those, as for names nobody knows, there is nothing to say.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from concmem.mm.slab_flags import (
    SLAB_ACCOUNT,
    SLAB_HWCACHE_ALIGN,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)


class KnownCache(NamedTuple):
    """Arguments of ``kmem_cache_create`` besides name and size."""

    flags: int = 0
    align: int = 0
    """Bytes; 0 for none."""
    ctor: bool = False
    """It has a constructor."""


_H: Final = SLAB_HWCACHE_ALIGN
_A: Final = SLAB_ACCOUNT
_R: Final = SLAB_RECLAIM_ACCOUNT
_T: Final = SLAB_TYPESAFE_BY_RCU

UNKNOWN: Final = KnownCache()
"""What is assumed of a name that is not in the table."""

_PLAIN_INODES: Final = KnownCache(_R | _A, ctor=True)
_ALIGNED_INODES: Final = KnownCache(_H | _R | _A, ctor=True)

KNOWN_CACHES: Final[dict[str, KnownCache]] = {
    # processes
    "task_struct": KnownCache(_A, align=64),
    "signal_cache": KnownCache(_H | _A),
    "sighand_cache": KnownCache(_H | _T | _A, ctor=True),
    "files_cache": KnownCache(_H | _A),
    "fs_cache": KnownCache(_H | _A),
    "cred_jar": KnownCache(_H | _A),
    "key_jar": KnownCache(_H),
    "pid": KnownCache(_H | _A),
    "pid_namespace": KnownCache(_A),
    "user_namespace": KnownCache(_A),
    "uts_namespace": KnownCache(_A),
    "nsproxy": KnownCache(_A),
    "sigqueue": KnownCache(_A),
    "posix_timers_cache": KnownCache(_A),
    "pool_workqueue": KnownCache(align=256),
    # address spaces
    "mm_struct": KnownCache(_H | _A),
    "vm_area_struct": KnownCache(_H | _A),
    "anon_vma": KnownCache(_T | _A, ctor=True),
    "anon_vma_chain": KnownCache(_A),
    "maple_node": KnownCache(align=256),
    # files and directories; filp's free pointer has a place inside the object, and the size
    # comes out the same
    "filp": KnownCache(_H | _T | _A),
    "names_cache": KnownCache(_H),
    "dentry": KnownCache(_R | _A),
    "inode_cache": _PLAIN_INODES,
    "proc_inode_cache": _PLAIN_INODES,
    "shmem_inode_cache": KnownCache(_A, ctor=True),
    "hugetlbfs_inode_cache": KnownCache(_A, ctor=True),
    "mqueue_inode_cache": KnownCache(_H | _A, ctor=True),
    "bdev_cache": _ALIGNED_INODES,
    "dax_cache": _ALIGNED_INODES,
    "sock_inode_cache": _ALIGNED_INODES,
    "rpc_inode_cache": _ALIGNED_INODES,
    "buffer_head": KnownCache(_R),
    "mnt_cache": KnownCache(_H | _A),
    "seq_file": KnownCache(_A),
    "pde_opener": KnownCache(_A),
    "eventpoll_epi": KnownCache(_H | _A),
    "eventpoll_pwq": KnownCache(_A),
    "radix_tree_node": KnownCache(_R, ctor=True),
    "io_kiocb": KnownCache(_H | _T | _A),
    # file systems
    "ext4_inode_cache": _PLAIN_INODES,
    "extent_status": KnownCache(_R),
    "ext4_io_end": KnownCache(_R),
    "ext4_io_end_vec": KnownCache(_R),
    "ext4_allocation_context": KnownCache(_R),
    "ext4_prealloc_space": KnownCache(_R),
    "ext4_free_data": KnownCache(_R),
    "jbd2_inode": KnownCache(_R),
    "jbd2_journal_handle": KnownCache(_R),
    "jbd2_journal_head": KnownCache(_R | _T),
    "jbd2_revoke_record_s": KnownCache(_H | _R),
    "jbd2_revoke_table_s": KnownCache(_R),
    "jbd2_transaction_s": KnownCache(_H | _R),
    "xfs_inode": _ALIGNED_INODES,
    "btrfs_inode": _PLAIN_INODES,
    "erofs_inode": _PLAIN_INODES,
    "fat_inode_cache": _PLAIN_INODES,
    "fuse_inode": _ALIGNED_INODES,
    "nfs_inode_cache": _PLAIN_INODES,
    "ovl_inode": _PLAIN_INODES,
    "squashfs_inode_cache": _ALIGNED_INODES,
    # block devices
    "biovec-16": KnownCache(_H),
    "biovec-64": KnownCache(_H),
    "biovec-128": KnownCache(_H),
    "biovec-max": KnownCache(_H),
    "iommu_iova": KnownCache(_H),
    "iommu_iova_magazine": KnownCache(_H),
    "sgpool-8": KnownCache(_H),
    "sgpool-16": KnownCache(_H),
    "sgpool-32": KnownCache(_H),
    "sgpool-64": KnownCache(_H),
    "sgpool-128": KnownCache(_H),
    # networks
    "skbuff_head_cache": KnownCache(_H),
    "skbuff_fclone_cache": KnownCache(_H),
    "skbuff_small_head": KnownCache(_H),
    "skbuff_ext_cache": KnownCache(_H),
    "UNIX": KnownCache(_H | _A),
    "UNIX-STREAM": KnownCache(_H | _A),
    "UDP": KnownCache(_H | _A),
    "UDPv6": KnownCache(_H | _A),
    "RAW": KnownCache(_H | _A),
    "RAWv6": KnownCache(_H | _A),
    "TCP": KnownCache(_H | _T | _A),
    "TCPv6": KnownCache(_H | _T | _A),
    "MPTCP": KnownCache(_H | _T | _A),
    "request_sock_TCP": KnownCache(_T | _A),
    "request_sock_TCPv6": KnownCache(_T | _A),
    "tw_sock_TCP": KnownCache(_T | _A),
    "tw_sock_TCPv6": KnownCache(_T | _A),
    "inet_peer_cache": KnownCache(_H),
    "ip_dst_cache": KnownCache(_H),
    "ip6_dst_cache": KnownCache(_H),
    "nf_conntrack": KnownCache(_H | _T),
    # the allocator itself
    "kmem_cache": KnownCache(_H),
    "kmem_cache_node": KnownCache(_H),
}

_BIO: Final = re.compile(r"bio-[0-9]+")
"""Caches of bio sets are named by their size."""
_BIO_CACHE: Final = KnownCache(_H | _T)


def known_cache(name: str) -> KnownCache:
    """How Linux creates the cache *name*; `UNKNOWN` if nobody knows."""
    if _BIO.fullmatch(name):
        return _BIO_CACHE
    return KNOWN_CACHES.get(name, UNKNOWN)
