"""Workloads for stress runs, scenario files that combine them, and the engine that runs them."""

from concmem.workloads import (
    bursts,
    drain,
    fragmentation,
    interrupts,
    local,
    pressure,
    producer_consumer,
)
from concmem.workloads.base import WORKLOADS, Workload, make_workload, option, register, summary
from concmem.workloads.result import CpuResult, ErrorReport, StressResult
from concmem.workloads.scenario import Phase, Scenario, find_scenarios, load_scenario
from concmem.workloads.stress import SoftLockup, StressProgress, run_stress
from concmem.workloads.worker import Progress, Worker

__all__ = [
    "WORKLOADS",
    "CpuResult",
    "ErrorReport",
    "Phase",
    "Progress",
    "Scenario",
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
    "load_scenario",
    "local",
    "make_workload",
    "option",
    "pressure",
    "producer_consumer",
    "register",
    "run_stress",
    "summary",
]
