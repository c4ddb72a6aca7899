"""
``struct vmap_area`` and ``struct vm_struct``: a range of virtual addresses, and what is mapped there.

:class:`VmapTree` keeps areas by address in a balanced tree, whose nodes know the largest area below
them, so that the lowest area that is large enough is found in O(log n). The callers bring the lock.

Follows the red-black trees of ``mm/vmalloc.c`` of Linux 6.12 (this one is an AVL tree: shorter, and
the same bounds). One difference: Linux asks for *size + align - 1* bytes while it descends, and so may
pass over a lower area that happens to be aligned; here the lowest area that fits is always taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING, Final

from concmem.errors import KernelBug
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.page import Page
    from concmem.runtime.api import Cell, Runtime

VM_ALLOC: Final = 0x02
"""``vmalloc``: the area owns its pages."""
VM_MAP: Final = 0x04
"""``vmap``: the pages are the caller's."""
VM_UNINITIALIZED: Final = 0x20
"""Pages are still being allocated and mapped: readers keep away."""
VM_NO_GUARD: Final = 0x40
"""There is no guard page behind the area."""

VMAP_RAM: Final = 0x1
"""Of ``vm_map_ram``: an area without a ``vm_struct``."""
VMAP_BLOCK: Final = 0x2
"""A block that small requests of ``vm_map_ram`` share."""


class VmStruct:
    """``struct vm_struct``: what an area is for."""

    __slots__ = ("addr", "caller", "flags", "nr_pages", "pages", "size")

    addr: int
    """Set before the area can be found."""

    def __init__(
        self, rt: Runtime, size: int, flags: int, caller: tuple[CodeType, int] | None
    ) -> None:
        self.size = size
        """Bytes, guard page included."""
        self.flags: Cell[int] = rt.cell(flags, "vm->flags")
        self.pages: list[Page] | None = None
        """The allocating CPU's alone until VM_UNINITIALIZED is cleared, and constant after that."""
        self.nr_pages = 0
        self.caller = caller
        """Code and byte offset in it that asked for the area."""

    def get_vm_area_size(self) -> int:
        """Bytes without the guard page."""
        return self.size if self.flags.value & VM_NO_GUARD else self.size - PAGE_SIZE


class VmapArea:
    """``struct vmap_area``: addresses from `va_start` to `va_end`, exclusive."""

    __slots__ = (
        "flags",
        "height",
        "left",
        "right",
        "subtree_max_size",
        "va_end",
        "va_start",
        "vm",
        "vn_id",
    )

    def __init__(self, va_start: int, va_end: int) -> None:
        self.va_start = va_start
        self.va_end = va_end
        self.vm: VmStruct | None = None
        self.flags = 0
        """``VMAP_*`` bits."""
        self.vn_id = -1
        """The vmap node whose pool the area goes to when it is freed; -1 for none."""
        # of the tree that it is in
        self.left: VmapArea | None = None
        self.right: VmapArea | None = None
        self.height = 1
        self.subtree_max_size = va_end - va_start

    @property
    def size(self) -> int:
        """Bytes."""
        return self.va_end - self.va_start

    @property
    def nr_pages(self) -> int:
        """Pages, guard page included."""
        return self.va_end - self.va_start >> PAGE_SHIFT

    def __repr__(self) -> str:
        return f"<vmap_area {self.va_start:#x}-{self.va_end:#x}>"


class VmapTree:
    """Areas that do not overlap, by address. Caller of every method holds the tree's lock."""

    __slots__ = ("_nr", "root")

    def __init__(self) -> None:
        self.root: VmapArea | None = None
        self._nr = 0

    def __len__(self) -> int:
        return self._nr

    def __iter__(self) -> Iterator[VmapArea]:
        """All areas, lowest first. The tree must not change meanwhile."""
        path: list[VmapArea] = []
        node = self.root
        while path or node is not None:
            while node is not None:
                path.append(node)
                node = node.left
            node = path.pop()
            yield node
            node = node.right

    def insert(self, va: VmapArea) -> None:
        """
        Add *va*.

        Raises:
            KernelBug: it overlaps another one.
        """
        va.left = va.right = None
        _update(va)
        self.root = _insert(self.root, va)
        self._nr += 1

    def remove(self, va: VmapArea) -> None:
        """Take *va*, which is in the tree, out of it."""
        self.root = _remove(self.root, va)
        self._nr -= 1

    def find(self, address: int) -> VmapArea | None:
        """The area that *address* is in (``__find_vmap_area``)."""
        node = self.root
        while node is not None:
            if address < node.va_start:
                node = node.left
            elif address >= node.va_end:
                node = node.right
            else:
                return node
        return None

    def find_lowest(self, size: int, align: int) -> tuple[VmapArea, int] | None:
        """
        The lowest area with room for *size* bytes at a multiple of *align*, and where.

        O(log n) for an alignment that all areas have; else as many steps as areas are large enough
        but not aligned.
        """
        return _find_lowest(self.root, size, align)

    # -- free areas

    def clip(self, va: VmapArea, start: int, end: int) -> None:
        """Take *start* to *end* out of the free area *va* (``va_clip``)."""
        low, high = va.va_start, va.va_end
        if start == low and end == high:
            self.remove(va)
        elif start == low:
            va.va_start = end
            _refresh(self.root, va)
        elif end == high:
            va.va_end = start
            _refresh(self.root, va)
        else:
            va.va_end = start
            _refresh(self.root, va)
            self.insert(VmapArea(end, high))

    def merge(self, start: int, end: int) -> None:
        """
        Add a free range, joined with the free areas that it touches (``merge_or_add_vmap_area``).

        Raises:
            KernelBug: part of it is free already.
        """
        before, after = self.find(start - 1), self.find(end)
        if before is not None:
            if before.va_end != start:
                raise KernelBug(f"vmap: {start:#x}-{end:#x} is freed, but in {before!r} already")
            start = before.va_start
            self.remove(before)
        if after is not None:
            if after.va_start != end:
                raise KernelBug(f"vmap: {start:#x}-{end:#x} is freed, but in {after!r} already")
            end = after.va_end
            self.remove(after)
        self.insert(VmapArea(start, end))


# -- the tree: plain functions over nodes, each returns the new root of its subtree


def _height(node: VmapArea | None) -> int:
    return 0 if node is None else node.height


def _update(node: VmapArea) -> None:
    """Recompute what *node* knows of its subtree from its children."""
    height, largest = 0, node.va_end - node.va_start
    for child in (node.left, node.right):
        if child is not None:
            height = max(height, child.height)
            largest = max(largest, child.subtree_max_size)
    node.height = height + 1
    node.subtree_max_size = largest


def _balance(node: VmapArea) -> VmapArea:
    _update(node)
    slope = _height(node.left) - _height(node.right)
    if slope > 1:
        assert node.left is not None
        if _height(node.left.left) < _height(node.left.right):
            node.left = _rotate_left(node.left)
        return _rotate_right(node)
    if slope < -1:
        assert node.right is not None
        if _height(node.right.right) < _height(node.right.left):
            node.right = _rotate_right(node.right)
        return _rotate_left(node)
    return node


def _rotate_right(node: VmapArea) -> VmapArea:
    top = node.left
    assert top is not None
    node.left, top.right = top.right, node
    _update(node)
    _update(top)
    return top


def _rotate_left(node: VmapArea) -> VmapArea:
    top = node.right
    assert top is not None
    node.right, top.left = top.left, node
    _update(node)
    _update(top)
    return top


def _insert(node: VmapArea | None, va: VmapArea) -> VmapArea:
    if node is None:
        return va
    if va.va_end <= node.va_start:
        node.left = _insert(node.left, va)
    elif va.va_start >= node.va_end:
        node.right = _insert(node.right, va)
    else:
        raise KernelBug(f"vmap: {va!r} overlaps {node!r}")
    return _balance(node)


def _remove(node: VmapArea | None, va: VmapArea) -> VmapArea | None:
    if node is None:
        raise KernelBug(f"vmap: {va!r} is not in the tree that it is removed from")
    if node is not va:
        if va.va_start < node.va_start:
            node.left = _remove(node.left, va)
        else:
            node.right = _remove(node.right, va)
        return _balance(node)
    if node.left is None or node.right is None:
        return node.right if node.left is None else node.left
    lowest = node.right
    while lowest.left is not None:
        lowest = lowest.left
    right = _remove(node.right, lowest)
    lowest.left, lowest.right = node.left, right
    return _balance(lowest)


def _refresh(node: VmapArea | None, va: VmapArea) -> None:
    """The size of *va* has changed, at one of its ends: update it and all above it."""
    path: list[VmapArea] = []
    while node is not None and node is not va:
        path.append(node)
        node = node.left if va.va_start < node.va_start else node.right
    _update(va)
    for each in reversed(path):
        _update(each)


def _find_lowest(node: VmapArea | None, size: int, align: int) -> tuple[VmapArea, int] | None:
    if node is None or node.subtree_max_size < size:
        return None
    found = _find_lowest(node.left, size, align)
    if found is not None:
        return found
    start = -(-node.va_start // align) * align
    if start + size <= node.va_end:
        return node, start
    return _find_lowest(node.right, size, align)
