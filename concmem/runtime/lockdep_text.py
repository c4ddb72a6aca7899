"""
What the reports of the lock validator are put together from.

A lock is ``address (class){usage}-{wait:type}, at: place``. An address is the lock's id. Wait types are 3 for spinlocks
and 4 for locks whose waiters sleep.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from concmem.runtime.lockdep_classes import (
    ENABLED_HARDIRQ_READ,
    IN_HARDIRQ_READ,
    IRQ,
    IRQS_ON,
    SAFE,
    Edge,
    Held,
    LockClass,
    LockdepContext,
)
from concmem.runtime.lockdep_where import Place, Trace, describe

TWO_CPUS: Final = ("       CPU0                    CPU1", "       ----                    ----")
"""Titles of two columns."""

CPU1: Final = " " * 31
"""As far as the second of them."""


class Wanted(NamedTuple):
    """A lock that is being taken, or whose state changes."""

    cls: LockClass
    lock_id: int
    key: int
    at: Place


def class_text(cls: LockClass) -> str:
    """Its name, use and wait type; the caller has the opening bracket."""
    wait = 4 if cls.sleeps else 3
    return f"{cls.name}){{{cls.usage_characters}}}-{{{wait}:{wait}}}"


def lock_line(cls: LockClass, lock_id: int, at: Place) -> str:
    """A lock, and where it was taken."""
    return f"{lock_id:016x} ({class_text(cls)}, at: {describe(at)}"


def held_line(held: Held) -> str:
    """A lock that is held."""
    return lock_line(held.cls, held.lock_id, held.at)


def all_held(context: LockdepContext) -> list[str]:
    """What *context* holds, outermost first."""
    held = context.locks()
    if not held:
        return [f"no locks held by {context}."]
    locks = "lock" if len(held) == 1 else "locks"
    return [
        f"{len(held)} {locks} held by {context}:",
        *(f" #{number}: {held_line(each)}" for number, each in enumerate(held)),
    ]


def state_line(context: LockdepContext, new: Wanted) -> str:
    """Who takes *new*, and what it may be interrupted by."""
    irq, enabled = int(bool(new.key & IRQ)), int(bool(new.key & IRQS_ON))
    return f"{context} [HC{irq}[{irq}]:SC0[0]:HE{enabled}:SE1]"


def sort_of(bit: int) -> str:
    """What a usage bit makes of a class."""
    read = "-READ" if bit in (IN_HARDIRQ_READ, ENABLED_HARDIRQ_READ) else ""
    return f"HARDIRQ{read}-{'safe' if bit in SAFE else 'unsafe'}"


def irq_sort_of(bit: int) -> str:
    """The same for the title of a bad order."""
    return f"HARDIRQ-irq-{'safe' if bit in SAFE else 'unsafe'}"


def indented(trace: Trace, by: int) -> list[str]:
    """A line for each call."""
    return [f"{' ' * by}{describe(call)}" for call in trace]


def seen(edge: Edge) -> list[str]:
    """Where the second lock was taken; and who held the first, from where on."""
    holding = f"({edge.before.name} held since {describe(edge.held_at)}, by {edge.context})"
    return indented((*edge.trace, holding), 7)


def names_of(way: list[Edge]) -> str:
    """The classes along *way*."""
    return " -> ".join([way[0].before.name, *(edge.after.name for edge in way)])


def dependencies(title: str, way: list[Edge]) -> list[str]:
    """Each step of *way*, and where it was first."""
    lines = [title]
    for edge in way:
        lines += [f"-> ({edge.before.name}) -> ({edge.after.name}):", *seen(edge), ""]
    return lines


def interrupt_scenario(safe: LockClass, unsafe: LockClass, way: list[Edge]) -> list[str]:
    """How two CPUs and an interrupt come to wait for each other."""
    lines = []
    if len(way) > 1:
        lines += ["Chain exists of:", f"  {names_of(way).replace('->', '-->')}", ""]
    return [
        *lines,
        " Possible interrupt unsafe locking scenario:",
        "",
        *TWO_CPUS,
        f"  lock({unsafe.name});",
        f"{CPU1}local_irq_disable();",
        f"{CPU1}lock({safe.name});",
        f"{CPU1}lock({way[0].after.name});",
        "  <Interrupt>",
        f"    lock({safe.name});",
        "",
        " *** DEADLOCK ***",
        "",
    ]
