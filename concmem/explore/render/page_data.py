"""What the script of a page is to know of each step, as plain data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from concmem.explore import operation as op
from concmem.explore.render import words
from concmem.explore.render.lanes import ASIDE, RULE, STEP, Lanes, rows_of
from concmem.explore.render.state import first_values, held_after, shared_objects
from concmem.explore.steps import INTERRUPT, PREEMPTION, VALUES, WRITES, Site, Step, Trace

COLOURS: Final = ("#0ea5a0", "#d9468f", "#8b5cf6", "#e0801a", "#5a9e2f", "#4f7cff")
"""Of locks, in the order in which they are first taken."""

CONTEXT: Final = 3
"""Lines shown before and after the one where a step is."""


class PageData:
    """The states of a trace, step by step."""

    def __init__(self, trace: Trace, lanes: Lanes, key: Collection[int]) -> None:
        self._trace = trace
        self._lanes = lanes
        self._held = held_after(trace)
        first, shared = first_values(trace), shared_objects(trace)
        spoken_of = {trace[at].object for at in key}
        self.objects = sorted(first, key=lambda name: name not in spoken_of)
        self._objects = {name: i for i, name in enumerate(self.objects)}
        self._first = first
        self._shared = shared
        self._locks: dict[str, int] = {}
        self._locks_at: dict[int, dict[int, list[int]]] = {}
        """For each step, what each lane holds after it."""
        self._sites: dict[Site, int] = {}
        self._follow_locks()

    @property
    def has_private_objects(self) -> bool:
        """Whether there are objects that only one task uses, besides those that several do."""
        return 0 < len(self._shared) < len(self.objects)

    def _follow_locks(self) -> None:
        held: dict[str, tuple[int, list[int]]] = {}
        for step, locks in zip(self._trace, self._held, strict=True):
            lane = self._lanes.of(step.cpu)
            numbers = [self._locks.setdefault(lock, len(self._locks)) for lock in locks]
            held[step.task] = lane, numbers
            now: dict[int, list[int]] = {}
            for where, mine in held.values():
                now.setdefault(where, []).extend(mine)
            self._locks_at[step.at] = now

    def locks_at(self, at: int, lane: int) -> list[int]:
        """The numbers of the locks that a lane holds after the step at that place."""
        return self._locks_at[at].get(lane, [])

    def as_json(self, shown: Collection[int], start: int) -> dict[str, Any]:
        """All of it; steps by their place in the trace."""
        doing = self._doing()
        rows: list[dict[str, Any]] = []
        for step in self._trace:
            rows.append(self._row(step, doing.get(step.at, []), step.at in shown))
        return {
            "lanes": [lane.name for lane in self._lanes],
            "objects": [
                {"name": words.clean(name), "first": words.clean(self._first[name]),
                 "shared": name in self._shared or not self._shared}
                for name in self.objects
            ],
            "locks": [words.clean(lock) for lock in self._locks],
            "colours": COLOURS,
            "steps": self._trace.steps,
            "start": start,
            "rows": rows,
            "sites": [self._source(site) for site in self._sites],
        }  # fmt: skip

    def _row(self, step: Step, doing: list[tuple[int, str]], is_shown: bool) -> dict[str, Any]:
        lane = self._lanes.of(step.cpu)
        by = f"{words.task(step.task)}, step {step.number}{'+' if step.is_note else ''}"
        row: dict[str, Any] = {
            "doing": doing,
            "held": [[lane, self.locks_at(step.at, lane)]] if lane >= 0 else [],
            "object": self._objects[step.object] if step.kind in VALUES else -1,
            "value": words.clean(step.new) if step.changes or step.kind in WRITES else None,
            "by": by,
        }
        if is_shown:
            row |= {
                "number": f"{step.number}{'+' if step.is_note else ''}",
                "text": f"{words.task(step.task)}: {words.operation(step)}",
                "calls": " \u203a ".join(map(words.clean, step.calls)),
                "site": self._sites.setdefault(step.site, len(self._sites)),
            }
        return row

    def _doing(self) -> dict[int, list[tuple[int, str]]]:
        """For each step: what CPUs are at after it, where that changes."""
        doing: dict[int, list[tuple[int, str]]] = {}
        last = next((s.at for s in reversed(self._trace) if s.kind not in words.HIDDEN), 0)
        for row in rows_of(self._trace, self._lanes):
            step = row.step
            at = step.at if step is not None else last  # asides at the end are about the end
            now = doing.setdefault(at, [])
            if row.kind == STEP and step is not None:
                now.append((row.lane, "in an interrupt" if step.is_irq else "running"))
            elif row.kind == ASIDE:
                now.append((row.lane, row.text))
            elif row.kind == RULE and step is not None and step.switch in (PREEMPTION, INTERRUPT):
                now.append((row.lane, "preempted"))
        self._end(doing, last)
        return doing

    def _end(self, doing: dict[int, list[tuple[int, str]]], last: int) -> None:
        """Who has ended without anybody else going on after that."""
        for step in self._trace:
            if step.kind is op.DONE and step.at > last:
                doing[last].append((self._lanes.of(step.cpu), "has ended"))

    def _source(self, site: Site) -> dict[str, Any]:
        """The lines around a place."""
        lines = self._trace.sources.get(site.file, [])
        first = max(1, site.line - CONTEXT)
        around = range(first, min(len(lines), site.line + CONTEXT) + 1)
        return {
            "where": words.clean(str(site)),
            "lines": [
                [str(n), words.clean(lines[n - 1].rstrip("\n").expandtabs(4)), n == site.line]
                for n in around
            ],
        }
