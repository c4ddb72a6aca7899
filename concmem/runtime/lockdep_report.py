"""
What the lock validator has to say, as the kernel says it.

The layout is that of ``kernel/locking/lockdep.c``: ``address (class){usage}-{wait:type}, at: place``. An
address is the lock's id. Wait types are 3 for spinlocks and 4 for locks whose waiters sleep.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from concmem.errors import LockdepError
from concmem.runtime.lockdep_classes import (
    ENABLED_HARDIRQ_READ,
    IN_HARDIRQ_READ,
    IRQ,
    IRQS_ON,
    SAFE,
    USAGE_NAMES,
    Edge,
    Held,
    LockClass,
    LockdepContext,
)
from concmem.runtime.lockdep_where import Place, Trace, describe
from concmem.units import KERNEL_VERSION

_WIDTHS: Final = {
    "circular": 54,
    "recursive": 44,
    "inconsistent": 32,
    "inversion": 56,
    "irq order": 53,
    "wait context": 29,
    "unlock": 37,
    "held": 36,
}
"""Of the lines around the title: the kernel's, by rule."""

_TWO_CPUS: Final = ("       CPU0                    CPU1", "       ----                    ----")
_CPU1: Final = " " * 31


class Wanted(NamedTuple):
    """A lock that is being taken, or whose state changes."""

    cls: LockClass
    lock_id: int
    key: int
    at: Place


def circular(
    context: LockdepContext, held: Held, new: Wanted, edge: Edge, way: list[Edge]
) -> LockdepError:
    """*edge* would close a cycle: *way* leads back from its end to its start."""
    before, after = edge.before.name, edge.after.name
    names = [after, *(step.after.name for step in way)]
    lines = [
        f"{context} is trying to acquire lock:",
        _lock(new.cls, new.lock_id, new.at),
        "",
        "but task is already holding lock:",
        _held(held),
        "",
        "which lock already depends on the new lock.",
        "",
        "",
        "the existing dependency chain (in reverse order) is:",
        "",
    ]
    for number, step in reversed([*enumerate([edge, *way])]):
        lines += [f"-> #{number} ({_class(step.after)}:", *_seen(step), ""]
    lines += ["other info that might help us debug this:", ""]
    if len(way) > 1:
        lines += ["Chain exists of:", f"  {' --> '.join(names)}", ""]
    lines += [
        " Possible unsafe locking scenario:",
        "",
        *_TWO_CPUS,
        f"  lock({before});",
        f"{_CPU1}lock({names[-2]});",
        f"{_CPU1}lock({before});",
        f"  lock({after});",
        "",
        " *** DEADLOCK ***",
        "",
    ]
    return _error(
        "circular",
        "possible circular locking dependency detected",
        " -> ".join((before, *names)),
        [*lines, *_all_held(context)],
    )


def recursive(context: LockdepContext, new: Wanted, held: Held) -> LockdepError:
    """A lock of the class is held already."""
    name = new.cls.name
    lines = [
        f"{context} is trying to acquire lock:",
        _lock(new.cls, new.lock_id, new.at),
        "",
        "but task is already holding lock:",
        _held(held),
        "",
        "other info that might help us debug this:",
        " Possible unsafe locking scenario:",
        "",
        "       CPU0",
        "       ----",
        f"  lock({name});",
        f"  lock({name});",
        "",
        " *** DEADLOCK ***",
        "",
    ]
    if held.lock_id != new.lock_id:
        lines += [" May be due to missing lock nesting notation", ""]
    return _error(
        "recursive", "possible recursive locking detected", name, [*lines, *_all_held(context)]
    )


def inconsistent(context: LockdepContext, new: Wanted, old: int, bit: int) -> LockdepError:
    """A class gets a usage bit that does not go with one that it has."""
    name = new.cls.name
    lines = [
        f"inconsistent {{{USAGE_NAMES[old]}}} -> {{{USAGE_NAMES[bit]}}} usage.",
        f"{_state(context, new)} takes:",
        _lock(new.cls, new.lock_id, new.at),
        f"{{{USAGE_NAMES[old]}}} state was registered at:",
        *_indented(new.cls.usage[old], 2),
        "",
        "other info that might help us debug this:",
        " Possible unsafe locking scenario:",
        "",
        "       CPU0",
        "       ----",
        f"  lock({name});",
        "  <Interrupt>",
        f"    lock({name});",
        "",
        " *** DEADLOCK ***",
        "",
    ]
    return _error("inconsistent", "inconsistent lock state", name, [*lines, *_all_held(context)])


def inversion(
    context: LockdepContext, new: Wanted, bit: int, other: LockClass, bad: int, way: list[Edge]
) -> LockdepError:
    """A class gets a usage bit that does not go with one of *other*, at the end of *way*."""
    if bit in SAFE:
        past = f"but this lock took another, {_sort(bad)} lock in the past:"
        safe, unsafe = new.cls, other
    else:
        past = f"but this lock was taken by another, {_sort(bad)} lock in the past:"
        safe, unsafe = other, new.cls
    lines = [
        f"{context} just changed the state of lock:",
        _lock(new.cls, new.lock_id, new.at),
        past,
        f" ({_class(other)}",
        "",
        "",
        "and interrupts could create inverse lock ordering between them.",
        "",
        "",
        "other info that might help us debug this:",
        *_interrupt_scenario(safe, unsafe, way),
        *_all_held(context),
        "",
        *_dependencies("the shortest dependencies between 2nd lock and 1st lock:", way),
        f"the 2nd lock became {_sort(bad)} at:",
        *_indented(other.usage[bad], 2),
    ]
    return _error(
        "inversion",
        "possible irq lock inversion dependency detected",
        _names(way),
        lines,
    )


def irq_order(
    context: LockdepContext,
    held: Held,
    new: Wanted,
    ends: tuple[LockClass, int, LockClass, int],
    way: list[Edge],
) -> LockdepError:
    """The new edge lies on a *way* from a safe class to an unsafe one."""
    safe, bit, unsafe, bad = ends
    lines = [
        f"{_state(context, new)} is trying to acquire:",
        _lock(new.cls, new.lock_id, new.at),
        "",
        "and this task is already holding:",
        _held(held),
        "which would create a new lock dependency:",
        f" ({_class(held.cls)} -> ({_class(new.cls)}",
        "",
        f"but this new dependency connects a {_irq_sort(bit)} lock:",
        f" ({_class(safe)}",
        "",
        f"... which became {_irq_sort(bit)} at:",
        *_indented(safe.usage[bit], 2),
        "",
        f"to a {_irq_sort(bad)} lock:",
        f" ({_class(unsafe)}",
        "",
        f"... which became {_irq_sort(bad)} at:",
        *_indented(unsafe.usage[bad], 2),
        "",
        "other info that might help us debug this:",
        "",
        *_interrupt_scenario(safe, unsafe, way),
        *_all_held(context),
        "",
        *_dependencies("the dependencies between them:", way),
    ]
    title = f"{_sort(bit)} -> {_sort(bad)} lock order detected"
    return _error("irq order", title, _names(way), lines)


def wait_context(context: LockdepContext, new: Wanted) -> LockdepError:
    """A lock whose waiters sleep, where nobody may sleep."""
    level = 3 if new.key & IRQ else 5
    lines = [
        f"{context} is trying to lock:",
        _lock(new.cls, new.lock_id, new.at),
        "other info that might help us debug this:",
        f"context-{{{level}:{level}}}",
        *_all_held(context),
    ]
    title = "Invalid wait context"
    held = [each.cls.name for each in context.locks() if not each.cls.sleeps]
    inside = "an interrupt handler" if new.key & IRQ else ", ".join(held)
    return _error("wait context", title, f"{new.cls.name} in {inside}", lines, f"[ BUG: {title} ]")


def bad_unlock(context: LockdepContext, name: str, at: Place) -> LockdepError:
    """A lock is released by somebody who does not hold it."""
    lines = [
        f"{context} is trying to release lock ({name}) at:",
        describe(at),
        "but there are no more locks to release!",
        "",
        "other info that might help us debug this:",
        *_all_held(context),
    ]
    return _error("unlock", "bad unlock balance detected!", name, lines)


def still_held(context: LockdepContext) -> LockdepError:
    """The end has come, and something is held."""
    names = ", ".join(each.cls.name for each in context.locks())
    return _error("held", f"{context} still has locks held!", names, _all_held(context))


# -- parts


def _error(
    rule: str, title: str, what: str, lines: Iterable[str], banner: str = ""
) -> LockdepError:
    report = [
        f"{title.rstrip('!')}: {what}",
        "",
        "=" * _WIDTHS[rule],
        banner or f"WARNING: {title}",
        f"{KERNEL_VERSION} concmem",
        "-" * _WIDTHS[rule],
        *lines,
    ]
    error = LockdepError("\n".join(report))
    error.rule = rule
    error.failure_place = ", ".join(sorted(set(what.split(" -> "))))
    return error


def _class(cls: LockClass) -> str:
    wait = 4 if cls.sleeps else 3
    return f"{cls.name}){{{cls.usage_characters}}}-{{{wait}:{wait}}}"


def _lock(cls: LockClass, lock_id: int, at: Place) -> str:
    return f"{lock_id:016x} ({_class(cls)}, at: {describe(at)}"


def _held(held: Held) -> str:
    return _lock(held.cls, held.lock_id, held.at)


def _all_held(context: LockdepContext) -> list[str]:
    held = context.locks()
    if not held:
        return [f"no locks held by {context}."]
    locks = "lock" if len(held) == 1 else "locks"
    return [
        f"{len(held)} {locks} held by {context}:",
        *(f" #{number}: {_held(each)}" for number, each in enumerate(held)),
    ]


def _state(context: LockdepContext, new: Wanted) -> str:
    irq, enabled = int(bool(new.key & IRQ)), int(bool(new.key & IRQS_ON))
    return f"{context} [HC{irq}[{irq}]:SC0[0]:HE{enabled}:SE1]"


def _sort(bit: int) -> str:
    read = "-READ" if bit in (IN_HARDIRQ_READ, ENABLED_HARDIRQ_READ) else ""
    return f"HARDIRQ{read}-{'safe' if bit in SAFE else 'unsafe'}"


def _irq_sort(bit: int) -> str:
    return f"HARDIRQ-irq-{'safe' if bit in SAFE else 'unsafe'}"


def _indented(trace: Trace, by: int) -> list[str]:
    return [f"{' ' * by}{describe(call)}" for call in trace]


def _seen(edge: Edge) -> list[str]:
    """Where the second lock was taken; and who held the first, from where on."""
    holding = f"({edge.before.name} held since {describe(edge.held_at)}, by {edge.context})"
    return _indented((*edge.trace, holding), 7)


def _names(way: list[Edge]) -> str:
    return " -> ".join([way[0].before.name, *(edge.after.name for edge in way)])


def _dependencies(title: str, way: list[Edge]) -> list[str]:
    lines = [title]
    for edge in way:
        lines += [f"-> ({edge.before.name}) -> ({edge.after.name}):", *_seen(edge), ""]
    return lines


def _interrupt_scenario(safe: LockClass, unsafe: LockClass, way: list[Edge]) -> list[str]:
    lines = []
    if len(way) > 1:
        lines += ["Chain exists of:", f"  {_names(way).replace('->', '-->')}", ""]
    return [
        *lines,
        " Possible interrupt unsafe locking scenario:",
        "",
        *_TWO_CPUS,
        f"  lock({unsafe.name});",
        f"{_CPU1}local_irq_disable();",
        f"{_CPU1}lock({safe.name});",
        f"{_CPU1}lock({way[0].after.name});",
        "  <Interrupt>",
        f"    lock({safe.name});",
        "",
        " *** DEADLOCK ***",
        "",
    ]
