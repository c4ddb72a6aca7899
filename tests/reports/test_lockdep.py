"""``/proc/lockdep``, ``lockdep_chains`` and ``lockdep_stats``, of classes that were made up."""

from __future__ import annotations

from concmem.reports import lockdep
from concmem.runtime.lockdep_statistics import LockChain, LockClassOrder, LockdepStatistics

from .samples import make_machine, make_zone

SEEN = LockdepStatistics(
    classes=(
        LockClassOrder(0, "slab_mutex", "mutex", "+...", 3, 1, (1,)),
        LockClassOrder(1, "&n->list_lock", "spinlock", "-...", 2, 2, (3,)),
        LockClassOrder(2, "never", "spinlock", "....", 1, 1, ()),
        LockClassOrder(3, "&n->list_lock/1", "spinlock", "....", 1, 3, ()),
        LockClassOrder(4, "mmap_lock", "rwsem", ".+..", 1, 1, ()),
    ),
    edges=(),
    chains=(
        LockChain(False, (0,)),
        LockChain(False, (0, 1)),
        LockChain(False, (0, 1, 3)),
        LockChain(True, (1,)),
        LockChain(False, (4,)),
    ),
)
MACHINE = make_machine(make_zone(), lockdep=SEEN)


def test_classes_with_what_comes_after_them() -> None:
    """Those that were taken, with counts forwards and backwards, use, and direct successors."""
    assert lockdep.render(MACHINE) == (
        "all lock classes:\n"
        "0000000000000000 FD:    3 BD:    1 +...: slab_mutex\n"
        " -> [0000000000000001] &n->list_lock\n"
        "\n"
        "0000000000000001 FD:    2 BD:    2 -...: &n->list_lock\n"
        " -> [0000000000000003] &n->list_lock/1\n"
        "\n"
        "0000000000000003 FD:    1 BD:    3 ....: &n->list_lock/1\n"
        "\n"
        "0000000000000004 FD:    1 BD:    1 .+..: mmap_lock\n"
        "\n"
    )


def test_chains() -> None:
    """What was held at once, and whether by an interrupt handler."""
    text = lockdep.render_chains(MACHINE)
    assert text.startswith(
        "all lock chains:\n"
        "irq_context: 0\n"
        "[0000000000000000] slab_mutex\n"
        "\n"
        "irq_context: 0\n"
        "[0000000000000000] slab_mutex\n"
        "[0000000000000001] &n->list_lock\n"
        "\n"
    )
    assert "irq_context: hardirq\n[0000000000000001] &n->list_lock\n\n" in text
    assert text.count("irq_context: ") == 5


def test_numbers() -> None:
    """Each name in a column of 32, each number right-aligned in one of 11."""
    lines = lockdep.render_stats(MACHINE).splitlines()
    assert lines[0] == " lock-classes:" + " " * 18 + "          5"
    assert {len(line) for line in lines} == {43}
    numbers = {line[:32].strip(" :"): int(line[32:]) for line in lines}
    assert numbers == {
        "lock-classes": 5,
        "direct dependencies": 4,
        "indirect dependencies": 7,
        "all direct dependencies": 6,
        "dependency chains": 5,
        "in-hardirq chains": 1,
        "in-process chains": 4,
        "combined max dependencies": 10,
        "hardirq-safe locks": 1,
        "hardirq-unsafe locks": 1,
        "irq-safe locks": 1,
        "irq-unsafe locks": 1,
        "hardirq-read-safe locks": 0,
        "hardirq-read-unsafe locks": 1,
        "irq-read-safe locks": 0,
        "irq-read-unsafe locks": 1,
        "uncategorized locks": 1,
        "unused locks": 1,
        "max locking depth": 3,
        "debug_locks": 1,
    }


def test_without_a_validator() -> None:
    """Headings only, and the numbers are 0."""
    machine = make_machine(make_zone())
    assert lockdep.render(machine) == "all lock classes:\n"
    assert lockdep.render_chains(machine) == "all lock chains:\n"
    text = lockdep.render_stats(machine)
    assert {line.split()[-1] for line in text.splitlines()} <= {"0", "1"}
    assert text.endswith(" debug_locks:" + " " * 29 + "0\n")
