"""
Is there an order that explains a history?

The algorithm of Wing and Gong with Lowe's memory: in the list of calls and returns, any call before
the first return may have been the first. Take one that the model accepts, remove it, and go on; where
none is left, go back. A set of operations that led to a state once need not be tried twice.

What a specification says of each of several objects or keys alone can be checked alone: that makes
long histories quick ("P-compositionality", Horn and Kroening).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

from concmem.errors import NotLinearizable
from concmem.explore.calls import Call
from concmem.explore.explain import explain
from concmem.explore.specification import Model, as_model


class HasCalls(Protocol):
    """A :class:`~concmem.explore.history.History`."""

    def calls(self) -> list[Call]: ...


Partition = Callable[[Call], Any]


class Stuck(NamedTuple):
    """A part of a history that no order explains."""

    calls: list[Call]
    longest: list[Call]
    """The longest way that the model allows."""
    rejected: list[tuple[Call, str]]
    """The calls that could come next by time, and what the model says of each."""


class Linearization:
    """The answer of `linearizable`; true if there is an order."""

    def __init__(self, order: list[Call], stuck: Stuck | None, model: Model) -> None:
        self.order: Final = order
        """One order of the operations that explains the history; empty if there is none."""
        self.longest: Final = order if stuck is None else stuck.longest
        """The longest beginning of an order that the model allows."""
        self._stuck = stuck
        self._model = model

    def __bool__(self) -> bool:
        return self._stuck is None

    def explain(self) -> str:
        """The order; or the part of the history that has none, in columns, and where it gets stuck."""
        if self._stuck is None:
            return "\n".join(["linearizable:", *(f"  {call}" for call in self.order)])
        calls, longest, rejected = self._stuck
        return explain(calls, longest, rejected, self._model.name)

    def __repr__(self) -> str:
        return f"<Linearization {'of' if self else 'none:'} {len(self.longest)} calls>"


def linearizable(
    history: HasCalls | Iterable[Call],
    model: Any,
    partition: Partition | None = None,
) -> Linearization:
    """
    Whether *history* is one of a correct concurrent object, if *model* is the sequential one.

    Takes exponential time in the number of operations that overlap, at worst. Operations without
    a result may have happened, with any result, or not.

    Args:
        model: a class of :mod:`concmem.explore.models`, or another that is made as they are.
        partition: a key of each call, such that calls with different keys do not influence each
            other. By default what the model has as `partition`. Objects with names of their own
            (`History.wrap`) are always judged alone.
    """
    everything = list(history.calls() if hasattr(history, "calls") else history)
    checked = as_model(model, everything)
    key = partition or checked.partition
    parts: dict[Any, list[Call]] = {}
    for call in everything:
        parts.setdefault((call.obj, key(call)), []).append(call)
    moments: list[tuple[int, Call]] = []
    for calls in parts.values():
        found = _search(calls, checked)
        if isinstance(found, Stuck):
            return Linearization([], found, checked)
        # Each happens as soon as it has begun and those before it have happened. That is before its
        # end: one before it in this order has not begun after its end.
        moment = 0
        for call in found:
            moment = max(moment, call.start)
            moments.append((moment, call))
    moments.sort(
        key=lambda each: each[0]
    )  # stable; calls of different parts have different moments
    return Linearization([call for _, call in moments], None, checked)


def check_linearizable(
    history: HasCalls | Iterable[Call],
    model: Any,
    partition: Partition | None = None,
) -> None:
    """
    As `linearizable`, for tests.

    Raises:
        NotLinearizable: there is no order. The message is the explanation.
    """
    result = linearizable(history, model, partition)
    if not result:
        raise NotLinearizable(result.explain())


class _Events:
    """
    Calls and returns in a doubly linked list, by number.

    Call *i* of n is event *i*, its return n + i; a head before and an end behind them.
    """

    def __init__(self, calls: list[Call]) -> None:
        nr = len(calls)
        self.nr_calls = nr
        self.head, self.end = 2 * nr, 2 * nr + 1
        times = [(call.start, number) for number, call in enumerate(calls)]
        times += [
            (call.end, nr + number) for number, call in enumerate(calls) if call.end is not None
        ]
        self.has_returned = [call.end is not None for call in calls]
        order = [self.head, *(number for _, number in sorted(times)), self.end]
        self.next = [0] * (2 * nr + 2)
        self.previous = [0] * (2 * nr + 2)
        for before, after in pairwise(order):
            self.next[before], self.previous[after] = after, before

    def lift(self, call: int) -> None:
        """Take a call and its return out."""
        self._remove(call)
        if self.has_returned[call]:
            self._remove(call + self.nr_calls)

    def unlift(self, call: int) -> None:
        """Undo the last `lift` that is not undone."""
        if self.has_returned[call]:
            self._insert(call + self.nr_calls)
        self._insert(call)

    def _remove(self, event: int) -> None:
        before, after = self.previous[event], self.next[event]
        self.next[before], self.previous[after] = after, before

    def _insert(self, event: int) -> None:
        self.next[self.previous[event]] = self.previous[self.next[event]] = event

    def candidates(self) -> list[int]:
        """The calls before the first return: each may be the next to happen."""
        found = []
        event = self.next[self.head]
        while event < self.nr_calls:
            found.append(event)
            event = self.next[event]
        return found


def _search(calls: list[Call], model: Model) -> list[Call] | Stuck:
    """An order of *calls* that *model* allows, pending ones as need be."""
    events = _Events(calls)
    left = sum(events.has_returned)
    state, done = model.init(), 0
    taken: list[tuple[int, Any]] = []  # call, and the state before it
    seen = {(done, model.key(state))}
    longest: list[int] = []
    event = events.next[events.head]
    while left:
        if event < events.nr_calls:
            accepted, new = model.step(state, calls[event])
            key = (done | 1 << event, model.key(new)) if accepted else None
            if key is None or key in seen:
                event = events.next[event]
                continue
            seen.add(key)
            taken.append((event, state))
            state, done = new, done | 1 << event
            left -= events.has_returned[event]
            events.lift(event)
            if len(taken) > len(longest):
                longest = [number for number, _ in taken]
            event = events.next[events.head]
            continue
        # A return, or the end: what has returned here must have happened before, and nothing fits.
        if not taken:
            return _stuck(calls, longest, model)
        last, state = taken.pop()
        done &= ~(1 << last)
        left += events.has_returned[last]
        events.unlift(last)
        event = events.next[last]
    return [calls[number] for number, _ in taken]


def _stuck(calls: list[Call], longest: list[int], model: Model) -> Stuck:
    """What there is to say: the longest way, and what the model has against each next step."""
    events, state = _Events(calls), model.init()
    for number in longest:
        _, state = model.step(state, calls[number])
        events.lift(number)
    rejected = []
    for number in events.candidates():
        accepted, _ = model.step(state, calls[number])
        why = "leads nowhere" if accepted else model.why(state, calls[number])
        rejected.append((calls[number], why))
    return Stuck(calls, [calls[number] for number in longest], rejected)
