"""The leak detector's search tree, against a plain list."""

from __future__ import annotations

from random import Random

import pytest

from concmem.errors import KernelBug
from concmem.mm.debug.kmemleak_object import KmemleakObject
from concmem.mm.debug.kmemleak_tree import MAX_PIECE, ObjectTree

NO: object = None


def block(start: int, size: int) -> KmemleakObject:
    obj = KmemleakObject(NO, NO, NO, 0, ("", 0), ())  # type: ignore[arg-type]
    obj.pointer, obj.size = start, size
    return obj


def check(tree: ObjectTree, known: list[KmemleakObject], places: range) -> None:
    """The same objects in the same order, and the same answer everywhere."""
    assert list(tree) == sorted(known, key=lambda obj: obj.pointer)
    assert len(tree) == len(known)
    for place in places:
        expected = [obj for obj in known if obj.pointer <= place < obj.pointer + obj.size]
        assert tree.find(place) is (expected[0] if expected else None)


@pytest.mark.parametrize("seed", range(5))
def test_as_a_list(seed: int) -> None:
    """Inserted, refused when they overlap, removed: any mix."""
    rng = Random(seed)
    tree, known = ObjectTree(), list[KmemleakObject]()
    for step in range(400):
        if known and rng.random() < 0.4:
            tree.remove(known.pop(rng.randrange(len(known))))
        else:
            obj = block(rng.randrange(300), rng.randint(1, 12))
            end = obj.pointer + obj.size
            clash = [o for o in known if o.pointer < end and obj.pointer < o.pointer + o.size]
            other = tree.insert(obj)
            assert (other in clash) if clash else other is None
            if other is None:
                known.append(obj)
        if step % 20 == 0:
            check(tree, known, range(-1, 320))


def test_many() -> None:
    """More than fit in one piece, put in and taken out in any order."""
    rng = Random(1)
    objects = [block(16 * number, 16) for number in range(3 * MAX_PIECE)]
    tree = ObjectTree()
    for obj in rng.sample(objects, len(objects)):
        assert tree.insert(obj) is None
    assert tree.insert(block(16 * MAX_PIECE + 3, 1)) is objects[MAX_PIECE]
    for obj in rng.sample(objects, len(objects) - 1):
        assert tree.find(obj.pointer + 15) is obj
        tree.remove(obj)
        assert tree.find(obj.pointer + 15) is None
    assert len(list(tree)) == 1


def test_what_is_not_there_cannot_be_removed() -> None:
    """Neither from an empty tree, nor another of the same place, nor twice."""
    tree, obj = ObjectTree(), block(64, 8)
    with pytest.raises(KernelBug, match="0x40"):
        tree.remove(obj)
    tree.insert(obj)
    with pytest.raises(KernelBug, match="0x40"):
        tree.remove(block(64, 8))
    tree.remove(obj)
    with pytest.raises(KernelBug, match="0x40"):
        tree.remove(obj)
