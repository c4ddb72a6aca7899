"""Workloads for stress runs, scenario files that combine them, and the engine that runs them."""

from concmem.workloads import (
    bursts,
    drain,
    fragmentation,
    interrupts,
    kmalloc_large,
    local,
    malloc,
    mempool,
    pressure,
    processes,
    producer_consumer,
    slab_bulk,
    slab_churn,
    slab_numa,
    slab_producer_consumer,
    slab_storm,
    vmalloc_churn,
)
from concmem.workloads.base import WORKLOADS, Workload, make_workload, option, register, summary
from concmem.workloads.object_owner import ObjectOwner, ObjectOwnershipError, OwnedObject
from concmem.workloads.progress import Progress
from concmem.workloads.result import CpuResult, ErrorReport, StressResult
from concmem.workloads.scenario import Phase, Scenario, find_scenarios, load_scenario
from concmem.workloads.slab_activity import SlabActivity
from concmem.workloads.stress import SoftLockup, StressProgress, run_stress
from concmem.workloads.worker import Worker

__all__ = [
    "WORKLOADS",
    "CpuResult",
    "ErrorReport",
    "ObjectOwner",
    "ObjectOwnershipError",
    "OwnedObject",
    "Phase",
    "Progress",
    "Scenario",
    "SlabActivity",
    "SoftLockup",
    "StressProgress",
    "StressResult",
    "Worker",
    "Workload",
    "bursts",
    "drain",
    "find_scenarios",
    "fragmentation",
    "interrupts",
    "kmalloc_large",
    "load_scenario",
    "local",
    "make_workload",
    "malloc",
    "mempool",
    "option",
    "pressure",
    "processes",
    "producer_consumer",
    "register",
    "run_stress",
    "slab_bulk",
    "slab_churn",
    "slab_numa",
    "slab_producer_consumer",
    "slab_storm",
    "summary",
    "vmalloc_churn",
]
