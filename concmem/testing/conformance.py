"""
What every runtime must do: :func:`run_runtime_conformance_test`.

The checks are written against the seam (:mod:`concmem.runtime.api`) only: bodies wait for each
other with the runtime's own primitives, no check measures host time, and time-outs are either sure
to expire or so long that only a lost wake-up reaches them. A runtime in which one thread runs at a
time and time is virtual can therefore pass as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from concmem.runtime.api import Runtime
from concmem.testing import conformance_cpus, conformance_locks, conformance_variables
from concmem.testing.conformance_check import Check

CHECKS: tuple[Check, ...] = (
    *conformance_locks.CHECKS,
    *conformance_variables.CHECKS,
    *conformance_cpus.CHECKS,
)


def run_runtime_conformance_test(make_runtime: Callable[[int], Runtime]) -> None:
    """
    Check that a runtime keeps the promises of :class:`concmem.runtime.api.Runtime`.

    Args:
        make_runtime: a `Runtime` class, or a callable; called with the number of CPUs, once for
            each property, and the runtime is shut down afterwards.

    Covered: mutual exclusion, trylock and misuse of locks; reader-writer semaphores; wake-ups and
    time-outs of wait queues; cells, atomics, refcounts, pairs and words; per-CPU data and kernel
    threads; random numbers; interrupts; failures of bodies and handlers; run queues; ``stop_machine``; shutdown.

    A runtime that passes may still have races that these runs did not meet. One that loses an
    interrupt or never grants a lock may hang instead of failing: run this under a time-out.

    Raises:
        AssertionError: a property does not hold. The message starts with the property's name.
    """
    for check in CHECKS:
        before = set(threading.enumerate())
        runtime = make_runtime(check.nr_cpus)
        try:
            check.function(runtime)
        except Exception as error:
            raise AssertionError(f"{check.name}: {check.promise} But: {error!r}") from error
        finally:
            runtime.shutdown()
        left = set(threading.enumerate()) - before
        if left:
            raise AssertionError(f"{check.name}: threads left after shutdown: {left}")
