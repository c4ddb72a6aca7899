"""
An independent simulator: the calibrated programs as lists of abstract steps, and schedulers over them.

It shares nothing with the package. A program is a function that gives the initial variables and, for each thread,
its list of steps: ``(kind, object, action)``. The action changes the variables (and the thread's own), may raise
`Bug`, and may return the number of the step to go on with. Thread 0 runs from the start, the others from when they
are started. Where the state is finite, probabilities are computed exactly, from all schedules.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count, permutations, product
from typing import Any

Variables = dict[str, Any]
Action = Callable[[Variables, Variables], int | None]
Step = tuple[str, Any, Action | None]
Program = tuple[Variables, list[list[Step]]]

END = 99
"""The number of a step that is not there."""


class Bug(Exception):
    """The assertion of a program fails."""


def require(condition: object) -> None:
    if not condition:
        raise Bug


def note(own: Variables, condition: object) -> None:
    """As `require`, where locks are held: it fails when they have been released."""
    own["failed"] = not condition


def fail(shared: Variables, own: Variables) -> None:
    """With the last unlock: what was noted counts now."""
    require(not own.get("failed"))


def lock(name: str, action: Action | None = None) -> Step:
    return "lock", name, action


def unlock(name: str, action: Action | None = None) -> Step:
    return "unlock", name, action


def read(name: str, action: Action) -> Step:
    return "read", name, action


def write(name: str, value: Any) -> Step:
    def action(shared: Variables, own: Variables) -> None:
        shared[name] = value(own) if callable(value) else value

    return "write", name, action


def keep(name: str, into: str) -> Step:
    """Read a variable into one of the thread's own."""
    return read(name, lambda shared, own: own.update({into: shared[name]}))


def main(n: int, join: bool = True) -> list[Step]:
    """Start threads 1 to *n*, and wait for them."""
    start: list[Step] = [("start", thread, None) for thread in range(1, n + 1)]
    return start + [("join", thread, None) for thread in range(1, n + 1)] * join


def add(name: str, n: int) -> Action:
    def action(shared: Variables, own: Variables) -> None:
        shared[name] += n

    return action


def account() -> Program:
    def check(shared: Variables, own: Variables) -> None:
        note(own, not (shared["d"] and shared["w"]) or shared["balance"] == (1 - 2) - 4)

    def change(n: int, flag: str) -> Action:
        return lambda shared, own: shared.update({"balance": shared["balance"] + n, flag: True})

    threads = [
        main(3, join=False),
        [lock("m", check), unlock("m", fail)],
        [lock("m", change(2, "d")), unlock("m")],
        [lock("m", change(-4, "w")), unlock("m")],
    ]
    return {"balance": 1, "d": False, "w": False}, threads


def bluetooth_driver() -> Program:
    def decrement(shared: Variables, own: Variables) -> None:
        shared["pending"] -= 1
        own["last"] = not shared["pending"]

    adder = [
        *main(1, join=False),
        read("stopping", lambda shared, own: END if shared["stopping"] else None),
        lock("m", add("pending", 1)),
        unlock("m"),
        read("stopped", lambda shared, own: require(not shared["stopped"])),
    ]
    stopper = [
        write("stopping", True),
        lock("m", decrement),
        unlock("m", lambda shared, own: None if own["last"] else 4),
        write("event", True),
        read("event", lambda shared, own: None if shared["event"] else END),
        write("stopped", True),
    ]
    return {"pending": 1, "stopping": False, "event": False, "stopped": False}, [adder, stopper]


def deadlock01() -> Program:
    one = [lock("a"), lock("b"), unlock("b"), unlock("a")]
    two = [lock("b"), lock("a"), unlock("a"), unlock("b")]
    return {}, [main(2), one, two]


def lazy01() -> Program:
    def check(shared: Variables, own: Variables) -> None:
        note(own, shared["x"] < 3)

    threads = [[lock("m", each), unlock("m", fail)] for each in (add("x", 1), add("x", 2), check)]
    return {"x": 0}, [main(3), *threads]


def reorder(n: int) -> Program:
    def second(shared: Variables, own: Variables) -> int | None:
        return END if shared["b"] == 0 else None

    def third(shared: Variables, own: Variables) -> None:
        require(shared["a"] == 1)

    checker = [
        read("a", lambda shared, own: None if shared["a"] == 0 else 2),
        read("b", second),
        read("a", third),
        read("b", lambda shared, own: require(shared["b"] == -1)),
    ]
    return {"a": 0, "b": 0}, [main(n), *[[write("a", 1), write("b", -1)]] * (n - 1), checker]


def twostage() -> Program:
    def compare(shared: Variables, own: Variables) -> int:
        require(own["second"] == own["first"] + 1)
        return END

    writer = [
        lock("l1"),
        write("d1", 1),
        unlock("l1"),
        lock("l2"),
        read("d1", lambda shared, own: shared.update(d2=shared["d1"] + 1)),
        unlock("l2"),
    ]
    reader = [
        lock("l1"),
        read("d1", lambda shared, own: None if shared["d1"] else 6),
        keep("d1", "first"),
        unlock("l1"),
        lock("l2", lambda shared, own: own.update(second=shared["d2"])),
        unlock("l2", compare),
        unlock("l1"),
    ]
    return {"d1": 0, "d2": 0}, [main(2), writer, reader]


def wronglock_3() -> Program:
    increment = [keep("v", "old"), write("v", lambda own: own["old"] + 1)]
    check = read("v", lambda shared, own: note(own, shared["v"] == own["x"] + 1))
    one = [lock("D"), keep("v", "x"), *increment, check, unlock("D", fail)]
    return {"v": 0}, [main(4), one, *[[lock("T"), *increment, unlock("T")]] * 3]


def stringbuffer() -> Program:
    def length(shared: Variables, own: Variables) -> None:
        own["length"] = shared["count"]

    def copies(shared: Variables, own: Variables) -> None:
        note(own, own["length"] <= shared["count"])

    appender = [*main(1, join=False), lock("sb"), lock("B", length), unlock("B"), lock("B", copies)]
    appender += [unlock("B"), unlock("sb", fail)]
    changer = [lock("B", add("count", -3)), unlock("B"), lock("B", add("count", 3)), unlock("B")]
    return {"count": 3}, [appender, changer]


PROGRAMS: dict[str, Callable[[], Program]] = {
    "account": account,
    "bluetooth_driver": bluetooth_driver,
    "deadlock01": deadlock01,
    "lazy01": lazy01,
    "reorder_3": lambda: reorder(3),
    "twostage": twostage,
    "wronglock_3": wronglock_3,
    "stringbuffer": stringbuffer,
}


class State:
    """One moment of one run."""

    def __init__(self, program: Program) -> None:
        self.shared, self.threads = dict(program[0]), program[1]
        self.at: list[int] = [0, *[-1] * (len(self.threads) - 1)]
        """The number of each thread's next step; -1: not started."""
        self.own: list[Variables] = [{} for _ in self.threads]
        self.owners: dict[str, int] = {}
        self.taken = [0] * len(self.threads)
        """Steps of each thread."""

    def copy(self) -> State:
        state = copy.copy(self)
        state.shared, state.owners = dict(self.shared), dict(self.owners)
        state.at, state.taken = list(self.at), list(self.taken)
        state.own = [dict(each) for each in self.own]
        return state

    def key(self) -> tuple[Any, ...]:
        own = tuple(tuple(sorted(each.items())) for each in self.own)
        shared = tuple(sorted(self.shared.items()))
        return tuple(self.at), tuple(self.taken), own, shared, tuple(sorted(self.owners.items()))

    def is_done(self, thread: int) -> bool:
        return self.at[thread] >= len(self.threads[thread])

    def is_alive(self, thread: int) -> bool:
        return self.at[thread] >= 0 and not self.is_done(thread)

    def pending(self, thread: int) -> Step:
        return self.threads[thread][self.at[thread]]

    def enabled(self) -> list[int]:
        found = []
        for thread in filter(self.is_alive, range(len(self.threads))):
            kind, obj, _ = self.pending(thread)
            blocked = kind == "lock" and obj in self.owners
            if not blocked and (kind != "join" or self.is_done(obj)):
                found.append(thread)
        return found

    def is_stuck(self) -> bool:
        """Where nobody is enabled: a deadlock, not the end."""
        return any(map(self.is_alive, range(len(self.threads))))

    def take(self, thread: int) -> None:
        kind, obj, action = self.pending(thread)
        if kind == "lock":
            self.owners[obj] = thread
        elif kind == "unlock":
            del self.owners[obj]
        elif kind == "start":
            self.at[obj] = 0
        self.taken[thread] += 1
        following = action(self.shared, self.own[thread]) if action is not None else None
        self.at[thread] = self.at[thread] + 1 if following is None else following


# -- schedulers


Choose = Callable[[State, list[int]], int]


def run(program: Program, choose: Choose) -> bool:
    """Whether one run under *choose* shows the bug."""
    state = State(program)
    while enabled := state.enabled():
        try:
            state.take(choose(state, enabled))
        except Bug:
            return True
    return state.is_stuck()


def pct(priorities: Sequence[int], changes: Sequence[int]) -> Choose:
    """PCT with these initial priorities; after step ``changes[i]`` the priority is i + 1."""
    now = list(priorities)
    last = -1

    def choose(state: State, enabled: list[int]) -> int:
        nonlocal last
        for priority, step in enumerate(changes, 1):
            if sum(state.taken) == step:
                now[last] = priority
        last = max(enabled, key=now.__getitem__)
        return last

    return choose


def pos(rng: random.Random) -> Choose:
    """POS, which redraws for threads that are not enabled, too."""
    priorities: dict[int, float] = {}

    def choose(state: State, enabled: list[int]) -> int:
        alive = list(filter(state.is_alive, range(len(state.threads))))
        for thread in alive:
            priorities.setdefault(thread, rng.random())
        chosen = max(enabled, key=priorities.__getitem__)
        kind, obj, _ = state.pending(chosen)
        for thread in alive:
            other_kind, other_obj, _ = state.pending(thread)
            if other_obj == obj and not kind == other_kind == "read" and other_kind != "join":
                del priorities[thread]
        priorities.pop(chosen, None)
        return chosen

    return choose


# -- exact probabilities


def outcomes(program: Program) -> Iterator[bool]:
    """For each schedule there is, whether it shows the bug."""
    todo = [State(program)]
    while todo:
        state = todo.pop()
        enabled = state.enabled()
        if not enabled:
            yield state.is_stuck()
        for thread in enabled:
            after = state.copy()
            try:
                after.take(thread)
            except Bug:
                yield True
            else:
                todo.append(after)


def fewest(program: Program, cost: Callable[[int, list[int], int], int]) -> int:
    """What the cheapest schedule with the bug costs: a shortest path over all states."""
    todo = [(0, 0, -1, State(program))]
    visited = set()
    for number in count(1):
        spent, _, current, state = heappop(todo)
        enabled = state.enabled()
        if not enabled and state.is_stuck():
            return spent
        if (state.key(), current) in visited:
            continue
        visited.add((state.key(), current))
        for i, thread in enumerate(enabled):
            after = state.copy()
            price = spent + cost(current, enabled, thread)
            try:
                after.take(thread)
            except Bug:
                after = State(({}, [[("join", 0, None)]]))  # stuck
            heappush(todo, (price, number * 100 + i, thread, after))
    raise AssertionError


def preemptions(current: int, enabled: list[int], chosen: int) -> int:
    return int(current in enabled and chosen != current)


def delays(current: int, enabled: list[int], chosen: int) -> int:
    """Enabled threads between the one whose turn it is and *chosen*, in a round."""
    turns = sorted(enabled, key=lambda thread: (thread < current, thread))
    return turns.index(chosen)


Weigh = Callable[[State, int], float]


def probability(program: Program, weigh: Weigh) -> float:
    """Of the bug, when each enabled thread is chosen in proportion to its weight."""
    known: dict[tuple[Any, ...], float] = {}

    def visit(state: State) -> float:
        key = state.key()
        if key in known:
            return known[key]
        enabled = state.enabled()
        weights = [weigh(state, thread) for thread in enabled]
        found = 0.0 if enabled else float(state.is_stuck())
        for thread, weight in zip(enabled, weights, strict=True):
            after = state.copy()
            try:
                after.take(thread)
            except Bug:
                found += weight / sum(weights)
            else:
                found += weight / sum(weights) * visit(after)
        known[key] = found
        return found

    return visit(State(program))


def probability_random(program: Program) -> float:
    """Of the bug in a random walk."""
    return probability(program, lambda state, thread: 1)


def probability_urw(program: Program, counts: Sequence[int]) -> float:
    """Of the bug under URW, when each thread has so many steps; thread 0 starts the others."""

    def weigh(state: State, thread: int) -> float:
        left = counts[thread] - state.taken[thread]
        if thread == 0:
            left += sum(n for n, at in zip(counts, state.at, strict=True) if at == -1)
        return max(1, left)

    return probability(program, weigh)


def probability_pct(program: Program, depth: int, steps: int) -> float:
    """Of the bug under PCT, over all priorities and all changes after one of *steps* - 1 steps."""
    n = len(program[1])
    runs = [
        run(program, pct(priorities, changes))
        for priorities in permutations(range(depth, depth + n))
        for changes in product(range(1, steps), repeat=depth - 1)
    ]
    return sum(runs) / len(runs)


def probability_pos(program: Program, runs: int, seed: int) -> float:
    """Of the bug under POS, estimated from so many runs."""
    rng = random.Random(seed)
    return sum(run(program, pos(rng)) for _ in range(runs)) / runs
