"""
Calibrated programs: how good is a scheduler at finding concurrency bugs?

    from concmem import explore, sct

    outcome = explore.check(sct.BENCHMARKS["reorder_3"].program, "pos")
    print(sct.measure(sct.BENCHMARKS["reorder_3"], "pos"))

``concmem bench sct`` prints the table.
"""

from concmem.sct.benchmark import BENCHMARKS, COLUMNS, EXPECTED_EXECUTIONS, Benchmark
from concmem.sct.measure import RANDOM, SIGMAS, SYSTEMATIC, Measurement, measure
from concmem.sct.programs import (
    account,
    bluetooth_driver,
    deadlock01,
    lazy01,
    reorder_n,
    stringbuffer,
    twostage,
    wronglock_3,
)

__all__ = [
    "BENCHMARKS",
    "COLUMNS",
    "EXPECTED_EXECUTIONS",
    "RANDOM",
    "SIGMAS",
    "SYSTEMATIC",
    "Benchmark",
    "Measurement",
    "account",
    "bluetooth_driver",
    "deadlock01",
    "lazy01",
    "measure",
    "reorder_n",
    "stringbuffer",
    "twostage",
    "wronglock_3",
]
