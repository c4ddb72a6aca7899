"""
What the lock validator has to say, as the kernel says it.

The layout is that of ``kernel/locking/lockdep.c``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from concmem.errors import LockdepError
from concmem.runtime.lockdep_classes import (
    IRQ,
    SAFE,
    USAGE_NAMES,
    Edge,
    Held,
    LockClass,
    LockdepContext,
)
from concmem.runtime.lockdep_text import (
    CPU1,
    TWO_CPUS,
    Wanted,
    all_held,
    class_text,
    dependencies,
    held_line,
    indented,
    interrupt_scenario,
    irq_sort_of,
    lock_line,
    names_of,
    seen,
    sort_of,
    state_line,
)
from concmem.runtime.lockdep_where import Place, describe
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


def circular(
    context: LockdepContext, held: Held, new: Wanted, edge: Edge, way: list[Edge]
) -> LockdepError:
    """*edge* would close a cycle: *way* leads back from its end to its start."""
    before, after = edge.before.name, edge.after.name
    names = [after, *(step.after.name for step in way)]
    lines = [
        f"{context} is trying to acquire lock:",
        lock_line(new.cls, new.lock_id, new.at),
        "",
        "but task is already holding lock:",
        held_line(held),
        "",
        "which lock already depends on the new lock.",
        "",
        "",
        "the existing dependency chain (in reverse order) is:",
        "",
    ]
    for number, step in reversed([*enumerate([edge, *way])]):
        lines += [f"-> #{number} ({class_text(step.after)}:", *seen(step), ""]
    lines += ["other info that might help us debug this:", ""]
    if len(way) > 1:
        lines += ["Chain exists of:", f"  {' --> '.join(names)}", ""]
    lines += [
        " Possible unsafe locking scenario:",
        "",
        *TWO_CPUS,
        f"  lock({before});",
        f"{CPU1}lock({names[-2]});",
        f"{CPU1}lock({before});",
        f"  lock({after});",
        "",
        " *** DEADLOCK ***",
        "",
    ]
    return _error(
        "circular",
        "possible circular locking dependency detected",
        " -> ".join((before, *names)),
        [*lines, *all_held(context)],
    )


def recursive(context: LockdepContext, new: Wanted, held: Held) -> LockdepError:
    """A lock of the class is held already."""
    name = new.cls.name
    lines = [
        f"{context} is trying to acquire lock:",
        lock_line(new.cls, new.lock_id, new.at),
        "",
        "but task is already holding lock:",
        held_line(held),
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
        "recursive", "possible recursive locking detected", name, [*lines, *all_held(context)]
    )


def inconsistent(context: LockdepContext, new: Wanted, old: int, bit: int) -> LockdepError:
    """A class gets a usage bit that does not go with one that it has."""
    name = new.cls.name
    lines = [
        f"inconsistent {{{USAGE_NAMES[old]}}} -> {{{USAGE_NAMES[bit]}}} usage.",
        f"{state_line(context, new)} takes:",
        lock_line(new.cls, new.lock_id, new.at),
        f"{{{USAGE_NAMES[old]}}} state was registered at:",
        *indented(new.cls.usage[old], 2),
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
    return _error("inconsistent", "inconsistent lock state", name, [*lines, *all_held(context)])


def inversion(
    context: LockdepContext, new: Wanted, bit: int, other: LockClass, bad: int, way: list[Edge]
) -> LockdepError:
    """A class gets a usage bit that does not go with one of *other*, at the end of *way*."""
    if bit in SAFE:
        past = f"but this lock took another, {sort_of(bad)} lock in the past:"
        safe, unsafe = new.cls, other
    else:
        past = f"but this lock was taken by another, {sort_of(bad)} lock in the past:"
        safe, unsafe = other, new.cls
    lines = [
        f"{context} just changed the state of lock:",
        lock_line(new.cls, new.lock_id, new.at),
        past,
        f" ({class_text(other)}",
        "",
        "",
        "and interrupts could create inverse lock ordering between them.",
        "",
        "",
        "other info that might help us debug this:",
        *interrupt_scenario(safe, unsafe, way),
        *all_held(context),
        "",
        *dependencies("the shortest dependencies between 2nd lock and 1st lock:", way),
        f"the 2nd lock became {sort_of(bad)} at:",
        *indented(other.usage[bad], 2),
    ]
    return _error(
        "inversion",
        "possible irq lock inversion dependency detected",
        names_of(way),
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
        f"{state_line(context, new)} is trying to acquire:",
        lock_line(new.cls, new.lock_id, new.at),
        "",
        "and this task is already holding:",
        held_line(held),
        "which would create a new lock dependency:",
        f" ({class_text(held.cls)} -> ({class_text(new.cls)}",
        "",
        f"but this new dependency connects a {irq_sort_of(bit)} lock:",
        f" ({class_text(safe)}",
        "",
        f"... which became {irq_sort_of(bit)} at:",
        *indented(safe.usage[bit], 2),
        "",
        f"to a {irq_sort_of(bad)} lock:",
        f" ({class_text(unsafe)}",
        "",
        f"... which became {irq_sort_of(bad)} at:",
        *indented(unsafe.usage[bad], 2),
        "",
        "other info that might help us debug this:",
        "",
        *interrupt_scenario(safe, unsafe, way),
        *all_held(context),
        "",
        *dependencies("the dependencies between them:", way),
    ]
    title = f"{sort_of(bit)} -> {sort_of(bad)} lock order detected"
    return _error("irq order", title, names_of(way), lines)


def wait_context(context: LockdepContext, new: Wanted) -> LockdepError:
    """A lock whose waiters sleep, where nobody may sleep."""
    level = 3 if new.key & IRQ else 5
    lines = [
        f"{context} is trying to lock:",
        lock_line(new.cls, new.lock_id, new.at),
        "other info that might help us debug this:",
        f"context-{{{level}:{level}}}",
        *all_held(context),
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
        *all_held(context),
    ]
    return _error("unlock", "bad unlock balance detected!", name, lines)


def still_held(context: LockdepContext) -> LockdepError:
    """The end has come, and something is held."""
    names = ", ".join(each.cls.name for each in context.locks())
    return _error("held", f"{context} still has locks held!", names, all_held(context))


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
