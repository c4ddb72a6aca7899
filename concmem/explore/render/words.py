"""What steps are called."""

from __future__ import annotations

import unicodedata
from typing import Final

from concmem.explore import operation as op
from concmem.explore.steps import READS, WRITES, Site, Step

HIDDEN: Final = frozenset((op.STARTED, op.DONE, op.TAKEN))
"""Notes that are not shown: the steps around them say it already."""

_VERBS: Final = {
    op.GUARDED_LOAD: "load",
    op.GUARDED_STORE: "store",
    op.WAIT: "wait on",
    op.WAKE: "wake",
    op.TIMEOUT: "time-out of",
    op.SPURIOUS: "spurious wake-up of",
    op.RESUME: "resume after",
    op.IRQ: "interrupt",
    op.SPAWN: "start a body on",
    op.RELAX: "cpu_relax",
    op.RESCHED: "cond_resched",
}
"""Where the kind alone does not say it."""

_NO_OBJECT: Final = frozenset((op.RELAX, op.RESCHED, op.IRQ, op.IRQ_ON, op.IRQ_OFF, op.STOP))


def parts(step: Step, arrow: str = "->") -> tuple[str, str, str]:
    """A step in short: the verb, what it is done to, and the value or outcome."""
    kind = step.kind
    verb = _VERBS.get(kind, kind)
    obj = "" if kind in _NO_OBJECT else clean(step.object)
    return verb, obj, clean(_outcome(step, arrow))


def operation(step: Step) -> str:
    """A step in short: ``write x 0 -> 1``."""
    return " ".join(part for part in parts(step) if part)


def _outcome(step: Step, arrow: str) -> str:
    kind, old, new = step.kind, step.old, step.new
    if kind in READS:
        return f"{arrow} {new}"
    if kind is op.UPDATE and not step.changes:
        return f"{new}, unchanged"
    if old:
        return f"{old} {arrow} {new}"
    if kind in (op.WAKE, op.TRYLOCK):
        return f"{arrow} {new}"
    if kind is op.SEND and new:
        return f"({new})"
    return new


def task(name: str) -> str:
    """``cpu0``, or ``cpu0's interrupt``."""
    cpu = name.removesuffix("/irq")
    return clean(cpu if cpu == name else f"{cpu}'s interrupt")


def did(step: Step) -> str:
    """What a step did, in the past tense, with its number: ``read x = 0 (step 1)``."""
    kind, obj = step.kind, clean(step.object)
    old, new = clean(step.old), clean(step.new)
    if kind in READS:
        what = f"read {obj} = {new}"
    elif kind in WRITES:
        what = f"wrote {obj} = {new}"
    elif kind is op.UPDATE:
        what = f"found {obj} = {old}" if not step.changes else f"changed {obj} from {old} to {new}"
    else:
        what = _PAST.get(kind, "did {0}").format(obj or kind)
    return f"{what} ({at(step)})"


_PAST: Final = {
    op.ACQUIRE: "took {0}",
    op.RELEASE: "released {0}",
    op.TRYLOCK: "tried to take {0}",
    op.DOWN_READ: "took {0} for reading",
    op.DOWN_WRITE: "took {0} for writing",
    op.UP: "gave {0} up",
    op.WAIT: "went to sleep on {0}",
    op.WAKE: "woke {0}",
    op.RESUME: "went on after {0}",
    op.IRQ: "took an interrupt",
    op.SEND: "sent an interrupt to {0}",
    op.SPAWN: "started a body on {0}",
}

_PRESENT: Final = {
    op.ACQUIRE: "take {0}",
    op.RELEASE: "release {0}",
    op.DOWN_READ: "take {0} for reading",
    op.DOWN_WRITE: "take {0} for writing",
    op.UP: "give {0} up",
    op.TRYLOCK: "try to take {0}",
    op.UPDATE: "change {0}",
    op.STORE: "write {0}",
    op.LOAD: "read {0}",
    op.WAIT: "sleep on {0}",
    op.RESUME: "go on after {0}",
    op.SEND: "send an interrupt to {0}",
    op.SPAWN: "start a body on {0}",
    op.RELAX: "yield",
    op.RESCHED: "yield",
}


def about_to(kind: str, obj: str) -> str:
    """What somebody was about to do."""
    return _PRESENT.get(kind, f"{kind} {{0}}").format(clean(obj)).strip()


def at(step: Step) -> str:
    """``step 3``; notes come after the step whose number they have."""
    return f"after step {step.number}" if step.is_note else f"step {step.number}"


def at_site(site: Site) -> str:
    """`` at file.py:12 function``; empty if that is not known."""
    return f" at {clean(str(site))}" if site.file else ""


def listed(items: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def count(n: int, noun: str) -> str:
    """``1 step``, ``1,200 steps``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def clean(text: str) -> str:
    """*text* without characters that would move the cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """Columns of a terminal that *text* takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def cut(text: str, columns: int) -> str:
    """*text* in at most so many columns."""
    if width(text) <= columns:
        return text
    while text and width(text) >= columns:
        text = text[:-1]
    return f"{text}…" if columns > 0 else ""


def cut_middle(text: str, columns: int) -> str:
    """The same, with its end: what tells long names apart is often there."""
    if width(text) <= columns:
        return text
    if columns < 6:
        return cut(text, columns)
    tail = text[-(columns // 2) :]
    while width(tail) > columns // 2:
        tail = tail[1:]
    return cut(text[: -len(tail)], columns - width(tail)) + tail
