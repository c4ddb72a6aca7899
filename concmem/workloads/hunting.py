"""Workloads as programs for :func:`concmem.explore.check`: a few operations on a small machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from concmem.errors import BadArgument
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.workloads.base import WORKLOADS, Workload, make_workload
from concmem.workloads.progress import Progress
from concmem.workloads.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY: Final = "16M"

OPERATIONS: Final = 6
"""Of each CPU, unless told otherwise."""

SMALL: Final[dict[str, dict[str, int]]] = {
    # 2 MiB take nine thousand steps, one page after the other; vmalloc-churn maps fewer.
    "kmalloc-large": {"huge": 0},
}
"""Options of workloads that make them small enough, where the usual ones are too large."""


def hunting_program(
    name: str, operations: int = OPERATIONS, **machine: Any
) -> Callable[[ControlledRuntime], Program]:
    """
    The workload of that name as a program: *operations* on each CPU of a machine.

    Args:
        machine: arguments of :class:`concmem.Machine`.

    Raises:
        BadArgument: there is no such workload.
    """
    if name not in WORKLOADS:
        raise BadArgument(f"target: there is no workload {name!r}, only {', '.join(WORKLOADS)}")
    machine.setdefault("memory", MEMORY)

    def program(rt: ControlledRuntime) -> Program:
        m = Machine(runtime=rt, **machine)
        workload = make_workload(name, SMALL.get(name, {}))
        progress = m.runtime.percpu(Progress, "stress_progress")
        workers = [Worker(m, cpu, progress.of(cpu)) for cpu in range(len(progress.all()))]
        for worker in workers[: rt.nr_cpus]:
            worker.limit = operations
            worker.stopped = False
        workload.start(m, workers)
        cpus = workers[: rt.nr_cpus]
        return Program(
            [partial(_body, workload, worker) for worker in cpus],
            after=partial(_after, m, workload, cpus),
            verify=m.verify,
        )

    return program


def _body(workload: Workload, worker: Worker) -> None:
    try:
        workload.body(worker)
    finally:
        workload.leave(worker)
    _raise(worker.release())


def _after(m: Machine, workload: Workload, workers: Sequence[Worker]) -> None:
    """Everything is given back, and the machine is as it was."""
    workload.end(m)

    def give_back(worker: Worker) -> None:
        workload.leftovers(worker)
        _raise(worker.release())

    m.run([partial(give_back, worker) for worker in workers])
    m.run([partial(workload.cleanup, m)])
    m.run([m.workqueue.drain])
    m.verify()


def _raise(errors: list[Exception]) -> None:
    if errors:
        raise errors[0]
