"""
Workloads: what they have in common, and where they are found by name.

A workload is a dataclass whose fields are its options and whose `body` every CPU runs. One object
is made for one phase of a run; what its CPUs share is made in `start`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from concmem.errors import BadArgument

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.worker import Worker

W = TypeVar("W", bound="type[Workload]")


def option(default: int, low: int, high: int) -> Any:
    """A whole-number option of a workload: its default, and its range, inclusive."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass
class Workload(ABC):
    """
    One mix of operations.

    The order of calls: `start` on the directing thread, `body` on all CPUs at once, and when all
    bodies have ended `end` on the directing thread, and `cleanup` on a CPU when everything was given
    back. A body ends when ``worker.running()`` says so, calls into the machine now and then, sleeps
    only in primitives of ``machine.runtime``, and owns nothing when it ends but what is in
    ``worker.held`` and ``worker.objects.held``, and what `leftovers` will name.
    """

    name: ClassVar[str]
    """Its name in scenario files."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:  # noqa: B027 - not all have it
        """
        Make what the CPUs share.

        Args:
            workers: one for each CPU, then one for each kernel thread.
        """

    @abstractmethod
    def body(self, worker: Worker) -> None:
        """What each CPU does. Runs on it."""

    def leave(self, worker: Worker) -> None:  # noqa: B027 - not all have it
        """Called on each CPU once, after its `body`, also when that raised."""

    def end(self, machine: Machine) -> None:  # noqa: B027 - not all have it
        """Undo what `start` registered, also after an error."""

    def leftovers(self, worker: Worker) -> None:  # noqa: B027 - not all have it
        """Have *worker* hold what is still in shared containers. On each CPU, after `end`."""

    def cleanup(self, machine: Machine) -> None:  # noqa: B027 - not all have it
        """Destroy the caches that `start` made. On a CPU, when all objects were given back."""


WORKLOADS: dict[str, type[Workload]] = {}
"""Every workload by name."""


def register(name: str) -> Callable[[W], W]:
    """Make a workload known by *name*."""

    def add(cls: W) -> W:
        cls.name = name
        WORKLOADS[name] = cls
        return cls

    return add


def make_workload(name: str, options: dict[str, Any]) -> Workload:
    """
    The workload of that name.

    Raises:
        BadArgument: there is none, or *options* has an unknown key or a value out of range.
    """
    cls = WORKLOADS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise BadArgument(f"name: there is no workload {name!r}, only {', '.join(WORKLOADS)}")
    known = {f.name: f.metadata for f in fields(cls)}
    for key, value in options.items():
        if key not in known:
            raise BadArgument(
                f"{key}: no option of workload {name!r}; a phase has name, weight, "
                f"{', '.join(sorted(known))}"
            )
        low, high = known[key]["low"], known[key]["high"]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadArgument(f"{key}: must be a whole number from {low} to {high}, got {value!r}")
    return cls(**options)


def summary(cls: type[Workload]) -> str:
    """The first line of a workload's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
