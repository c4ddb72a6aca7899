"""The tree of choices of a reduced search: nodes on the way to where the search is, and who sleeps at each."""

from __future__ import annotations

from typing import TypeAlias

from concmem.explore import operation as op
from concmem.explore.reduction.footprint import Footprint, Key, Names
from concmem.explore.reduction.history import Actor, Event, Race

Pending: TypeAlias = "dict[int, tuple[str, int]]"
"""Who could go on, by `Task.index`: the kind of the operation and the number of its object."""


class Sleeper:
    """
    The next step of a task, as it was when it was taken at an earlier node.

    Nothing that conflicts with it has happened since, so it is still the same step.
    """

    __slots__ = ("_cpu", "_footprint", "_known", "_new_names")

    def __init__(self, event: Event, known: int, names: Names) -> None:
        self._cpu = event.actor.cpu
        self._known = known
        """So many objects had been met at the node: they have the same numbers in all executions."""
        taken = event.footprint
        self._footprint = footprint = Footprint(taken.kind)
        footprint.everything = taken.everything
        footprint.reads = {key for key in taken.reads if not self._is_new(key)}
        footprint.writes = {key for key in taken.writes if not self._is_new(key)}
        # Objects that were met in that step for the first time: in another execution they are known by
        # their names only, so whatever has the same name is taken for them.
        self._new_names = {
            op.name_of(names.objects[key])
            for key in taken.reads | taken.writes
            if isinstance(key, int) and self._is_new(key)
        }

    def _is_new(self, key: Key) -> bool:
        return isinstance(key, int) and key >= self._known

    def is_woken_by(self, event: Event, names: Names) -> bool:
        """Whether *event* may conflict with it."""
        other = event.footprint
        return (
            event.actor.cpu == self._cpu
            or self._footprint.conflicts(other)
            or any(
                op.name_of(names.objects[key]) in self._new_names
                for key in (other.reads | other.writes if self._new_names else ())
                if isinstance(key, int) and self._is_new(key)
            )
        )


class Node:
    """A state on the way."""

    __slots__ = ("after_all", "asleep", "chosen", "done", "known", "pending", "wanted")

    def __init__(
        self, pending: Pending, asleep: dict[int, Sleeper], chosen: int, known: int, after_all: bool
    ) -> None:
        self.pending = pending
        self.asleep = asleep
        """Who need not go on here: what would follow was covered before."""
        self.chosen = chosen
        """Who goes on now."""
        self.wanted = {chosen}
        """Who is to go on here some time, or has."""
        self.done: dict[int, Sleeper] = {}
        """Who has, with all that followed."""
        self.known = known
        """Objects met so far."""
        self.after_all = after_all
        """Whether nobody could go on, until a time-out came."""

    def is_full(self) -> bool:
        """Whether there is nobody left who could be wanted."""
        return all(index in self.wanted or index in self.asleep for index in self.pending)

    def want_all(self) -> None:
        self.wanted |= self.pending.keys()


class Tree:
    """The nodes from the beginning of the execution of now, and the step that was taken at each."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.events: list[Event] = []

    def next_branch(self, names: Names) -> bool:
        """Go back to the last node where somebody is wanted who has not gone on yet; whether there is one."""
        nodes = self.nodes
        while nodes:
            node = nodes[-1]
            node.done[node.chosen] = Sleeper(self.events[len(nodes) - 1], node.known, names)
            left = node.wanted - node.done.keys() - node.asleep.keys()
            if left:
                node.chosen = min(left)
                del self.events[len(nodes) - 1 :]
                return True
            nodes.pop()
        return False

    def asleep(self, pending: Pending, names: Names) -> dict[int, Sleeper]:
        """Who sleeps after the last event."""
        if not self.nodes:
            return {}
        node, event = self.nodes[-1], self.events[-1]
        return {
            index: sleeper
            for index, sleeper in (node.asleep | node.done).items()
            if index in pending and not sleeper.is_woken_by(event, names)
        }

    def reverse(self, race: Race, number: int, actor: Actor) -> None:
        """
        Have the second step of *race* tried before the first one, if nothing wanted leads there.

        That is: before the first one, all that happened between without depending on it, then the second. Of
        these steps, some could be the first: one such has to be wanted.

        Args:
            number: of the second step.
            actor: who takes it.
        """
        first = race.first
        node = self.nodes[first.number]
        if node.is_full():
            return
        initials: list[int] = []
        begun: dict[int, int] = {}
        for event in self.events[first.number + 1 : number]:
            cpu = event.actor.cpu
            if cpu in begun or first.precedes(event.clock):
                continue
            if _depends_on_none(event.clock, begun):
                initials.append(event.actor.task)
            begun[cpu] = event.time
        if actor.cpu not in begun and _depends_on_none(race.clock, begun):
            initials.append(actor.task)
        if node.wanted.isdisjoint(initials):
            possible = [index for index in initials if index in node.pending]
            awake = [index for index in possible if index not in node.asleep]
            if awake:
                node.wanted.add(awake[0])
            elif begun and not possible:
                node.want_all()


def _depends_on_none(clock: dict[int, int], begun: dict[int, int]) -> bool:
    """Whether *clock* knows none of the steps in *begun* (for each CPU, the first one's time)."""
    return all(clock.get(cpu, 0) < time for cpu, time in begun.items())
