"""
What a CPU is about to do at a scheduling point: a kind, and the object it is done to.

A task announces its next operation *before* it is done (``task.kind``, ``task.object``), so that
schedulers can ask whether two pending operations conflict, and traces can say what happened. Kinds are
interned texts, compared by identity; objects are the primitives themselves.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

ACQUIRE: Final = "acquire"
RELEASE: Final = "release"
TRYLOCK: Final = "trylock"
DOWN_READ: Final = "down_read"
DOWN_WRITE: Final = "down_write"
UP: Final = "up"
READ: Final = "read"
"""Of a cell, atomic, pair, refcount or memory word."""
WRITE: Final = "write"
UPDATE: Final = "update"
"""Reads and writes in one step: ``inc``, ``xchg``, ``cmpxchg``, ..."""
LOAD: Final = "load"
"""Of a watched field: a plain access, which may race."""
STORE: Final = "store"
WAIT: Final = "wait"
WAKE: Final = "wake"
TIMEOUT: Final = "timeout"
SPURIOUS: Final = "spurious wake-up"
RESUME: Final = "resume"
"""Go on after a wait that another CPU has ended: for an interrupt, a task, a semaphore."""
RELAX: Final = "relax"
RESCHED: Final = "resched"
IRQ: Final = "irq"
"""Take an interrupt; the object is the CPU."""
IRQ_OFF: Final = "irq off"
IRQ_ON: Final = "irq on"
SEND: Final = "send"
"""Send an interrupt; the object is the CPU it is for."""
SPAWN: Final = "spawn"
STOP: Final = "stop_machine"

READING: Final = frozenset((READ, LOAD))
"""Kinds of which two on the same object commute."""

LOCAL: Final = frozenset((RELAX, RESCHED, RESUME))
"""Kinds that touch nothing that others could see."""


class Operation(NamedTuple):
    """One step of an execution, or one that is pending."""

    task: Any
    """The `Task` that does it."""
    kind: str
    object: Any
    """What it is done to."""

    def __str__(self) -> str:
        return f"{self.task.name} {self.kind} {name_of(self.object)}"


def conflict(kind: str | None, obj: object, other_kind: str | None, other_obj: object) -> bool:
    """
    Whether the order of two operations of different CPUs can matter.

    That is: the same object, and not both only read. Operations on a CPU's interrupts (`IRQ`,
    `SEND`) conflict through the CPU.
    """
    return (
        obj is other_obj
        and obj is not None
        and not (kind in READING and other_kind in READING)
        and kind not in LOCAL
        and other_kind not in LOCAL
    )


def name_of(obj: object) -> str:
    """The name of a primitive, for people."""
    return str(getattr(obj, "name", obj))


# Notes: entries of a trace that are no steps: nobody decided anything, but detectors want to know.
TAKEN: Final = "taken"
"""A `TRYLOCK` succeeded, or a semaphore was handed over: the task holds the object now."""
STARTED: Final = "started"
"""A body begins; the object is its CPU."""
DONE: Final = "done"
"""What somebody may wait for has happened; the object is what they wait for."""
GUARDED_LOAD: Final = "guarded load"
"""As `LOAD`, by a task that holds the field's guard."""
GUARDED_STORE: Final = "guarded store"

NOTES: Final = frozenset((TAKEN, STARTED, DONE, GUARDED_LOAD, GUARDED_STORE))

# Looks: what a task sees of the harness besides its operations, see `Execution.looks`.
PEEK: Final = "peek"
"""Whether somebody else holds a lock, or whether a job is done."""
CLOCK: Final = "clock"
"""The model time."""
DEADLINE: Final = "deadline"
"""The model time, to set or to check a time-out that is so many nanoseconds ahead."""

CHANGING: Final = frozenset(
    (ACQUIRE, RELEASE, TAKEN, DOWN_READ, DOWN_WRITE, UP, WRITE, UPDATE, STORE)
) | frozenset((WAIT, WAKE, TIMEOUT, IRQ, SEND, SPAWN, STOP))
"""Kinds after which a CPU that spins may see something new."""
