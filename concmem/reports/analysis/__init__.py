"""What can be concluded from a run: one pure function for each subject, from `Run` to rows of numbers."""

from __future__ import annotations

from concmem.reports.analysis.accesses import AccessGroup, access_groups
from concmem.reports.analysis.buddies import OrderAnalysis, ZoneAnalysis, zone_analysis
from concmem.reports.analysis.frees import FreeAnalysis, free_analysis
from concmem.reports.analysis.leaks import LeakGroup, leak_groups
from concmem.reports.analysis.locks import LockAnalysis, lock_analysis
from concmem.reports.analysis.memory import MemoryOverview, memory_overview
from concmem.reports.analysis.mempools import MempoolAnalysis, mempool_analysis
from concmem.reports.analysis.slabs import (
    CacheAnalysis,
    MergeCandidates,
    cache_analysis,
    merge_candidates,
)

__all__ = [
    "AccessGroup",
    "CacheAnalysis",
    "FreeAnalysis",
    "LeakGroup",
    "LockAnalysis",
    "MemoryOverview",
    "MempoolAnalysis",
    "MergeCandidates",
    "OrderAnalysis",
    "ZoneAnalysis",
    "access_groups",
    "cache_analysis",
    "free_analysis",
    "leak_groups",
    "lock_analysis",
    "memory_overview",
    "mempool_analysis",
    "merge_candidates",
    "zone_analysis",
]
