"""The lock validator by itself: against a naive one, rule by rule, and what it says."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from concmem.errors import BadArgument, KernelBug, LockdepError, LockMisuse
from concmem.runtime.lockdep import IRQ, IRQS_ON, READ, TRYLOCK, Lockdep
from concmem.runtime.lockdep_classes import LockClass, LockdepContext

SAFE_OF = {"in-w": {"on-w", "on-r"}, "in-r": {"on-w"}}
"""What each kind of use in an interrupt does not go with."""


class Naive:
    """The rules by definition: everything that was ever done, judged anew at each step."""

    def __init__(self) -> None:
        self.used: set[tuple[str, str]] = set()
        self.edges: set[tuple[str, str]] = set()
        self.held: dict[str, list[tuple[str, bool, bool]]] = {}

    def acquire(self, who: str, name: str, sleeps: bool, how: int) -> set[str]:
        """The rules that taking it would break; taken only if there are none."""
        held = self.held.setdefault(who, [])
        irq = bool(how & IRQ)
        used, edges = set(self.used), set(self.edges)
        broken = set()
        letter = "r" if how & READ else "w"
        if how & IRQS_ON:
            used.add((name, f"on-{letter}"))
        if not how & TRYLOCK:
            if irq:
                used.add((name, f"in-{letter}"))
            mine = [other for other in held if other[1] == irq]
            edges |= {(other, name) for other, _, _ in mine}
            if any(other == name for other, _, _ in held):
                broken.add("recursive")
            if sleeps and (irq or any(not other_sleeps for _, _, other_sleeps in mine)):
                broken.add("wait context")
        broken |= self.judge(used, edges)
        if not broken:
            self.used, self.edges = used, edges
            held.append((name, irq, sleeps))
        return broken

    def enable(self, who: str, readers: set[str]) -> set[str]:
        """The rules that enabling interrupts would break."""
        held = self.held.get(who, [])
        used = self.used | {(name, f"on-{'r' if name in readers else 'w'}") for name, _, _ in held}
        broken = self.judge(used, self.edges)
        if not broken:
            self.used = used
        return broken

    @staticmethod
    def judge(used: set[tuple[str, str]], edges: set[tuple[str, str]]) -> set[str]:
        """The rules of the graph."""
        reach = {(a, b) for a, b in edges if a != b}
        while True:
            longer = {(a, d) for a, b in reach for c, d in reach if b == c} - reach
            if not longer:
                break
            reach |= longer
        broken = set()
        if any(a == b for a, b in reach):
            broken.add("circular")
        for name, bit in used:
            for other, other_bit in used:
                if other_bit in SAFE_OF.get(bit, ()):
                    if name == other:
                        broken.add("inconsistent")
                    elif (name, other) in reach:
                        broken.add("interrupts")
        return broken


def random_program(seed: int) -> tuple[str, set[str]]:
    """One program of two contexts, on both validators; the rule broken at its end, and which were."""
    rng = Random(seed)
    dep, naive = Lockdep(), Naive()
    kinds = {"a": "spinlock", "b": "spinlock", "c": "spinlock", "d": "spinlock", "m": "mutex"}
    classes = {name: dep.lock_class(name, kind) for name, kind in kinds.items()}
    contexts = {who: dep.context(who) for who in ("cpu0", "cpu1")}
    held: dict[str, list[tuple[str, int, int]]] = {"cpu0": [], "cpu1": []}
    # Each class is mostly used in its own way and the mutex seldom, so that long programs come about.
    ways = {name: rng.choice([0, IRQ, IRQS_ON, READ | IRQ, READ | IRQS_ON]) for name in kinds}
    for step in range(rng.randint(5, 60)):
        who = rng.choice(["cpu0", "cpu1"])
        mine = held[who]
        if mine and rng.random() < 0.5:
            name, lock_id, _ = mine.pop(index := rng.randrange(len(mine)))
            naive.held[who].pop(index)
            dep.release(contexts[who], classes[name], lock_id)
            continue
        if rng.random() < 0.03:
            expected = naive.enable(who, {name for name, _, how in mine if how & READ})
            try:
                dep.hardirqs_on(contexts[who])
            except LockdepError as error:
                return error.rule, expected
            assert not expected, f"missed {expected}"
            continue
        free = [name for name in kinds if name not in {name for name, _, _ in mine}]
        name = rng.choice(list(kinds) if rng.random() < 0.03 or not free else free)
        if name == "m" and rng.random() < 0.8:
            continue
        how = ways[name] if rng.random() < 0.9 else rng.choice([0, IRQ, IRQS_ON, READ])
        how |= TRYLOCK if rng.random() < 0.2 else 0
        if any(way & IRQ for _, _, way in mine):
            how = how & ~IRQS_ON | IRQ  # a handler does not go on as something else
        expected = naive.acquire(who, name, kinds[name] != "spinlock", how)
        try:
            dep.acquire(contexts[who], classes[name], step, how)
        except LockdepError as error:
            return error.rule, expected
        assert not expected, f"missed {expected}"
        mine.append((name, step, how))
    return "", set()


def test_it_agrees_with_the_rules_by_definition() -> None:
    """On 1500 random programs, the first step that breaks a rule is the one that is refused, as such."""
    found: Counter[str] = Counter()
    for seed in range(1500):
        rule, expected = random_program(seed)
        found[rule] += 1
        if rule:
            assert {"inversion": "interrupts", "irq order": "interrupts"}.get(
                rule, rule
            ) in expected
    wanted = {"", "circular", "recursive", "inconsistent", "inversion", "irq order", "wait context"}
    assert set(found) == wanted
    assert min(found.values()) >= 20, found


@pytest.mark.parametrize("seed", range(20))
def test_a_program_that_keeps_an_order_is_never_refused(seed: int) -> None:
    """Locks are taken in the order of their numbers and released in any: silence, and just that order."""
    rng = Random(seed)
    dep = Lockdep()
    classes = [dep.lock_class(f"lock{i}", "spinlock") for i in range(6)]
    done: set[tuple[str, str]] = set()
    for who in range(3):
        context = dep.context(f"cpu{who}")
        for _ in range(60):
            taken = sorted(rng.sample(range(6), rng.randint(1, 4)))
            for number in taken:
                dep.acquire(context, classes[number], number, IRQS_ON)
            done |= {(f"lock{a}", f"lock{b}") for a in taken for b in taken if a < b}
            for number in rng.sample(taken, len(taken)):
                dep.release(context, classes[number], number)
        dep.check_no_locks_held(context)
    edges = {(edge.before, edge.after) for edge in dep.edges()}
    assert edges <= done
    assert not Naive.judge(set(), edges)
    # What is not an edge of its own follows from those that are.
    reach = set(edges)
    for _ in range(6):
        reach |= {(a, d) for a, b in reach for c, d in edges if b == c}
    assert reach == done


class Cpu:
    """A context that takes locks by name: kinds by their first letter, ids by name."""

    def __init__(self, dep: Lockdep, name: str) -> None:
        self.dep = dep
        self.context: LockdepContext = dep.context(name, 7)

    def cls(self, name: str) -> LockClass:
        """``a``: a spinlock; ``m...``: a mutex; ``s...``: an rwsem; ``a/1``: a level of ``a``."""
        base, _, level = name.partition("/")
        kind = {"m": "mutex", "s": "rwsem"}.get(name[0], "spinlock")
        return self.dep.lock_class(base, kind, int(level or 0))

    def take(self, *names: str, how: int = 0) -> None:
        for name in names:
            self.dep.acquire(self.context, self.cls(name), ord(name[0]), how, f"at_{name}")

    def drop(self, *names: str) -> None:
        for name in names:
            self.dep.release(self.context, self.cls(name), ord(name[0]))

    def pair(self, *names: str, how: int = 0) -> None:
        """Take them in this order, and drop them again."""
        self.take(*names, how=how)
        self.drop(*reversed(names))


@pytest.fixture
def cpu0() -> Cpu:
    return Cpu(Lockdep(), "cpu0")


@pytest.fixture
def cpu1(cpu0: Cpu) -> Cpu:
    return Cpu(cpu0.dep, "cpu1")


# -- rule by rule; each with the program next to it that is right


def test_two_orders(cpu0: Cpu, cpu1: Cpu) -> None:
    """AB, then BA on another CPU and at another time."""
    cpu0.pair("a", "b")
    cpu1.pair("a", "b")
    cpu1.take("b")
    with pytest.raises(LockdepError) as caught:
        cpu1.take("a")
    assert caught.value.rule == "circular"
    cpu1.drop("b")  # nothing has changed: b is held, a is not
    cpu1.dep.check_no_locks_held(cpu1.context)


def test_it_is_found_again_each_time(cpu0: Cpu) -> None:
    """What was refused is not remembered as right."""
    cpu0.pair("a", "b")
    cpu0.take("b")
    for _ in range(2):
        with pytest.raises(LockdepError, match="circular"):
            cpu0.take("a")


def test_three_orders(cpu0: Cpu, cpu1: Cpu) -> None:
    """AB, BC and CA: no two of them are wrong together."""
    cpu0.pair("a", "b")
    cpu1.pair("b", "c")
    cpu1.take("c")
    with pytest.raises(LockdepError, match="detected: c -> a -> b -> c\n") as caught:
        cpu1.take("a")
    assert caught.value.rule == "circular"


def test_trylock_cannot_deadlock(cpu0: Cpu, cpu1: Cpu) -> None:
    """BA is right if A is only tried; what is taken inside A then comes after both."""
    cpu0.pair("a", "b")
    cpu1.take("b")
    cpu1.take("a", how=TRYLOCK)
    cpu1.take("c")
    cpu1.drop("c", "a", "b")
    edges = {(edge.before, edge.after) for edge in cpu0.dep.edges()}
    assert edges == {("a", "b"), ("b", "c"), ("a", "c")}
    cpu0.take("c")
    with pytest.raises(LockdepError, match="circular"):
        cpu0.take("b")


def test_recursion(cpu0: Cpu) -> None:
    """Two locks of a class are one too many, unless they are told apart."""
    cpu0.pair("a", "a/1")
    cpu0.take("a")
    with pytest.raises(LockdepError) as caught:
        cpu0.take("a")
    assert caught.value.rule == "recursive"


def test_levels_have_an_order_too(cpu0: Cpu) -> None:
    """Level 1 inside of level 0, so not the other way round."""
    cpu0.pair("a", "a/1")
    cpu0.take("a/1")
    with pytest.raises(LockdepError, match="detected: a/1 -> a -> a/1"):
        cpu0.take("a")


def test_readers_of_an_rwsem(cpu0: Cpu) -> None:
    """A reader must not read again: a writer may have come between them."""
    cpu0.pair("sem", how=READ)
    cpu0.pair("sem", how=READ)
    cpu0.take("sem", how=READ)
    with pytest.raises(LockdepError) as caught:
        cpu0.take("sem", how=READ)
    assert caught.value.rule == "recursive"


@pytest.mark.parametrize("first", ["handler", "process"])
def test_safe_and_unsafe(cpu0: Cpu, first: str) -> None:
    """Taken in a handler, and held with interrupts enabled; in both orders of events."""
    cpu0.pair("a", how=IRQ)
    cpu0.pair("a", how=0)
    cpu0.pair("b", how=IRQS_ON)
    hows = [IRQ, IRQS_ON] if first == "handler" else [IRQS_ON, IRQ]
    cpu0.pair("c", how=hows[0])
    with pytest.raises(LockdepError) as caught:
        cpu0.take("c", how=hows[1])
    assert caught.value.rule == "inconsistent"


def test_a_handler_may_try(cpu0: Cpu) -> None:
    """An unsafe lock that handlers only try is no danger."""
    cpu0.pair("a", how=IRQS_ON)
    cpu0.pair("a", how=IRQ | TRYLOCK)


def test_readers_share_with_their_interrupts(cpu0: Cpu) -> None:
    """Read in a handler and read with interrupts enabled; but written with them enabled is wrong."""
    cpu0.pair("r", how=READ | IRQ)
    cpu0.pair("r", how=READ | IRQS_ON)
    with pytest.raises(LockdepError, match=r"\{IN-HARDIRQ-R\} -> \{HARDIRQ-ON-W\} usage"):
        cpu0.take("r", how=IRQS_ON)


def test_enabling_interrupts_makes_unsafe(cpu0: Cpu) -> None:
    """Interrupts enabled while a lock is held, which was taken with them disabled."""
    cpu0.take("b")
    cpu0.dep.hardirqs_on(cpu0.context)
    cpu0.drop("b")
    cpu0.dep.hardirqs_on(cpu0.context)  # nothing is held
    cpu0.pair("a", how=IRQ)
    cpu0.take("a")
    for _ in range(2):
        with pytest.raises(LockdepError) as caught:
            cpu0.dep.hardirqs_on(cpu0.context)
        assert caught.value.rule == "inconsistent"


def test_a_way_from_safe_to_unsafe(cpu0: Cpu) -> None:
    """A lock of a handler, inside it another, inside that one that is held with interrupts enabled."""
    cpu0.pair("a", how=IRQ)
    cpu0.pair("c", how=IRQS_ON)
    cpu0.pair("a", "b")
    cpu0.pair("c", "a")  # the other way round is right
    cpu0.take("b")
    with pytest.raises(LockdepError, match="circular"):
        cpu0.take("c")
    cpu0.drop("b")
    cpu0.pair("d", how=IRQS_ON)
    cpu0.take("b")
    with pytest.raises(LockdepError) as caught:
        cpu0.take("d")
    assert caught.value.rule == "irq order"


@pytest.mark.parametrize(("name", "how"), [("a", IRQ), ("b", IRQS_ON)])
def test_a_way_that_becomes_wrong(cpu0: Cpu, name: str, how: int) -> None:
    """The order was there first; then its start is used in a handler, or its end becomes unsafe."""
    cpu0.pair("a", "b")
    cpu0.pair("b" if name == "a" else "a", how=IRQS_ON if name == "a" else IRQ)
    with pytest.raises(LockdepError) as caught:
        cpu0.take(name, how=how)
    assert caught.value.rule == "inversion"


def test_an_interrupt_begins_anew(cpu0: Cpu) -> None:
    """What is held by whom an interrupt interrupts is not before what the handler takes."""
    cpu0.take("m", how=IRQS_ON)
    cpu0.take("a", how=IRQ)
    cpu0.take("b", how=IRQ)
    cpu0.drop("b", "a", "m")
    assert [(edge.before, edge.after) for edge in cpu0.dep.edges()] == [("a", "b")]
    assert [chain.irq_context for chain in cpu0.dep.statistics().chains] == [False, True, True]


def test_sleeping_locks(cpu0: Cpu) -> None:
    """A mutex may have a spinlock inside, not the other way round; trying it is no sleep."""
    cpu0.pair("m", "sem", "a")
    cpu0.take("a")
    cpu0.take("m", how=TRYLOCK)
    cpu0.drop("m")
    for name in ("m2", "sem"):
        with pytest.raises(LockdepError) as caught:
            cpu0.take(name)
        assert caught.value.rule == "wait context"


def test_sleeping_locks_in_a_handler(cpu0: Cpu) -> None:
    """Nobody sleeps in an interrupt."""
    with pytest.raises(LockdepError, match="m in an interrupt handler"):
        cpu0.take("m", how=IRQ)


def test_releases(cpu0: Cpu, cpu1: Cpu) -> None:
    """In any order, but only by the holder."""
    cpu0.take("a", "b", "c")
    cpu0.drop("b", "a", "c")
    cpu0.take("a", "b")
    with pytest.raises(LockdepError) as caught:
        cpu1.drop("a")
    assert caught.value.rule == "unlock"
    assert [held.cls.name for held in cpu0.context.locks()] == ["a", "b"]


def test_the_end(cpu0: Cpu) -> None:
    """Who ends holds nothing; what was held is forgotten, so that it is said once."""
    cpu0.take("a", "m/1", how=TRYLOCK)
    with pytest.raises(LockdepError, match=r"still has locks held: a, m/1\n") as caught:
        cpu0.dep.check_no_locks_held(cpu0.context)
    assert caught.value.rule == "held"
    cpu0.dep.check_no_locks_held(cpu0.context)


def test_a_class_is_made_once(cpu0: Cpu) -> None:
    """The same name, kind and level give the same class; an unknown kind is refused."""
    assert cpu0.cls("a") is cpu0.cls("a")
    assert cpu0.cls("a") is not cpu0.cls("a/1")
    with pytest.raises(BadArgument, match=r"^kind: .*spinlock, mutex, rwsem; got 'semaphore'"):
        cpu0.dep.lock_class("a", "semaphore")


def test_the_error_is_a_kernel_bug() -> None:
    """Whoever catches broken rules, or misused locks, catches it."""
    assert issubclass(LockdepError, KernelBug)
    assert issubclass(LockdepError, LockMisuse)


# -- what it says


def report(error: pytest.ExceptionInfo[LockdepError]) -> str:
    """The report, without lines that say where in this file something was."""
    lines = str(error.value).split("\n")
    calls = re.compile(r"^ +[^ ]+ \([^ ]+:\d+\)$")
    return "\n".join(line for line in lines if not calls.match(line))


def test_report_of_two_orders(cpu0: Cpu, cpu1: Cpu) -> None:
    """As the kernel says it, with where each order came first."""
    cpu0.pair("a", "b", how=IRQS_ON)
    cpu1.take("b", how=IRQS_ON)
    with pytest.raises(LockdepError) as caught:
        cpu1.take("a", how=IRQS_ON)
    assert report(caught) == (
        """\
possible circular locking dependency detected: b -> a -> b

======================================================
WARNING: possible circular locking dependency detected
6.12 concmem
------------------------------------------------------
cpu1/7 is trying to acquire lock:
0000000000000061 (a){+...}-{3:3}, at: at_a

but task is already holding lock:
0000000000000062 (b){+...}-{3:3}, at: at_b

which lock already depends on the new lock.


the existing dependency chain (in reverse order) is:

-> #1 (b){+...}-{3:3}:
       (a held since at_a, by cpu0/7)

-> #0 (a){+...}-{3:3}:
       (b held since at_b, by cpu1/7)

other info that might help us debug this:

 Possible unsafe locking scenario:

       CPU0                    CPU1
       ----                    ----
  lock(b);
                               lock(a);
                               lock(b);
  lock(a);

 *** DEADLOCK ***

1 lock held by cpu1/7:
 #0: 0000000000000062 (b){+...}-{3:3}, at: at_b"""
    )
    # Both orders were made in the method `take`, called from this test.
    text = str(caught.value)
    assert len(re.findall(r"^       Cpu\.take \(.*test_lockdep\.py:\d+\)$", text, re.M)) == 2
    assert "test_report_of_two_orders (" in text


def test_report_of_three_orders(cpu0: Cpu) -> None:
    """The chain is shown as a whole."""
    cpu0.pair("a", "b")
    cpu0.pair("b", "c")
    cpu0.take("c")
    with pytest.raises(LockdepError) as caught:
        cpu0.take("a")
    text = report(caught)
    assert "\nChain exists of:\n  a --> b --> c\n\n Possible unsafe locking scenario:\n" in text
    assert re.findall(r"^-> #\d \(.\)", text, re.M) == ["-> #2 (c)", "-> #1 (b)", "-> #0 (a)"]


def test_report_of_recursion(cpu0: Cpu) -> None:
    """Of another lock of the class; the hint at nesting does not come for one and the same lock."""
    cpu0.take("a")
    with pytest.raises(LockdepError) as caught:
        cpu0.dep.acquire(cpu0.context, cpu0.cls("a"), 255, 0, "here")
    text = """\
possible recursive locking detected: a

============================================
WARNING: possible recursive locking detected
6.12 concmem
--------------------------------------------
cpu0/7 is trying to acquire lock:
00000000000000ff (a){....}-{3:3}, at: here

but task is already holding lock:
0000000000000061 (a){....}-{3:3}, at: at_a

other info that might help us debug this:
 Possible unsafe locking scenario:

       CPU0
       ----
  lock(a);
  lock(a);

 *** DEADLOCK ***

 May be due to missing lock nesting notation

1 lock held by cpu0/7:
 #0: 0000000000000061 (a){....}-{3:3}, at: at_a"""
    assert report(caught) == text
    with pytest.raises(LockdepError) as caught:
        cpu0.take("a")
    assert "nesting notation" not in str(caught.value)


def test_report_of_an_inconsistent_state(cpu0: Cpu) -> None:
    """With where the other state came from."""
    cpu0.pair("a", how=IRQ)
    with pytest.raises(LockdepError) as caught:
        cpu0.take("a", how=IRQS_ON)
    assert report(caught) == (
        """\
inconsistent lock state: a

================================
WARNING: inconsistent lock state
6.12 concmem
--------------------------------
inconsistent {IN-HARDIRQ-W} -> {HARDIRQ-ON-W} usage.
cpu0/7 [HC0[0]:SC0[0]:HE1:SE1] takes:
0000000000000061 (a){-...}-{3:3}, at: at_a
{IN-HARDIRQ-W} state was registered at:

other info that might help us debug this:
 Possible unsafe locking scenario:

       CPU0
       ----
  lock(a);
  <Interrupt>
    lock(a);

 *** DEADLOCK ***

no locks held by cpu0/7."""
    )


def test_report_of_a_bad_irq_order(cpu0: Cpu) -> None:
    """Both ends, and the way between them."""
    cpu0.pair("a", how=IRQ)
    cpu0.pair("c", how=IRQS_ON)
    cpu0.pair("a", "b")
    cpu0.take("b")
    with pytest.raises(LockdepError) as caught:
        cpu0.take("c")
    assert report(caught) == (
        """\
HARDIRQ-safe -> HARDIRQ-unsafe lock order detected: a -> b -> c

=====================================================
WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected
6.12 concmem
-----------------------------------------------------
cpu0/7 [HC0[0]:SC0[0]:HE0:SE1] is trying to acquire:
0000000000000063 (c){+...}-{3:3}, at: at_c

and this task is already holding:
0000000000000062 (b){....}-{3:3}, at: at_b
which would create a new lock dependency:
 (b){....}-{3:3} -> (c){+...}-{3:3}

but this new dependency connects a HARDIRQ-irq-safe lock:
 (a){-...}-{3:3}

... which became HARDIRQ-irq-safe at:

to a HARDIRQ-irq-unsafe lock:
 (c){+...}-{3:3}

... which became HARDIRQ-irq-unsafe at:

other info that might help us debug this:

Chain exists of:
  a --> b --> c

 Possible interrupt unsafe locking scenario:

       CPU0                    CPU1
       ----                    ----
  lock(c);
                               local_irq_disable();
                               lock(a);
                               lock(b);
  <Interrupt>
    lock(a);

 *** DEADLOCK ***

1 lock held by cpu0/7:
 #0: 0000000000000062 (b){....}-{3:3}, at: at_b

the dependencies between them:
-> (a) -> (b):
       (a held since at_a, by cpu0/7)

-> (b) -> (c):
       (b held since at_b, by cpu0/7)
"""
    )


def test_report_of_an_inversion(cpu0: Cpu) -> None:
    """A lock changes its state, and another is at the end of a way from it."""
    cpu0.pair("a", "b")
    cpu0.pair("b", how=IRQS_ON)
    with pytest.raises(LockdepError) as caught:
        cpu0.take("a", how=IRQ)
    text = report(caught)
    assert text.startswith("possible irq lock inversion dependency detected: a -> b\n")
    assert (
        "cpu0/7 just changed the state of lock:\n"
        "0000000000000061 (a){....}-{3:3}, at: at_a\n"
        "but this lock took another, HARDIRQ-unsafe lock in the past:\n"
        " (b){+...}-{3:3}\n\n\n"
        "and interrupts could create inverse lock ordering between them.\n\n\n"
        "other info that might help us debug this:\n"
        " Possible interrupt unsafe locking scenario:\n\n"
        "       CPU0                    CPU1\n"
        "       ----                    ----\n"
        "  lock(b);\n"
        "                               local_irq_disable();\n"
        "                               lock(a);\n"
        "                               lock(b);\n"
        "  <Interrupt>\n"
        "    lock(a);\n\n"
        " *** DEADLOCK ***\n\n"
        "no locks held by cpu0/7.\n"
    ) in text


def test_report_of_an_inversion_from_the_other_end(cpu0: Cpu) -> None:
    """A lock becomes unsafe, and was taken by a safe one."""
    cpu0.pair("a", "b")
    cpu0.pair("a", how=IRQ)
    with pytest.raises(LockdepError) as caught:
        cpu0.take("b", how=IRQS_ON)
    text = report(caught)
    assert "but this lock was taken by another, HARDIRQ-safe lock in the past:\n (a){-...}" in text
    assert "  lock(b);\n" + " " * 31 + "local_irq_disable();\n" + " " * 31 + "lock(a);\n" in text


def test_report_of_a_wait_context(cpu0: Cpu) -> None:
    """Who sleeps inside of what."""
    cpu0.take("a")
    with pytest.raises(LockdepError) as caught:
        cpu0.take("m", how=IRQS_ON)
    assert report(caught) == (
        """\
Invalid wait context: m in a

=============================
[ BUG: Invalid wait context ]
6.12 concmem
-----------------------------
cpu0/7 is trying to lock:
000000000000006d (m){....}-{4:4}, at: at_m
other info that might help us debug this:
context-{5:5}
1 lock held by cpu0/7:
 #0: 0000000000000061 (a){....}-{3:3}, at: at_a"""
    )


def test_report_of_a_release(cpu0: Cpu) -> None:
    """Of what is not held."""
    with pytest.raises(LockdepError) as caught:
        cpu0.drop("a")
    assert re.fullmatch(
        r"bad unlock balance detected: a\n\n"
        r"=+\nWARNING: bad unlock balance detected!\n6.12 concmem\n-+\n"
        r"cpu0/7 is trying to release lock \(a\) at:\n"
        r"Cpu\.drop \(.*test_lockdep\.py:\d+\)\n"
        r"but there are no more locks to release!\n\n"
        r"other info that might help us debug this:\nno locks held by cpu0/7\.",
        str(caught.value),
    )


def test_statistics(cpu0: Cpu) -> None:
    """Classes with their use and neighbours, edges with places, chains once each."""
    cpu0.pair("m", "a", how=IRQS_ON)
    cpu0.pair("m", "a", how=0)  # the same chain, held otherwise
    cpu0.pair("b", how=IRQ)
    cpu0.cls("never")
    stats = cpu0.dep.statistics()
    assert [(c.name, c.kind, c.usage, c.nr_forwards, c.nr_backwards) for c in stats.classes] == [
        ("m", "mutex", "+...", 2, 1),
        ("a", "spinlock", "+...", 1, 2),
        ("b", "spinlock", "-...", 1, 1),
        ("never", "spinlock", "....", 1, 1),
    ]
    assert stats.classes[0].after == (1,)
    [edge] = stats.edges
    assert (edge.before, edge.after, edge.held_at, edge.context) == ("m", "a", "at_m", "cpu0/7")
    assert re.fullmatch(r"Cpu\.take \(.*test_lockdep\.py:\d+\)", edge.taken_at)
    assert [(chain.irq_context, chain.classes) for chain in stats.chains] == [
        (False, (0,)),
        (False, (0, 1)),
        (True, (2,)),
    ]
    assert stats.max_depth == 2
