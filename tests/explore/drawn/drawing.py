"""Draws programs; what they are about varies from one to the next."""

from __future__ import annotations

from random import Random

from .spec import Op, Spec

THEMES: dict[str, tuple[str, ...]] = {
    "values": ("read", "write", "copy", "inc", "add_return", "get", "cmpxchg", "pair"),
    "stamps": ("add_return",),
    "choices": ("if", "if", "write", "read"),
    "memory": ("get_word", "set_word", "set_word"),
    "counts": ("ref", "ref", "ref_first", "inc"),
    "locks": ("lock", "lock", "trylock", "locked", "nested"),
    "queues": ("wait_for", "wait_for", "wake", "wake", "wait", "wake_unlocked"),
    "semaphores": ("down_read", "down_read", "down_write", "downgrade"),
    "interrupts": ("send", "post", "post", "irqs_off", "lock", "everywhere"),
    "jobs": ("submit", "start", "is_done", "lock"),
    "spinning": ("spin", "write", "relax", "inc"),
    "fields": ("load", "store", "lock", "load", "store"),
    "stops": ("stop", "resched", "lock"),
    "clock": ("clock", "resched", "wait_for"),
}
"""What a program is about: one to three of these."""

WEIGHTS = {
    **dict.fromkeys(("copy", "pair", "lock", "trylock", "irqs_off", "spin", "send", "post"), 2),
    **dict.fromkeys(("down_read", "down_write", "submit", "start", "if"), 2),
    **dict.fromkeys(("wait_for", "wait", "wake", "stop", "nested", "downgrade"), 3),
    "everywhere": 4,
}
"""About how many steps each is, where not one."""

SLEEPING = frozenset(
    ("wait_for", "wait", "down_read", "down_write", "spin", "relax", "send", "everywhere")
) | {"downgrade", "submit", "start", "stop", "resched"}
"""Not in an interrupt."""

OUTER = SLEEPING | {"lock", "trylock", "irqs_off", "post", "wake", "nested", "if"}
"""Rarely inside of something else."""


FIELDS = ("guarded", "guarded", "open", "marked", "own")


class Drawer:
    """Draws a program; what it is about varies from one to the next."""

    def __init__(self, seed: int) -> None:
        random = self.random = Random(f"generated/{seed}")
        themes = random.sample(sorted(THEMES), random.choice((1, 1, 2, 2, 3)))
        self.kinds = [kind for theme in themes for kind in THEMES[theme]]
        self.kinds += random.choice(((), ("read", "write"), ("write", "copy"), ("add_return",)))
        self.has_interrupts = random.random() < (0.6 if "interrupts" in themes else 0.2)
        # Few things to meet at.
        self.cells = random.choice((1, 1, 2, 2, 3))
        self.locks = random.sample(range(4), random.choice((1, 2, 2)))
        self.queues = random.sample(range(3), random.choice((1, 1, 2)))
        self.timeouts = random.choice(((None,), (1.0,), (None, 1.0), (1.0, 2.0), (1.0, 1.000005)))
        self.nr_cpus = random.choice((2, 2, 2, 3, 3))

    def spec(self, size: float) -> Spec:
        random, nr_cpus = self.random, self.nr_cpus
        self.left = int(size * (random.randint(8, 15) if nr_cpus == 2 else random.randint(6, 11)))
        bodies: list[list[Op]] = [[] for _ in range(nr_cpus if random.random() < 0.8 else 2)]
        interrupts = []
        if self.has_interrupts:
            self.left -= 2
            interrupts.append((random.randrange(nr_cpus), self.ops(2, in_irq=True)))
        while self.left > 0:
            random.choice(bodies).append(self.op(in_irq=False))
        for i, body in enumerate(bodies):  # most who spin are let go
            for one in body:
                if one[0] == "spin" and random.random() < 0.9:
                    others = [other for j, other in enumerate(bodies) if j != i]
                    random.choice(others).append(("write", one[1], 1))
        for _ in range(random.choice((0, 0, 1, 1, 2))):
            check = ("fail_if", random.randrange(self.cells), random.choice((0, 1, 1, 2, 2, 2)))
            body = random.choice(bodies)
            body.insert(random.randint(0, len(body)), check)
        budgets = random.random() < 0.4
        return Spec(
            bodies,
            interrupts,
            nr_cpus,
            kthread=random.random() < 0.08,
            early_timeouts=random.randint(0, 2) if budgets else 0,
            spurious_wakeups=random.randint(0, 1) if budgets else 0,
        )

    def ops(self, most: int, in_irq: bool) -> list[Op]:
        return [self.op(in_irq, nested=True) for _ in range(self.random.randint(0, most))]

    def op(self, in_irq: bool, nested: bool = False) -> Op:
        random = self.random
        name = random.choice(self.kinds)
        if in_irq and name in SLEEPING:
            name = random.choice(("read", "write", "copy", "inc", "lock", "trylock", "wake"))
        elif nested and name in OUTER and random.random() < 0.8:
            name = random.choice(("read", "write", "copy", "inc", "load", "store"))
        return self.draw(name, in_irq)

    def draw(self, name: str, in_irq: bool) -> Op:
        random = self.random
        self.left -= WEIGHTS.get(name, 1)
        cell, value = random.randrange(self.cells), random.choice((1, 2))
        lock = random.choice(self.locks)
        if in_irq and lock in (0, 3) and random.random() < 0.7:
            lock = 1  # now and then one that handlers must not take
        match name:
            case "read" | "spin":
                return name, cell
            case "write":
                return name, cell, self.left % 7 + 1
            case "copy":
                return name, cell, random.randrange(self.cells)
            case "inc" | "add_return" | "get":
                return name, random.randrange(2)
            case "cmpxchg":
                return name, random.randrange(2), random.randrange(2), value
            case "pair":
                return name, value
            case "lock" | "trylock":
                return name, lock, self.ops(2, in_irq or (lock != 3 and random.random() < 0.9))
            case "nested":
                others = [other for other in self.locks if other != lock]
                inner = random.choice(others or self.locks)
                return "lock", lock, [("lock", inner, self.ops(1, True))]
            case "locked":
                return name, lock
            case "irqs_off" | "everywhere" | "stop":
                return name, self.ops(2, in_irq=True)
            case "down_read" | "down_write" | "downgrade":
                return name, self.ops(2, in_irq)
            case "if":
                return name, cell, self.ops(2, in_irq), self.ops(2, in_irq)
            case "get_word":
                return name, random.randrange(2)
            case "set_word":
                return name, random.randrange(2), value
            case "wait_for" | "wait":
                return name, random.choice(self.queues), random.choice(self.timeouts)
            case "wake":
                return name, random.choice(self.queues), random.choice((1, 1, 2))
            case "wake_unlocked":
                return name, random.choice(self.queues)
            case "send" | "post":
                return name, random.randrange(self.nr_cpus), self.ops(2, in_irq=True)
            case "submit" | "start":
                return name, self.nr_cpus - 1, self.ops(2, in_irq=False)
            case "load":
                return name, random.randrange(2), random.choice(FIELDS)
            case "store":
                return name, random.randrange(2), random.choice(FIELDS), value
        return (name,)


def drawn(seed: int, size: float = 1.0) -> Spec:
    """The program of that seed; with a *size* of 1 it has about 8 to 15 steps."""
    return Drawer(seed).spec(size)
