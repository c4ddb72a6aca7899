"""
Linearizability: could what concurrent callers saw have come from one call after the other?

A :class:`History` records when operations were called and when they returned. It is *linearizable* if there is an
order of the operations that a sequential model allows with the same results, and in which no operation comes
before one that had returned before it was called.

The search is that of Wing and Gong with Lowe's memory of what was tried: walk the list of calls and returns; a call
that the model accepts next, and that no other has to precede, is taken out and the walk begins anew; at a return
that was not taken out, go back. A set of operations with a state of the model is tried once only. Operations on
different objects (`partition`) are checked apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple, Protocol

PENDING: Final = object()
"""The result of an operation that has not returned: it may have had its effect or not."""


class Processor(Protocol):
    """What knows on which CPU it is called, such as a runtime."""

    @property
    def smp_processor_id(self) -> Callable[[], int]: ...


class Call(NamedTuple):
    """One operation of a history."""

    cpu: int
    name: str
    args: tuple[Any, ...]
    result: Any
    """What it returned, or the exception that it raised; `PENDING` if it has not."""
    called: int
    returned: int
    """Positions in the history; later than everything for pending ones."""

    def __str__(self) -> str:
        args = ", ".join(map(repr, self.args))
        result = "..." if self.result is PENDING else repr(self.result)
        return f"{self.name}({args}) -> {result}"


class History:
    """
    What concurrent callers did. May be used from CPUs of any runtime.

    Args:
        rt: says on which CPU a call is made; without it all are of CPU 0.
    """

    def __init__(self, rt: Processor | None = None) -> None:
        self._cpu = rt.smp_processor_id if rt is not None else (lambda: 0)
        # Appended to in one step, also by several threads: the position is the time.
        self._events: list[tuple[str, Any]] = []

    def call(self, name: str, *args: Any) -> object:
        """An operation begins; the token to give to `returns`."""
        token = [self._cpu(), name, args]
        self._events.append(("call", token))
        return token

    def returns(self, token: object, result: Any) -> None:
        """It has ended, with *result*."""
        self._events.append(("return", (token, result)))

    def run(self, name: str, fn: Callable[..., Any], *args: Any) -> Any:
        """Call ``fn(*args)`` and record that as *name*; what it raises is a result, too."""
        token = self.call(name, *args)
        try:
            result = fn(*args)
        except Exception as error:
            self.returns(token, error)
            raise
        self.returns(token, result)
        return result

    def wrap(self, obj: Any) -> Any:
        """*obj* with every method call recorded."""
        return _Recorded(self, obj)

    def operations(self) -> list[Call]:
        """All operations, in the order of their calls."""
        ends = {
            id(event[0]): (position, event[1])
            for position, (kind, event) in enumerate(self._events)
            if kind == "return"
        }
        never = len(self._events)
        calls = []
        for position, (kind, token) in enumerate(self._events):
            if kind == "call":
                cpu, name, args = token
                returned, result = ends.get(id(token), (never, PENDING))
                calls.append(Call(cpu, name, args, result, position, returned))
        return calls


class _Recorded:
    """An object whose method calls are recorded."""

    def __init__(self, history: History, obj: Any) -> None:
        self._history = history
        self._obj = obj

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._obj, name)
        if not callable(found):
            return found
        return lambda *args: self._history.run(name, found, *args)


class Result(NamedTuple):
    """Whether a history is linearizable; its truth value is just that."""

    ok: bool
    order: tuple[Call, ...]
    """A sequential order that explains everything, or the longest part of one that was found."""
    stuck: tuple[Call, ...] = ()
    """The operations of which none could come next, then."""

    def __bool__(self) -> bool:
        return self.ok

    def explain(self) -> str:
        """What was found, in words."""
        lines = [f"  cpu{call.cpu}: {call}" for call in self.order]
        if self.ok:
            return "\n".join(["linearizable, for example as:", *lines])
        stuck = [f"  cpu{call.cpu}: {call}" for call in self.stuck]
        return "\n".join(
            (
                "not linearizable. The longest beginning that the model allows:",
                *(lines or ["  (none)"]),
                "and then none of these could come next:",
                *stuck,
            )
        )


def linearizable(
    history: History | list[Call],
    model: Callable[[], Any],
    partition: Callable[[Call], Hashable] | None = None,
) -> Result:
    """
    Whether *history* is linearizable.

    Args:
        model: makes an object that has the history's operations as methods, and does them one after the
            other. It is copied; its state is what ``vars`` shows, or what its ``key()`` returns.
        partition: for operations on independent objects, which one each is on; they are checked apart.
    """
    calls = history if isinstance(history, list) else history.operations()
    parts: dict[Hashable, list[Call]] = {}
    for call in calls:
        parts.setdefault(partition(call) if partition is not None else None, []).append(call)
    order: list[Call] = []
    for part in parts.values():
        result = _search(part, model)
        if not result.ok:
            return result
        order += result.order
    return Result(
        True, tuple(sorted(order, key=lambda call: call.called) if len(parts) > 1 else order)
    )


class NotLinearizable(AssertionError):
    """A history that no sequential order explains. The message has the longest part of one."""

    failure_kind = "not-linearizable"


def check_linearizable(
    history: History | list[Call],
    model: Callable[[], Any],
    partition: Callable[[Call], Hashable] | None = None,
) -> None:
    """Raise `NotLinearizable` unless *history* is, see :func:`linearizable`."""
    result = linearizable(history, model, partition)
    if not result:
        raise NotLinearizable(result.explain())


class _Entry:
    """A call or a return in a doubly linked list."""

    __slots__ = ("call", "is_return", "match", "next", "prev")

    def __init__(self, call: int, is_return: bool) -> None:
        self.call = call
        self.is_return = is_return
        self.match: _Entry | None = None
        self.prev: _Entry | None = None
        self.next: _Entry | None = None

    def unlink(self) -> None:
        if self.prev is not None:
            self.prev.next = self.next
        if self.next is not None:
            self.next.prev = self.prev

    def relink(self) -> None:
        if self.prev is not None:
            self.prev.next = self
        if self.next is not None:
            self.next.prev = self


def _linked(calls: list[Call]) -> _Entry:
    """The list of calls and returns, behind a head."""
    times = [(call.called, i, False) for i, call in enumerate(calls)]
    times += [(call.returned, i, True) for i, call in enumerate(calls)]
    head = last = _Entry(-1, False)
    entries: dict[int, _Entry] = {}
    for _, i, is_return in sorted(times):
        entry = _Entry(i, is_return)
        entry.prev, last.next = last, entry
        last = entry
        if is_return:
            entries[i].match = entry
        else:
            entries[i] = entry
    return head


def _search(calls: list[Call], model: Callable[[], Any]) -> Result:
    head, state = _linked(calls), model()
    taken: list[tuple[_Entry, Any]] = []
    """Operations in the order tried, each with the state before it."""
    done = 0
    seen: set[tuple[int, Hashable]] = set()
    longest: list[int] = []
    stuck: list[int] = []
    left = sum(call.result is not PENDING for call in calls)
    entry = head.next
    while left:
        if entry is not None and not entry.is_return:
            call = calls[entry.call]
            accepted = _apply(state, call)
            mark = done | 1 << entry.call
            if accepted is not None and (mark, _key(accepted)) not in seen:
                seen.add((mark, _key(accepted)))
                taken.append((entry, state))
                state, done = accepted, mark
                left -= call.result is not PENDING
                entry.unlink()
                assert entry.match is not None
                entry.match.unlink()
                if len(taken) > len(longest):
                    longest = [each.call for each, _ in taken]
                    stuck = []
                entry = head.next
                continue
            if len(taken) == len(longest):
                stuck.append(entry.call)
            entry = entry.next
            continue
        # A return whose call was not taken out: something before it was wrong.
        if not taken:
            return Result(
                False,
                tuple(calls[i] for i in longest),
                tuple(calls[i] for i in dict.fromkeys(stuck) if i not in longest),
            )
        entry, state = taken.pop()
        done &= ~(1 << entry.call)
        left += calls[entry.call].result is not PENDING
        assert entry.match is not None
        entry.match.relink()
        entry.relink()
        entry = entry.next
    return Result(True, tuple(calls[each.call] for each, _ in taken))


def _apply(state: Any, call: Call) -> Any:
    """The model's state after *call*, or ``None`` if it would have had another result."""
    after = copy.deepcopy(state)
    try:
        result = getattr(after, call.name)(*call.args)
    except Exception as error:
        result = error
    if call.result is PENDING:
        return after
    if isinstance(call.result, Exception):
        return after if type(result) is type(call.result) else None
    if isinstance(result, Exception) or result != call.result:
        return None
    return after


def _key(state: Any) -> Hashable:
    key = getattr(state, "key", None)
    if key is not None:
        found: Hashable = key()
        return found
    return repr(sorted(vars(state).items())) if hasattr(state, "__dict__") else repr(state)
