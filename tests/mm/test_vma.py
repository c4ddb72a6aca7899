"""The collection of VMAs: lookups and holes against a walk over all addresses."""

from __future__ import annotations

from random import Random

import pytest

from concmem.mm.mman import STACK_GUARD_GAP, VM_GROWSDOWN, VM_READ
from concmem.mm.vma import Vma, VmaTree

PAGE = 4096
GUARD = STACK_GUARD_GAP // PAGE
LAST = 1200
"""Pages in the toy address space."""


def make_tree(random: Random) -> tuple[VmaTree, list[Vma]]:
    tree, vmas, page = VmaTree(), [], random.randrange(40)
    while page < LAST - 40:
        end = page + random.randrange(1, 30)
        flags = VM_READ | (VM_GROWSDOWN if random.random() < 0.2 else 0)
        vmas.append(Vma(page * PAGE, end * PAGE, flags, page, None))
        page = end + random.choice([0, 0, 1, 5, 30, GUARD + 10])
    for vma in random.sample(vmas, len(vmas)):
        tree.insert(vma)
    return tree, vmas


def usable(vmas: list[Vma]) -> list[bool]:
    """Which pages a new mapping may take: in no VMA, and not in the gap below a stack."""
    free = []
    for page in range(LAST):
        above = next((vma for vma in vmas if vma.vm_end > page * PAGE), None)
        gap = GUARD * PAGE if above is not None and above.vm_flags & VM_GROWSDOWN else 0
        free.append(above is None or page * PAGE < above.vm_start - gap)
    return free


@pytest.mark.parametrize("seed", range(30))
def test_lookups_and_holes(seed: int) -> None:
    """find, find_prev, overlapping, and the highest and lowest hole of each length."""
    random = Random(seed)
    tree, vmas = make_tree(random)
    assert list(tree) == vmas
    for _ in range(60):
        address = random.randrange(LAST * PAGE)
        above = [vma for vma in vmas if vma.vm_end > address]
        assert tree.find(address) is (above[0] if above else None)
        below = [vma for vma in vmas if vma.vm_start < address]
        assert tree.find_prev(address) is (below[-1] if below else None)
        end = address + random.randrange(1, 60 * PAGE)
        assert tree.overlapping(address, end) == [
            vma for vma in vmas if vma.vm_start < end and vma.vm_end > address
        ]
    free = usable(vmas)
    for _ in range(30):
        low, high = sorted(random.sample(range(LAST), 2))
        pages = random.randrange(1, 40)
        starts = [
            start for start in range(low, high - pages + 1) if all(free[start : start + pages])
        ]
        args = low * PAGE, high * PAGE, pages * PAGE
        assert tree.highest_gap(*args) == (starts[-1] * PAGE if starts else None)
        assert tree.lowest_gap(*args) == (starts[0] * PAGE if starts else None)


def test_moving_the_start_moves_the_offset() -> None:
    """And keeps the VMA where lookups find it."""
    tree = VmaTree()
    vma = Vma(10 * PAGE, 20 * PAGE, VM_READ, 10, None)
    tree.insert(vma)
    tree.set_start(vma, 5 * PAGE)
    assert (vma.vm_pgoff, vma.nr_pages) == (5, 15)
    assert tree.find(5 * PAGE) is vma
    tree.set_start(vma, 12 * PAGE)
    assert vma.vm_pgoff == 12
    assert tree.find_prev(12 * PAGE) is None
    tree.remove(vma)
    assert len(tree) == 0
