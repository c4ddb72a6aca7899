"""Traces made by hand, from lines such as ``cpu0 r x 0`` and ``cpu1 w x 0 1``."""

from __future__ import annotations

from concmem.explore import operation as op
from concmem.explore.steps import PREEMPTION, Site, Step, Trace

_KINDS = {"r": op.READ, "w": op.WRITE, "u": op.UPDATE, "a": op.ACQUIRE, "rel": op.RELEASE}


def trace(text: str, nr_cpus: int = 2) -> Trace:
    """
    One step a line: task, kind, object, values, and ``!`` where the task before it was preempted.

    Each step has a line of a source file of its own, or that of ``@n``. Locks are as taken and given up.
    """
    made = Trace(nr_cpus)
    held: dict[str, list[str]] = {}
    last = ""
    for at, line in enumerate(text.strip().splitlines()):
        words = line.split()
        forced = "!" in words
        place = next((int(word[1:]) for word in words if word.startswith("@")), at + 1)
        task, kind, name, *values = [w for w in words if w != "!" and not w.startswith("@")]
        locks = held.setdefault(task, [])
        made.append(
            Step(
                at=at,
                number=at + 1,
                cpu=int(task.removesuffix("/irq")[-1]),
                task=task,
                is_irq=task.endswith("/irq"),
                kind=_KINDS[kind],
                object=name,
                old=values[0] if values else "",
                new=values[-1] if values else "",
                changes=len(values) == 2 and values[0] != values[1],
                site=Site("/src/program.py", place, "body"),
                calls=("body",),
                held=tuple(locks),
                irqs_off=False,
                switch=PREEMPTION if forced else "switch" if last and last != task else "",
                left=last if last != task else "",
                why="",
                causes=(),
                is_note=False,
            )
        )
        if kind == "a":
            locks.append(name)
        elif kind == "rel":
            locks.remove(name)
        last = task
    return made
