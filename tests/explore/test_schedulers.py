"""What single schedulers promise: distributions, priorities, redraws, and what they say of their coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations
from math import factorial
from types import SimpleNamespace
from typing import Any

import pytest

from concmem import explore
from concmem.errors import BadArgument, BadArgumentType, Nondeterminism
from concmem.explore import (
    DFS,
    PCT,
    POS,
    SURW,
    URW,
    Census,
    ControlledRuntime,
    DelayBounding,
    NondeterminismCheck,
    PreemptionBounding,
    Program,
    RoundRobin,
    Scheduler,
)
from concmem.explore import operation as op
from concmem.explore.runner import MakeProgram, Runner
from concmem.explore.schedulers import make_scheduler
from concmem.explore.task import Task

from .programs import abba, counter, mutual_exclusion


def executions(program: MakeProgram, scheduler: Scheduler, times: int) -> Iterator[Any]:
    """So many executions, or as many as the scheduler has."""
    with Runner(program).session() as runner:
        for _ in range(times):
            execution = runner.run_once(scheduler)
            if execution is None:
                return
            yield execution


def order(execution: Any) -> str:
    """The CPU of each step."""
    return "".join(
        str(execution.trace[i].index)
        for i in range(0, len(execution.trace), 3)
        if execution.trace[i + 1] not in op.NOTES
    )


def steps(*counts: int) -> MakeProgram:
    """A program that does not block: body *i* writes ``counts[i]`` times to a cell of its own."""

    def program(rt: ControlledRuntime) -> Program:
        def body(count: int) -> Callable[[], None]:
            x = rt.cell(0, "x")

            def run() -> None:
                for i in range(count):
                    x.value = i

            return run

        return Program([body(count) for count in counts])

    return program


def interleavings(*counts: int) -> set[str]:
    """All orders of so many steps of each CPU, by brute force."""
    letters = "".join(str(cpu) * count for cpu, count in enumerate(counts))
    return {"".join(each) for each in permutations(letters)}


def chi_square(found: Counter[Any], expected: int) -> float:
    """Of counts that should all be equal, over *expected* classes."""
    assert len(found) <= expected
    each = sum(found.values()) / expected
    rest = (expected - len(found)) * each
    return rest + sum((n - each) ** 2 / each for n in found.values())


def tasks(*pending: tuple[str, object]) -> list[Task]:
    """Enabled tasks that have announced such operations."""
    made = []
    for index, (kind, obj) in enumerate(pending):
        task = Task(None, index, f"cpu{index}", False)
        task.kind, task.object, task.enabled = kind, obj, True
        made.append(task)
    return made


# -- URW and SURW

# Upper 0.1 % points of the chi-square distribution.
CHI_SQUARE = {1: 10.83, 9: 27.88, 11: 31.26, 19: 43.82, 29: 58.30}


@pytest.mark.parametrize(("counts", "seed"), [((3, 2), 1), ((3, 3), 2), ((2, 2, 1), 3)])
def test_urw_is_uniform(counts: tuple[int, ...], seed: int) -> None:
    """Where nothing blocks, every interleaving is equally likely. A random walk is not like that."""
    every = interleavings(*counts)
    dfs = DFS()
    dfs.reset(0)
    assert {order(each) for each in executions(steps(*counts), dfs, 1000)} == every
    limit = CHI_SQUARE[len(every) - 1]
    for scheduler, is_uniform in ((URW(), True), (make_scheduler("random"), False)):
        scheduler.reset(seed)
        runs = executions(steps(*counts), scheduler, 2001)
        next(runs)  # the pilot: the default schedule
        found = Counter(map(order, runs))
        assert (chi_square(found, len(every)) < limit) is is_uniform


def spawning(rt: ControlledRuntime) -> Program:
    """One body starts another, and both write twice."""
    x, y = rt.cell(0, "x"), rt.cell(0, "y")

    def child() -> None:
        x.value = 1
        x.value = 2

    def main() -> None:
        y.value = 1
        rt.submit(1, child)
        y.value = 2

    return Program([main, None])


def test_urw_weighs_what_is_not_started_yet() -> None:
    """A body has the weight of those that it will start: all 3 interleavings are equally likely."""
    scheduler = URW()
    scheduler.reset(1)
    runs = executions(spawning, scheduler, 1201)
    next(runs)
    found = Counter(map(order, runs))
    assert set(found) == {"00011", "00101", "00110"}
    # Each 400 of 1,200, give or take 4 times its standard deviation of 16.
    assert all(335 < n < 465 for n in found.values())
    assert scheduler.census is not None
    assert (dict(scheduler.census.events), scheduler.census.starters) == ({0: 3, 1: 2}, {1: 0})


def test_the_pilot_is_repeated_when_it_fails() -> None:
    """The counts of an execution that was broken off are not used."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def first() -> None:
            x.value = 1
            x.value = 2

        def second() -> None:
            assert x.value != 2  # fails in the default schedule
            x.value = 3

        return Program([first, second])

    scheduler = URW()
    scheduler.reset(1)
    runs = executions(program, scheduler, 50)
    assert next(runs).finding is not None
    assert scheduler.census is None
    # A random walk fails with 1/4.
    assert any(scheduler.census is not None for _ in runs)
    assert scheduler.census is not None
    assert dict(scheduler.census.events) == {0: 2, 1: 2}


def test_the_longest_of_the_pilots_counts() -> None:
    """The default schedule may take a short way."""

    def program(rt: ControlledRuntime) -> Program:
        x, y = rt.cell(0, "x"), rt.cell(0, "y")

        def first() -> None:
            x.value = 1

        def second() -> None:
            if not x.value:  # not so by default
                for i in range(5):
                    y.value = i

        return Program([first, second])

    for make in (URW, SURW):
        scheduler = make()
        scheduler.reset(1)
        counts = []
        for _ in executions(program, scheduler, 20):
            assert scheduler.census is not None
            counts.append(scheduler.census.events[1])
        assert counts[0] == 1
        assert (
            counts[-1] == 6
        )  # by default 1 of 2 executions goes that way, so none of 20 in a million
        assert counts == sorted(counts)


def test_known_counts_need_no_pilot() -> None:
    """The first execution is like the others."""
    program = steps(1, 3)
    firsts = set()
    for seed in range(20):
        scheduler = URW(Census({0: 1, 1: 3}))
        scheduler.reset(seed)
        firsts |= {order(each) for each in executions(program, scheduler, 1)}
    assert firsts == interleavings(
        1, 3
    )  # one of 4 is missed with 1.3 %, and never with these seeds


def selective(rt: ControlledRuntime) -> Program:
    """One body reaches the object that both use after many steps, the other one at once."""
    x, y = rt.cell(0, "x"), rt.cell(0, "y")

    def slow() -> None:
        for i in range(8):
            y.value = i
        x.value = 1

    def quick() -> None:
        x.value = 2

    return Program([slow, quick], lambda: LAST.append(x.value))


LAST: list[int] = []
"""Who wrote last, in each execution of `selective`."""


def test_surw_is_uniform_over_the_interesting_object() -> None:
    """Who comes first at the shared object is even, however far it is. To a random walk it is not."""
    for scheduler, low, high in ((SURW(), 430, 570), (make_scheduler("random"), 970, 1000)):
        scheduler.reset(1)
        LAST.clear()
        for _ in executions(selective, scheduler, 1001):
            pass
        if isinstance(scheduler, SURW):
            assert scheduler.interesting == "x", "the only one that both use"
        # Half of 1,000, give or take 4 times its standard deviation of 16; 511/512 of a random walk.
        assert low < LAST[1:].count(1) <= high


def test_surw_picks_objects_by_their_accesses() -> None:
    """An object that is accessed three times as often is the interesting one three times as often."""

    def program(rt: ControlledRuntime) -> Program:
        x, y = rt.cell(0, "x"), rt.cell(0, "y")

        def body() -> None:
            for i in range(3):
                x.value = i
            y.value = 0

        return Program([body, body])

    scheduler = SURW()
    scheduler.reset(1)
    found = Counter(
        scheduler.interesting for i, _ in enumerate(executions(program, scheduler, 801)) if i
    )
    # 600 of 800, give or take 4 times its standard deviation of 12.
    assert 550 < found["x"] < 650
    assert found["x"] + found["y"] == 800


def test_surw_is_not_stuck_when_the_intended_one_waits() -> None:
    """The intended task waits for a lock whose holder is held back: all are released."""

    def program(rt: ControlledRuntime) -> Program:
        lock, x = rt.spinlock("lock"), rt.cell(0, "x")

        def body() -> None:
            with lock:
                x.value = x.value + 1

        def after() -> None:
            assert x.value == 3

        return Program([body] * 3, after)

    outcome = explore.check(program, "surw", executions=300)
    assert outcome.failure is None, str(outcome.failure)
    assert outcome.coverage.schedules >= 6, "all orders of the sections"


# -- POS


def test_pos_redraws_what_conflicts() -> None:
    """The executed event's task, and those whose events conflict with it, get new priorities; nobody else."""
    x, y = object(), object()
    pending = [
        (op.WRITE, x),
        (op.READ, x),
        (op.WRITE, x),
        (op.READ, y),
        (op.WRITE, y),
        (op.RELAX, None),
        (op.RESCHED, None),
    ]
    scheduler = POS()
    chosen_first = set()
    for seed in range(60):
        scheduler.reset(seed)
        scheduler.begin(SimpleNamespace())  # type: ignore[arg-type]
        enabled = tasks(*pending)
        scheduler.priorities.update({task: (task.index + seed) % 7 / 7 for task in enabled})
        before = dict(scheduler.priorities)
        chosen = scheduler.choose(enabled, enabled[0])
        assert before[chosen] == max(before.values())
        kind, obj = pending[chosen.index]
        conflicting = {
            task
            for task in enabled
            if obj is not None
            and pending[task.index][1] is obj
            and op.WRITE in (kind, pending[task.index][0])
        }
        changed = {task for task in enabled if scheduler.priorities[task] != before[task]}
        assert changed == conflicting | {chosen}
        chosen_first.add(chosen.index)
    assert chosen_first == set(range(7))


def test_pos_keeps_the_priority_of_independent_events() -> None:
    """An event that nothing conflicts with waits for its turn, however many others come before."""

    scheduler = POS()
    scheduler.reset(1)
    orders = Counter(order(each) for each in executions(steps(1, 6), scheduler, 1400))
    # Its priority is the lowest of seven with 1/7 (in a random walk it comes last with 1/64): 200 of 1,400,
    # give or take 4 times its standard deviation of 13.
    assert 148 < orders["1111110"] < 252


# -- PCT


def test_pct_runs_by_priority() -> None:
    """Of depth 1 it is a random order of the bodies, each order equally likely, and no preemption."""
    scheduler = PCT(depth=1)
    scheduler.reset(1)
    found = Counter(order(each) for each in executions(steps(2, 2, 2), scheduler, 1200))
    assert set(found) == {"".join(cpu * 2 for cpu in each) for each in permutations("012")}
    # Each 200 of 1,200, give or take 4 times its standard deviation of 13.
    assert all(148 < n < 252 for n in found.values())


def test_pct_changes_after_each_step_but_the_last() -> None:
    """Of depth 2, one preemption, after each step with the same probability."""
    scheduler = PCT(depth=2, steps=8)
    scheduler.reset(1)
    found = Counter(order(each) for each in executions(steps(4, 4), scheduler, 2800))
    # The change after step 4 to 7 comes when the first one has ended, and changes nothing.
    expected = {"00001111": 4, "01111000": 1, "00111100": 1, "00011110": 1}
    for first, times in expected.items():
        second = first.translate({48: 49, 49: 48})
        # 200 of 2,800 each, give or take 4 times its standard deviation of 14.
        assert 144 * times < found[first] < 256 * times
        assert 144 * times < found[second] < 256 * times
    assert sum(found.values()) == 2800
    assert len(found) == 8


def test_pct_lowers_to_the_drawn_priority() -> None:
    """The second of two changes may lower less than the first: who was lowered first stays the lowest."""
    scheduler = PCT(depth=3, steps=9)
    scheduler.reset(0)
    scheduler.begin(SimpleNamespace(step=0, version=0))  # type: ignore[arg-type]
    execution = scheduler._execution = SimpleNamespace(step=0, version=0)  # type: ignore[assignment]
    a, b, c = enabled = tasks(*[(op.READ, object())] * 3)
    scheduler._priorities.update({a: 5.0, b: 4.0, c: 3.0})
    scheduler._changes, scheduler._next_change = [(4, 2), (2, 1)], 2
    chosen: list[Task] = [a]
    for step in range(6):
        execution.step = step
        chosen.append(scheduler.choose(enabled, chosen[-1]))
    assert chosen[1:] == [a, a, b, b, c, c]
    assert (scheduler._priorities[a], scheduler._priorities[b]) == (1, 2)


def test_pct_gives_who_yields_the_lowest_priority() -> None:
    """Also lower than what changes lower to, and than who has yielded before."""
    scheduler = PCT(depth=2, steps=100)
    scheduler.reset(0)
    scheduler.begin(SimpleNamespace(step=0, version=0))  # type: ignore[arg-type]
    enabled = tasks(*[(op.RELAX, None)] * 4)
    current, turns = enabled[0], []
    for _ in range(12):
        current.resting = set()
        current = scheduler.choose(enabled, current)
        for task in enabled:
            task.resting = None
        scheduler._version = -1
        turns.append(current.index)
    assert turns[4:] == turns[:-4], "round and round"
    assert set(turns) == {0, 1, 2, 3}


def test_pct_counts_steps_that_nobody_chose() -> None:
    """Interrupts that were due are steps without a choice: a change among them comes with the next choice."""
    scheduler = PCT(depth=2, steps=9)
    scheduler.reset(0)
    execution: Any = SimpleNamespace(step=0, version=0)
    scheduler.begin(execution)
    a, b = enabled = tasks(*[(op.READ, object())] * 2)
    scheduler._priorities.update({a: 5.0, b: 4.0})
    scheduler._changes, scheduler._next_change = [(2, 1)], 2
    chosen = [a]
    for execution.step in (0, 1, 4, 5):
        chosen.append(scheduler.choose(enabled, chosen[-1]))
    assert chosen[1:] == [a, a, b, b]


def test_probability_of_pct() -> None:
    """The guarantee of the paper, for executions whose changes could fall on every step."""
    scheduler = PCT(depth=3, steps=10)
    scheduler.reset(0)
    for _ in executions(steps(5, 5), scheduler, 70):
        pass
    assert scheduler.probability(70, 10, 2) == pytest.approx(1 - (1 - 1 / (2 * 10**2)) ** 70)
    assert scheduler.probability(70, 11, 2) == 0.0, "no change could fall on the 11th step"
    assert scheduler.probability(70, 0, 0) is None
    scheduler = PCT(depth=2)
    scheduler.reset(0)
    for _ in executions(steps(5, 5), scheduler, 11):
        pass
    expected = 1 - (1 - 1 / 2000) * (1 - 1 / 20) ** 10
    assert scheduler.probability(11, 10, 2) == pytest.approx(expected), "the first one guessed 1000"


@pytest.mark.parametrize("arguments", [{"depth": 0}, {"steps": 0}])
def test_bad_arguments_of_pct(arguments: dict[str, int]) -> None:
    """They are named."""
    with pytest.raises(BadArgument, match=next(iter(arguments))):
        PCT(**arguments)


# -- the others


def test_round_robin() -> None:
    """One execution, in turn; a task that cannot go on is passed over."""
    for quantum, expected in ((1, "012012000"), (2, "001122000"), (9, "000001122")):
        scheduler = RoundRobin(quantum)
        scheduler.reset(0)
        assert [order(each) for each in executions(steps(5, 2, 2), scheduler, 9)] == [expected]
    outcome = explore.check(counter, "rr")
    assert (outcome.executions, outcome.ended_by, outcome.exhausted) == (1, "failure", False)
    outcome = explore.check(mutual_exclusion, "rr")
    assert (outcome.executions, outcome.ended_by, outcome.exhausted) == (1, "scheduler", False)
    with pytest.raises(BadArgument, match="quantum"):
        RoundRobin(0)


def test_replay_with_interrupts_that_nobody_chose() -> None:
    """Schedules count them as steps, and so does their replay."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def deaf() -> None:
            flags = rt.local_irq_save()
            x.value = 1
            rt.local_irq_restore(flags)
            x.value = 7
            assert x.value == 7

        def sender() -> None:
            rt.call_on(0, lambda: None, wait=False)
            x.value = 2

        return Program([deaf, sender])

    with_interrupts = 0
    for seed in range(40):
        outcome = explore.check(program, "random", seed=seed, shrink=False)
        assert outcome.failure is not None
        assert not outcome.failure.notes
        trace = explore.replay(program, outcome.failure.schedule).failure
        assert trace is not None
        with_interrupts += any(step.kind == op.IRQ for step in trace.trace or ())
    assert with_interrupts > 10


def test_names() -> None:
    """All schedulers can be asked for by name; a wrong one is refused with the right ones."""
    for name in ("random", "pct", "pos", "urw", "surw", "pb", "db", "dfs", "rr", "nondeterminism"):
        assert make_scheduler(name).name == name
    with pytest.raises(BadArgument, match="random, pct, pos"):
        make_scheduler("fifo")
    with pytest.raises(BadArgumentType, match="scheduler"):
        make_scheduler(PCT)  # type: ignore[arg-type]


def test_a_limit_is_no_proof() -> None:
    """A bound, a number of executions or of seconds that cut something off: never exhausted."""
    program = steps(3, 2)
    for outcome in (
        explore.check(program, "dfs", executions=10),
        explore.check(program, "dfs", seconds=1e-9),
        explore.check(program, PreemptionBounding(1)),
        explore.check(program, DelayBounding(1)),
        explore.check(program, "random", executions=100),
        explore.check(program, "pct", executions=100),
        explore.check(program, "rr"),
    ):
        assert outcome
        assert not outcome.exhausted, str(outcome)
    # One more than there are: only now is it known that there are no others.
    for name in ("dfs", "pb", "db"):
        outcome = explore.check(program, name, executions=11)
        assert (outcome.executions, outcome.exhausted) == (10, True)


# -- nondeterminism


def depends_on_history() -> MakeProgram:
    """What the program does depends on how often it was run."""
    runs = 0

    def program(rt: ControlledRuntime) -> Program:
        nonlocal runs
        runs += 1
        x, y = rt.cell(0, "x"), rt.cell(0, "y")
        odd = bool(runs % 2)

        def body() -> None:
            x.value = 1
            if odd:
                y.value = 1

        return Program([body, body])

    return program


def depends_on_objects() -> MakeProgram:
    """The same operations, to another object."""
    runs = 0

    def program(rt: ControlledRuntime) -> Program:
        nonlocal runs
        runs += 1
        x = rt.cell(0, f"x{runs % 2}")

        def body() -> None:
            x.value = 1

        return Program([body, body])

    return program


@pytest.mark.parametrize("scheduler", [None, DFS(), PCT()])
def test_nondeterminism_is_told(scheduler: Scheduler | None) -> None:
    """Where the second execution differs, and how."""
    with pytest.raises(Nondeterminism, match=r"step \d: .*cpu\d write"):
        explore.check(depends_on_history(), NondeterminismCheck(scheduler))
    with pytest.raises(
        Nondeterminism, match=r"step 0: was cpu\d write x1 before, .* cpu\d write x0"
    ):
        explore.check(depends_on_objects(), NondeterminismCheck(scheduler))


@pytest.mark.parametrize("program", [counter, mutual_exclusion, abba])
def test_deterministic_programs_pass(program: MakeProgram) -> None:
    """Each schedule is executed twice, and the other scheduler's search is what it was."""
    alone = DFS()
    alone.reset(0)
    both = NondeterminismCheck(DFS())
    both.reset(0)
    once = [order(each) for each in executions(program, alone, 1000)]
    twice = [order(each) for each in executions(program, both, 2000)]
    assert twice == [each for pair in zip(once, once, strict=True) for each in pair]
    assert both.exhaustive


@pytest.mark.parametrize("scheduler", ["dfs", "pb", "db"])
def test_systematic_schedulers_notice_nondeterminism(scheduler: str) -> None:
    """They would miss schedules without a word; they raise instead."""
    with pytest.raises(Nondeterminism, match="step"):
        explore.check(depends_on_history(), scheduler)


def test_interleavings_by_brute_force() -> None:
    """The oracle of the other tests: a multinomial coefficient."""
    assert len(interleavings(2, 2, 1)) == factorial(5) // (2 * 2)
