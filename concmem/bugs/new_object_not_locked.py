"""
d9d332e0874f ``anon_vma_prepare: properly lock even newly allocated entries`` (2008).

Objects of a SLAB_DESTROY_BY_RCU cache (SLAB_TYPESAFE_BY_RCU today) may be freed and allocated again while somebody
still has a pointer to them. They stay what they are, with a lock that can be taken; but "new" says nothing of who
else knows them.

    CPU 0 (walks a page's VMAs)             CPU 1
    rcu_read_lock, reads page->mapping: X
                                            frees X, and gets X again, for another VMA
    locks X, walks its list
                                            adds the VMA without the lock: X is new

Symptom: a list that is torn. Fix: lock it always.
"""

from __future__ import annotations

from typing import Final

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU


class _AnonVma:
    """What is at one address of the cache, for ever: a lock, and the VMAs that pages of it may be in."""

    __guarded_by__: Final = {"vmas": "lock"}

    def __init__(self, rt: ControlledRuntime) -> None:
        self.lock = rt.spinlock("anon_vma->lock")
        self.vmas: list[str] = []


class _Rmap:
    """The anon_vma of a page, and who walks it."""

    def __init__(self, rt: ControlledRuntime, m: Machine) -> None:
        self._rcu = m.rcu
        self._cache = m.kmem_cache_create("anon_vma", 64, flags=SLAB_TYPESAFE_BY_RCU)
        self._rt = rt
        self._at: dict[int, _AnonVma] = {}
        self.mapping = rt.cell(0, "page->mapping")

    def anon_vma_prepare(self, vma: str) -> int:
        """An anon_vma for *vma*, which is in it."""
        address = self._cache.alloc()
        assert address is not None
        anon_vma = self._at.get(address)
        if anon_vma is None:
            anon_vma = self._at[address] = self._rt.watch(_AnonVma(self._rt))
        self._link(anon_vma, vma)
        return address

    def _link(self, anon_vma: _AnonVma, vma: str) -> None:
        with anon_vma.lock:
            anon_vma.vmas.append(vma)

    def unmap(self) -> None:
        """The page is unmapped, its anon_vma is not needed any more."""
        address = self.mapping.value
        self.mapping.value = 0
        with self._at[address].lock:
            self._at[address].vmas.clear()
        self._cache.free(address)

    def page_referenced(self) -> list[str]:
        """The VMAs that the page may be in; those of another page, if it is unmapped just now."""
        self._rcu.read_lock()
        try:
            address = self.mapping.value
            if not address:
                return []
            anon_vma = self._at[address]
            with anon_vma.lock:
                return list(anon_vma.vmas)
        finally:
            self._rcu.read_unlock()


class _NewIsOurs(_Rmap):
    """Does not lock what it has just allocated."""

    def _link(self, anon_vma: _AnonVma, vma: str) -> None:
        anon_vma.vmas.append(vma)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU looks for the VMAs of a page that another one unmaps, to map something else."""
    m = Machine(2, memory="4M", runtime=rt)
    rmap = classes.get(_Rmap, _Rmap)(rt, m)

    def prepare() -> None:
        rmap.mapping.value = rmap.anon_vma_prepare("first")

    m.run([None, prepare])

    def remap() -> None:
        rmap.unmap()
        rmap.anon_vma_prepare("second")

    def walk() -> None:
        assert rmap.page_referenced() in ([], ["first"], ["second"])

    return Program([walk, remap], verify=m.verify)


BUG = Bug(
    name="new-object-not-locked",
    number="B56",
    title="an object of a type-stable cache is new, and yet known to others",
    fixed_by="d9d332e0874f anon_vma_prepare: properly lock even newly allocated entries (2008)",
    subsystem="mmap",
    kind="data race",
    depth=3,
    cpus=2,
    replaces={_Rmap: _NewIsOurs},
    expect=frozenset({"DataRace"}),
    workload=_workload,
    witness="v1:1.0",
    executions={
        "pb": 10,
        "random": 60,
        "pct": 100,
    },  # random, pct: seeds 0 to 2 need 7 and 19 at the median
    note="nothing in the model looks for the VMAs of a page, so the program does, with a cache of the model",
)
