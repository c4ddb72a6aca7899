"""
Data races on watched fields: FastTrack (Flanagan, Freund, PLDI 2009), over the trace of an execution.

Two accesses of one field race if they are by different CPUs, at least one is a write, and neither *happens
before* the other: nothing that both sides did orders them. Locks, wake-ups, interrupts, marked accesses (cells,
atomics, pairs, refcounts) and the end of a body do order. Memory words are no synchronisation: what SLUB does
with free pointers races by design, and is looked at as marked accesses only.

Clocks are kept for each CPU: its interrupts run on it one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.explore import operation as op
from concmem.explore.variables import Word
from concmem.explore.watch import Field

if TYPE_CHECKING:
    from concmem.explore.task import Task

Clock = dict[int, int]
"""For each CPU number, how far it is known."""

_ACQUIRES: Final = frozenset(
    (op.ACQUIRE, op.TAKEN, op.READ, op.UPDATE, op.IRQ, op.RESUME, op.STARTED, op.TRYLOCK)
)
_RELEASES: Final = frozenset(
    (op.RELEASE, op.UP, op.WRITE, op.UPDATE, op.SPAWN, op.DONE, op.WAKE, op.STOP)
)
_WRITES: Final = frozenset((op.STORE, op.GUARDED_STORE, op.WRITE))
_MARKED: Final = frozenset((op.READ, op.WRITE))
_ACCESSES: Final = frozenset((op.LOAD, op.STORE, op.GUARDED_LOAD, op.GUARDED_STORE))


class Access(NamedTuple):
    """One access of a field."""

    cpu: int
    time: int
    """The CPU's own clock then."""
    task: Task
    kind: str
    position: int
    """Of its entry in the trace."""
    lockless: bool
    """Whether the field may be read without its guard."""


class Race(NamedTuple):
    """Two accesses that nothing orders."""

    field: Field
    first: Access
    second: Access

    def __str__(self) -> str:
        words = {True: "write", False: "read"}
        a, b = self.first, self.second
        return (
            f"{self.field.name}: {words[b.kind in _WRITES]} by {b.task.name} races with "
            f"{words[a.kind in _WRITES]} by {a.task.name}"
        )


class _State:
    """What is known of one field."""

    __slots__ = ("reads", "write")

    def __init__(self) -> None:
        self.write: Access | None = None
        self.reads: dict[int, Access] = {}


def find_races(trace: list[Any], most: int = 1) -> list[Race]:
    """The first *most* races of different fields in *trace*."""
    tasks, kinds, objects = trace[::3], trace[1::3], trace[2::3]
    shared = _shared(tasks, kinds, objects)
    clocks: defaultdict[int, Clock] = defaultdict(dict)
    synced: dict[int, Clock] = {}
    states: defaultdict[int, _State] = defaultdict(_State)
    races: list[Race] = []
    for number in compress(range(len(kinds)), map(shared.__contains__, map(id, objects))):
        task, kind, obj = tasks[number], kinds[number], objects[number]
        if task is None or task.cpu is None:
            continue
        if kind is op.SEND:
            for target in _targets(obj):
                _release(
                    clocks[task.cpu.number], task.cpu.number, synced.setdefault(id(target), {})
                )
            continue
        position = 3 * number
        cpu: int = task.cpu.number
        clock = clocks[cpu]
        if kind in _ACCESSES or isinstance(obj, Field):
            access = Access(cpu, clock.get(cpu, 0), task, kind, position, obj.lockless)
            race = _access(states[id(obj)], access, clock, obj)
            if race is not None and all(race.field is not other.field for other in races):
                races.append(race)
                if len(races) >= most:
                    return races
            continue
        if isinstance(obj, Word):
            continue
        if kind is op.WAIT:  # gives the lock up
            _release(clock, cpu, synced.setdefault(id(obj.lock), {}))
            continue
        if kind in _ACQUIRES:
            known = synced.get(id(obj))
            if known:
                _join(clock, known)
        if kind in _RELEASES:
            _release(clock, cpu, synced.setdefault(id(obj), {}))
    return races


def _shared(tasks: list[Any], kinds: list[str], objects: list[Any]) -> set[int]:
    """
    Objects, by ``id``, that more than one CPU has used: the others neither race nor order anything.

    Whoever waits uses the queue's lock, and whoever sends an interrupt its targets.
    """
    uses = set(zip(tasks, map(id, objects), strict=True))
    waits: list[Any] = []
    if op.WAIT in kinds:
        waits = [at for at, kind in enumerate(kinds) if kind is op.WAIT]
        uses.update((tasks[at], id(objects[at].lock)) for at in waits)
    users: dict[int, Any] = {}
    shared: set[int] = set()
    for task, key in uses:
        if task is not None and task.cpu is not None:
            cpu = task.cpu
            if users.setdefault(key, cpu) is not cpu:
                shared.add(key)
    if op.SEND in kinds:
        for kind, obj in zip(kinds, objects, strict=True):
            if kind is op.SEND:
                shared.update(map(id, (obj, *_targets(obj))))
    shared.update(id(objects[at]) for at in waits if id(objects[at].lock) in shared)
    return shared


def _targets(obj: Any) -> Sequence[Any]:
    """Whom an interrupt is sent to: one CPU, or all of a runtime."""
    targets: Sequence[Any] = getattr(obj, "cpus", (obj,))
    return targets


def _access(state: _State, access: Access, clock: Clock, obj: Field) -> Race | None:
    """FastTrack's rules, for one access."""
    write = state.write
    race = None
    if write is not None and _concurrent(write, access, clock):
        race = Race(obj, write, access)
    if access.kind in _WRITES:
        for read in state.reads.values():
            if race is None and _concurrent(read, access, clock):
                race = Race(obj, read, access)
        state.write = access
        state.reads.clear()
    else:
        state.reads[access.cpu] = access
    return race


def _concurrent(before: Access, access: Access, clock: Clock) -> bool:
    """Whether nothing orders the two, and not both are marked (fields with lockless reads)."""
    return (
        before.cpu != access.cpu
        and before.time >= clock.get(before.cpu, 0)
        and not (_is_marked(before) and _is_marked(access))
    )


def _is_marked(access: Access) -> bool:
    return access.kind in _MARKED or (access.lockless and access.kind is op.GUARDED_LOAD)


def _join(clock: Clock, other: Clock) -> None:
    for cpu, time in other.items():
        if time > clock.get(cpu, 0):
            clock[cpu] = time


def _release(clock: Clock, cpu: int, into: Clock) -> None:
    """What *cpu* did so far is known to whoever acquires this."""
    clock[cpu] = clock.get(cpu, 0) + 1
    _join(into, clock)
