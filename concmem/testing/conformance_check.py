"""What the checks of :mod:`concmem.testing.conformance` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from concmem.runtime.api import Lock, Runtime

PATIENCE: Final = 60.0
"""Seconds after which a wake-up is taken for lost. Nothing that works ever waits so long."""

TICK: Final = 0.004
"""Seconds of a time-out that is meant to expire."""


class Check(NamedTuple):
    """One property of a runtime."""

    function: Callable[[Runtime], None]
    nr_cpus: int

    @property
    def name(self) -> str:
        return self.function.__name__.removeprefix("check_")

    @property
    def promise(self) -> str:
        """The property, as a sentence."""
        return (self.function.__doc__ or "").strip()


class Nonconforming(AssertionError):
    """A runtime does not do what the seam promises."""


def expect(got: object, wanted: object, what: str) -> None:
    """Raise `Nonconforming` unless the two are equal."""
    if got != wanted:
        raise Nonconforming(f"{what}: expected {wanted!r}, got {got!r}")


def until(rt: Runtime, condition: Callable[[], object]) -> None:
    """On a CPU: wait for another CPU without sleeping."""
    while not condition():
        rt.cpu_relax()


def raised_by(fn: Callable[[], object]) -> BaseException | None:
    """What *fn* raises, or ``None``."""
    try:
        fn()
    except Exception as error:
        return error
    return None


def every_lock(rt: Runtime) -> list[Lock]:
    """A new lock of each kind."""
    return [
        rt.spinlock("conformance-spinlock"),
        rt.spinlock("conformance-irqsave", irqsave=True),
        rt.mutex("conformance-mutex"),
    ]
