"""
``/proc/lockdep``, ``lockdep_chains`` and ``lockdep_stats``: what the lock validator has seen.

Empty but for headings when the machine has no validator. The address of a class is its number. Of the
kernel's statistics those are there that the model has: nothing has a maximum, and there are no softirqs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics
    from concmem.runtime.lockdep_statistics import LockChain, LockClassOrder, LockdepStatistics


def render(stats: MachineStatistics) -> str:
    """``/proc/lockdep``: each class that was taken, and those taken while it was held last."""
    lines = ["all lock classes:"]
    classes = stats.lockdep.classes if stats.lockdep else ()
    for cls in _used(stats.lockdep):
        counts = f"FD:{cls.nr_forwards:5d} BD:{cls.nr_backwards:5d}"
        lines.append(f"{_address(cls.number)} {counts} {cls.usage}: {cls.name}")
        lines += [f" -> [{_address(number)}] {classes[number].name}" for number in cls.after]
        lines.append("")
    return _text(lines)


def render_chains(stats: MachineStatistics) -> str:
    """``/proc/lockdep_chains``: what was ever held at once, outermost first."""
    lines = ["all lock chains:"]
    classes = stats.lockdep.classes if stats.lockdep else ()
    for chain in _chains(stats.lockdep):
        lines.append(f"irq_context: {'hardirq' if chain.irq_context else '0'}")
        lines += [f"[{_address(number)}] {classes[number].name}" for number in chain.classes]
        lines.append("")
    return _text(lines)


def render_stats(stats: MachineStatistics) -> str:
    """``/proc/lockdep_stats``."""
    lockdep, used = stats.lockdep, _used(stats.lockdep)
    nr_classes = len(lockdep.classes) if lockdep else 0
    in_hardirq = sum(chain.irq_context for chain in _chains(lockdep))
    in_process = len(_chains(lockdep)) - in_hardirq
    safe, unsafe = _count(used, 0, "-?"), _count(used, 0, "+?")
    entries = 2 * sum(len(cls.after) for cls in used)  # one at each end
    rows = {
        "lock-classes": nr_classes,
        "direct dependencies": entries,
        "indirect dependencies": sum(cls.nr_forwards for cls in used),
        # All safe locks may nest in unsafe ones; counted for hard interrupts and for all of them.
        "all direct dependencies": 2 * safe * unsafe + entries,
        "dependency chains": in_hardirq + in_process,
        "in-hardirq chains": in_hardirq,
        "in-process chains": in_process,
        "combined max dependencies": (in_hardirq + 1) * (in_process + 1),
        "hardirq-safe locks": safe,
        "hardirq-unsafe locks": unsafe,
        "irq-safe locks": safe,
        "irq-unsafe locks": unsafe,
        "hardirq-read-safe locks": _count(used, 1, "-?"),
        "hardirq-read-unsafe locks": _count(used, 1, "+?"),
        "irq-read-safe locks": _count(used, 1, "-?"),
        "irq-read-unsafe locks": _count(used, 1, "+?"),
        "uncategorized locks": sum(cls.usage == "...." for cls in used),
        "unused locks": nr_classes - len(used),
        "max locking depth": lockdep.max_depth if lockdep else 0,
        "debug_locks": int(lockdep is not None),
    }
    return _text([f" {f'{name}:':30} {number:11d}" for name, number in rows.items()])


def _used(lockdep: LockdepStatistics | None) -> list[LockClassOrder]:
    """Classes that were ever taken."""
    if lockdep is None:
        return []
    taken = {number for chain in lockdep.chains for number in chain.classes}
    return [cls for cls in lockdep.classes if cls.number in taken]


def _chains(lockdep: LockdepStatistics | None) -> tuple[LockChain, ...]:
    return lockdep.chains if lockdep else ()


def _count(classes: list[LockClassOrder], position: int, characters: str) -> int:
    return sum(cls.usage[position] in characters for cls in classes)


def _address(number: int) -> str:
    return f"{number:016x}"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
