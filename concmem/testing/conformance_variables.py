"""Conformance: pairs, memory words, per-CPU variables that are freed, calls to kernel threads."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from concmem.runtime.api import Pair, Runtime
from concmem.testing.conformance_check import PATIENCE, Check, expect, raised_by, until

ROUNDS = 20


def _try_values(pair: Pair, name: str) -> None:
    """What one CPU can see of a pair."""
    expect((pair.first, pair.second), (1, 2), f"what {name} was made with")
    for old in ((1, 3), (3, 2), (2, 1)):
        expect(pair.try_cmpxchg(*old, 7, 8), False, f"{name}: {old} is not there")
    expect((pair.first, pair.second), (1, 2), f"{name} after failures")
    expect(pair.try_cmpxchg(1, 2, 3, 4), True, f"{name}: (1, 2) is there")
    expect((pair.first, pair.second), (3, 4), f"{name} after a success")
    pair.set(5, 1 << 63)
    expect((pair.first, pair.second), (5, 1 << 63), f"{name} after set()")


def check_pairs(rt: Runtime) -> None:
    """A pair is compared and exchanged as a whole, also by several CPUs at once."""
    rt.run([lambda: _try_values(rt.pair(1, 2, "conformance-pair"), "a pair")])
    pair = rt.pair(0, 0, "conformance-pair")
    sums = rt.pair(0, 1000, "conformance-sums")

    def body() -> None:
        for _ in range(ROUNDS):
            while True:  # read in two steps: may not belong together, and then it fails
                first, second = pair.first, pair.second
                if pair.try_cmpxchg(first, second, first + 1, second + 2):
                    expect(second, 2 * first, "halves that were exchanged together")
                    break
            while True:
                first, second = sums.first, sums.second
                if sums.try_cmpxchg(first, second, first + 1, second - 1):
                    break

    rt.run([body] * 4)
    expect((pair.first, pair.second), (4 * ROUNDS, 8 * ROUNDS), "exchanges that succeeded")
    expect((sums.first, sums.second), (4 * ROUNDS, 1000 - 4 * ROUNDS), "a sum that stays")


def check_this_cpu_pairs(rt: Runtime) -> None:
    """A pair of one CPU is compared and exchanged as a whole, whenever its interrupts come."""
    rt.run([lambda: _try_values(rt.this_cpu_pair(1, 2, "conformance-pair"), "a CPU's pair")])
    pair = rt.this_cpu_pair(0, 0, "conformance-pair")
    posted, taken, done = rt.cell(0, "posted"), rt.cell(0, "taken"), rt.cell(False, "done")

    def step() -> None:
        while True:
            second, first = pair.second, pair.first
            if pair.try_cmpxchg(first, second, first + 1, second + 1):
                return

    def handler() -> None:
        step()
        taken.value = taken.value + 1

    def owner() -> int:
        steps = 0
        while not done.value:
            for _ in range(3):  # a point between two of them would be where all interrupts come
                step()
            steps += 3
            rt.cond_resched()
        return steps

    def sender() -> None:
        for _ in range(5 * ROUNDS):
            posted.value = posted.value + 1
            rt.call_on(0, handler, wait=False)
            until(rt, lambda: taken.value == posted.value)
        done.value = True

    steps = (rt.run([owner, sender])[0] or 0) + 5 * ROUNDS
    expect((pair.first, pair.second), (steps, steps), "steps of the CPU and its handlers")

    def deceived() -> bool:
        """The first word is as before, but the second tells that it was not so all the time."""
        first, second = pair.first, pair.second

        def away_and_back() -> None:
            pair.set(first + 1, second + 1)
            pair.set(first, second + 2)

        rt.call_on(0, away_and_back)
        return pair.try_cmpxchg(first, second, -1, -1)

    expect(rt.run([deceived]), [False], "an exchange after an interrupt went away and back")


def check_words(rt: Runtime) -> None:
    """Words of memory are read and written whole, and are those of the memory that was given."""
    memory = array("Q", [0] * 8)
    words = rt.watch_words(memoryview(memory), "conformance-words")
    patterns = [0x1111_1111_1111_1111 * (cpu + 1) for cpu in range(4)]

    def body() -> set[int]:
        me = rt.smp_processor_id()
        seen = set()
        for _ in range(ROUNDS):
            words[me] = patterns[me]
            words[7] = patterns[me]
            seen.add(words[7])
        return seen

    results = rt.run([body] * 4)
    expect(set().union(*(result or () for result in results)) <= set(patterns), True, "whole words")
    expect(list(memory)[:4], patterns, "the memory itself")
    memory[5] = 1 << 63
    expect(rt.run([lambda: words[5]]), [1 << 63], "what was written past the words")


def check_free_percpu(rt: Runtime) -> None:
    """A freed per-CPU variable is poison on every CPU, later kernel threads included, for good."""
    before = rt.percpu(list[int], "conformance-before")
    freed = rt.percpu(list[int], "conformance-freed")
    after = rt.percpu(list[int], "conformance-after")
    kept = [*before.all(), *after.all()]
    poison = object()
    rt.free_percpu(freed, poison)
    later = [rt.percpu(list[int], f"conformance-later-{i}") for i in range(3)]
    done = rt.cell(False, "done")
    found: list[object] = []

    def kthread() -> None:
        found.extend([freed.this(), before.this(), *(variable.this() for variable in later)])
        done.value = True

    def look() -> object:
        return freed.this()

    expect(rt.run([look] * rt.nr_cpus), [poison] * rt.nr_cpus, "this()")
    number = rt.kthread_run(kthread, "conformance-kthread")
    rt.run([lambda: until(rt, lambda: done.value)])
    expect(found[0], poison, "this() on a kernel thread that started later")
    expect(found[1:], [[]] * 4, "other variables there")
    expect(list(freed.all()), [poison] * (rt.nr_cpus + 1), "all()")
    expect(freed.of(number), poison, "of()")
    now = [*list(before.all())[:-1], *list(after.all())[:-1]]
    expect(all(a is b for a, b in zip(now, kept, strict=True)), True, "other variables")
    objects = [each for variable in (before, after, *later) for each in variable.all()]
    expect(len(set(map(id, objects))), 5 * (rt.nr_cpus + 1), "an object each")


def check_call_on_any(rt: Runtime) -> None:
    """call_on_any() reaches every CPU and every kernel thread, asleep or not, and waits."""
    lock = rt.spinlock("conformance-lock", irqsave=True)
    queue = rt.waitqueue(lock, "conformance-queue")
    started, done = rt.atomic(0, "started"), [False]

    def sleeps() -> None:
        with lock:
            started.inc()
            queue.wait_for(lambda: done[0], PATIENCE)

    def runs() -> None:
        started.inc()
        while not done[0]:
            rt.cpu_relax()

    numbers = [rt.kthread_run(fn, "conformance-kthread") for fn in (sleeps, runs)]
    rt.run([lambda: until(rt, lambda: started.value == 2)])
    everybody = [*range(rt.nr_cpus), *numbers]

    def where() -> tuple[int, bool]:
        return rt.smp_processor_id(), rt.in_interrupt()

    def ask() -> list[tuple[int, bool]]:
        return [rt.call_on_any(number, where) for number in everybody]

    wanted = [(number, True) for number in everybody]
    expect(rt.run([ask] * rt.nr_cpus), [wanted] * rt.nr_cpus, "from every CPU at once")
    expect(ask(), wanted, "from a thread that is no CPU")
    error = raised_by(lambda: rt.call_on_any(numbers[0], lambda: 1 // 0))
    expect(isinstance(error, ZeroDivisionError), True, "an error reaches the caller")

    def end() -> None:
        with lock:
            done[0] = True
            queue.wake_up_all()

    rt.run([end])


def check_report_failure(rt: Runtime) -> None:
    """What is reported surfaces at the end of the run, once."""
    error = ValueError("survived")
    failure = raised_by(lambda: rt.run([lambda: rt.report_failure(error)]))
    members = failure.exceptions if isinstance(failure, ExceptionGroup) else ()
    expect(list(members), [error], "members of the ExceptionGroup")
    expect(rt.run([lambda: 1]), [1], "the next run")


def check_rng(rt: Runtime) -> None:
    """A stream of random numbers depends on its name only, not on who draws from another."""

    def draw(stream: object) -> list[int]:
        rng = rt.rng(stream)
        return [rng.getrandbits(32) for _ in range(ROUNDS)]

    streams: list[object] = ["a", "b", 1, 2, ("a", 1)]
    first = [draw(stream) for stream in streams]
    expect([draw(stream) for stream in reversed(streams)], first[::-1], "the same streams again")
    expect(len(set(map(tuple, first))), len(streams), "different streams")
    bodies: list[Callable[[], list[int]]] = [lambda: draw("a"), lambda: draw("b")]
    expect(rt.run(bodies), first[:2], "on CPUs")


CHECKS = (
    Check(check_pairs, 4),
    Check(check_this_cpu_pairs, 2),
    Check(check_words, 4),
    Check(check_free_percpu, 2),
    Check(check_call_on_any, 2),
    Check(check_report_failure, 1),
    Check(check_rng, 2),
)
