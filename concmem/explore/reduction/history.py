"""
What happened before what in one execution, and which two steps could have come the other way round.

A step *happens before* another one if they cannot be swapped, directly or through steps between them: they are
of the same CPU (a CPU and its interrupts run one after the other), their footprints conflict, or the first made
the second possible. Every order of the steps that respects this is an execution too, with the same outcome.

A *race* is a pair of steps of different tasks, one before the other with nothing between, of which the second
could have come before the first. Where the first one only made the second one possible (a wake-up, the end of
a body, a release) they could not be swapped; but what had made it impossible before may have come later:

- who takes a lock races with whoever *took* it last, not with the release;
- a CPU's body races with the last interrupt's *beginning*, not with its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from concmem.explore import operation as op
from concmem.explore.reduction.footprint import Footprint, Key

Clock: TypeAlias = "dict[int, int]"
"""For each CPU number, how many of its steps."""


class Actor(NamedTuple):
    """A task, as far as matters here; the same for the same prefix of schedule."""

    task: int
    """`Task.index`."""
    cpu: int
    """Its CPU's number."""
    is_irq: bool


class Event:
    """One step that was taken."""

    __slots__ = ("actor", "clock", "enables", "entry", "footprint", "number", "time")

    def __init__(self, number: int, actor: Actor, footprint: Footprint, time: int) -> None:
        self.number = number
        """Which step of the execution, from 0."""
        self.actor = actor
        self.footprint = footprint
        self.time = time
        """Which step of its CPU, from 1."""
        self.clock: Clock = {}
        """What has happened before it, itself included."""
        self.entry: Event | None = None
        """Of a step of an interrupt: the one that took it, if that was a choice."""
        self.enables: list[int] = []
        """Tasks (`Task.index`) whose next step it made possible, apart from releasing a lock."""

    def precedes(self, clock: Clock) -> bool:
        """Whether *clock* knows it."""
        return clock.get(self.actor.cpu, 0) >= self.time


class Race(NamedTuple):
    """Two steps that could come the other way round."""

    first: Event
    clock: Clock
    """What must happen before the second one in any case."""


class Edge(NamedTuple):
    """Why a step comes after another one."""

    before: Event
    rival: Event | None
    """
    What the step could have come before instead: the other one, if they conflict; or what made the step
    impossible until the other one; or nothing.
    """


class History:
    """The events of one execution, in order, and who touched what last."""

    def __init__(self) -> None:
        self.last: dict[int, Event] = {}
        """By CPU."""
        self._writes: dict[Key, Event] = {}
        self._reads: dict[Key, dict[int, Event]] = {}
        """Since the last write, by CPU."""
        self._takes: dict[Key, Event] = {}
        self._everything: Event | None = None
        self._barrier: Event | None = None
        self._enabled_by: dict[int, list[Event]] = {}

    def edges(self, actor: Actor, footprint: Footprint, after_all: bool = False) -> list[Edge]:
        """What happens directly before a step of *actor*. *after_all*: it came when nobody could go on."""
        enablers = list(self._enabled_by.get(actor.task, ()))
        enablers += [self._writes[key] for key in footprint.joins if key in self._writes]
        if after_all:
            enablers += self.last.values()
        if self._barrier is not None:
            enablers.append(self._barrier)
        edges = [Edge(event, None) for event in enablers]
        # An interrupt is impossible while its CPU spins with interrupts off: since the lock was taken, or
        # since somebody woke the CPU, which has slept until then.
        wakers = self._enabled_by.get(footprint.spinner, ())
        edges += [Edge(event, event) for event in wakers]
        for key in footprint.needs:
            event = self._writes.get(key)
            if event is not None and key in event.footprint.gives:
                edges += [Edge(event, rival) for rival in (self._takes.get(key), *wakers)]
        last = self.last.get(actor.cpu)
        if last is not None:
            edges.append(Edge(last, _rival_on_cpu(actor, footprint, last)))
        known = {edge.before for edge in edges}
        edges += [
            Edge(event, event)
            for event in self._conflicting(actor.cpu, footprint)
            if event not in known
        ]
        return edges

    def _conflicting(self, cpu: int, footprint: Footprint) -> list[Event]:
        """The last steps of other CPUs that *footprint* conflicts with."""
        if footprint.everything:
            return [event for other, event in self.last.items() if other != cpu]
        found = [self._everything] if self._everything is not None else []
        for key in footprint.reads | footprint.writes:
            if key in self._writes:
                found.append(self._writes[key])
        for key in footprint.writes:
            found += self._reads.get(key, {}).values()
        return [event for event in found if event.actor.cpu != cpu]

    def add(self, event: Event, after_all: bool) -> list[Race]:
        """The next event: give it its clock. The races in which it is the second."""
        actor = event.actor
        edges = self.edges(actor, event.footprint, after_all)
        last = self.last.get(actor.cpu)
        if actor.is_irq:
            if event.footprint.kind is op.IRQ:
                event.entry = event
            elif last is not None and last.actor.is_irq:
                event.entry = last.entry
        event.clock = joined(edge.before for edge in edges)
        event.clock[actor.cpu] = event.time
        self.take_in(event, after_all)
        return races(edges, actor)

    def take_in(self, event: Event, after_all: bool) -> None:
        """*event* is the last one now."""
        actor, footprint = event.actor, event.footprint
        self._enabled_by.pop(actor.task, None)
        for key in footprint.reads:
            self._reads.setdefault(key, {})[actor.cpu] = event
        for key in footprint.writes:
            self._writes[key] = event
            self._reads.pop(key, None)
        for key in footprint.takes:
            self._takes[key] = event
        self.last[actor.cpu] = event
        if footprint.everything:
            self._everything = event
        if after_all:
            self._barrier = event

    def enables(self, event: Event, index: int) -> None:
        """*event* has made the next step of task *index* possible."""
        self._enabled_by.setdefault(index, []).append(event)


def races(edges: list[Edge], actor: Actor) -> list[Race]:
    """The races of a step of *actor* that has *edges*."""
    found = []
    for edge in edges:
        first = edge.rival
        if first is None or first.actor.task == actor.task:
            continue
        if not any(_is_between(other, first, edge) for other in edges):
            clock = joined(
                other.before for other in edges if not first.precedes(other.before.clock)
            )
            found.append(Race(first, clock))
    return found


def _is_between(other: Edge, first: Event, edge: Edge) -> bool:
    """Whether *other* keeps the step after *first*, so that the two are no race by *edge*."""
    if other.before is edge.before or not first.precedes(other.before.clock):
        return False
    if edge.rival is edge.before or other.rival is None:
        return True
    # Without `first`, what the step conflicts with would not have come; nor what made it impossible.
    return other.rival is not other.before and not first.precedes(other.rival.clock)


def joined(events: Iterable[Event]) -> Clock:
    """What happened before any of *events*, these included."""
    clock: Clock = {}
    for event in events:
        for cpu, time in event.clock.items():
            if time > clock.get(cpu, 0):
                clock[cpu] = time
    return clock


def _rival_on_cpu(actor: Actor, footprint: Footprint, last: Event) -> Event | None:
    """What a step of *actor* could have come before, when *last* is the last step of its CPU."""
    if actor.is_irq and not last.actor.is_irq:
        return last if footprint.kind is op.IRQ else None
    if last.actor.is_irq and not actor.is_irq:
        return last.entry
    return None
