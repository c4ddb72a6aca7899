"""
47b0f6d8f0d2 ``mm/kmemleak: avoid deadlock by moving pr_warn() outside kmemleak_lock`` (2025).

That the pool of objects is empty was said while kmemleak_lock was held. A console on the network allocates to say it.

    CPU 0 (allocates)
    mem_pool_alloc: takes kmemleak_lock, the pool is empty
    pr_warn -> netconsole -> allocates
    create_object: takes kmemleak_lock      ... which it has

Symptom: a CPU that waits for itself. Fix: remember it, and print after the unlock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.mm.kmem_cache import KmemCache


class _PrintsAtOnce(Kmemleak):
    """Says that the pool is empty when it finds it so."""

    def _mem_pool_take(self) -> bool:
        taken = super()._mem_pool_take()
        if not taken:
            self._warn_pool_empty()
        return taken


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A block is allocated when there is no memory for its object, and the log allocates when it prints."""
    m = Machine(1, memory="4M", runtime=rt, kmemleak=True, classes=classes)
    kmemleak = m.kmemleak
    assert isinstance(kmemleak, Kmemleak)
    kmemleak._mem_pool_free = 0
    printk, allocate = m.log.printk, kmemleak._alloc_metadata
    failed: list[int] = []

    def netconsole(text: str) -> None:
        m.kfree(m.kmalloc(256))
        printk(text)

    def fails_once(cache: KmemCache | None, gfp: int) -> int | None:
        if failed:
            return allocate(cache, gfp)
        failed.append(1)
        return None

    m.log.printk = netconsole  # type: ignore[method-assign]
    kmemleak._alloc_metadata = fails_once  # type: ignore[method-assign]

    def check() -> None:
        assert "Memory pool empty" in m.log.read()

    return Program([lambda: m.kfree(m.kmalloc(64))], check, verify=m.verify)


BUG = Bug(
    name="kmemleak-prints-under-lock",
    number="B51",
    title="the leak detector prints while it holds its lock",
    fixed_by="47b0f6d8f0d2 mm/kmemleak: avoid deadlock by moving pr_warn() outside kmemleak_lock (2025)",
    subsystem="kmemleak",
    kind="deadlock",
    depth=1,
    cpus=1,
    replaces={Kmemleak: _PrintsAtOnce},
    expect=frozenset({"deadlock", "LockMisuse"}),
    workload=_workload,
    witness="v1:",
    executions={"pb": 1},  # every execution
)
