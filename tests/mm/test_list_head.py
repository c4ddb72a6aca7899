"""Lists through the objects themselves, against Python lists, and what corruption looks like."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.errors import ListCorruption
from concmem.mm.list_head import List, ListHead, list_del


class Node(ListHead):
    """An object that can be on a list."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.next = self.prev = None
        self.number = number


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["add", "add_tail", "del"]), st.integers(0, 99))))
def test_like_a_python_list(steps: list[tuple[str, int]]) -> None:
    """Insertions at both ends and deletions anywhere give the same order as a Python list."""
    head: List[Node] = List()
    model: list[Node] = []
    for what, number in steps:
        if what == "del":
            if model:
                list_del(model.pop(number % len(model)))
        else:
            node = Node(number)
            getattr(head, what)(node)
            model.insert(0 if what == "add" else len(model), node)
        assert list(head) == model
        assert head.empty() == (not model)
        assert head.is_singular() == (len(model) == 1)
        assert head.first() is (model[0] if model else None)


def test_the_current_entry_may_be_removed() -> None:
    """Iteration goes on after the entry it is at was deleted."""
    head: List[Node] = List()
    for number in range(6):
        head.add_tail(Node(number))
    for node in head:
        if node.number % 2:
            list_del(node)
    assert [node.number for node in head] == [0, 2, 4]


def nodes_on_a_list() -> tuple[List[Node], list[Node]]:
    head: List[Node] = List()
    nodes = [Node(number) for number in range(3)]
    for node in nodes:
        head.add_tail(node)
    return head, nodes


def links(head: List[Node], nodes: list[Node]) -> list[object]:
    return [link for node in (head, *nodes) for link in (node.next, node.prev)]


def test_added_twice() -> None:
    """A node on a list cannot be added again, and nothing is changed by the attempt."""
    head, nodes = nodes_on_a_list()
    before = links(head, nodes)
    for add in (head.add, head.add_tail):
        with pytest.raises(ListCorruption, match="already on a list"):
            add(nodes[1])
    assert links(head, nodes) == before


def test_deleted_twice() -> None:
    """A node on no list cannot be deleted."""
    _, nodes = nodes_on_a_list()
    list_del(nodes[1])
    with pytest.raises(ListCorruption, match="on no list"):
        list_del(nodes[1])


@pytest.mark.parametrize(("node", "field"), [(0, "next"), (2, "prev")])
def test_neighbours_that_disagree(node: int, field: str) -> None:
    """A neighbour that points elsewhere stops list_del and iteration before they do harm."""
    head, nodes = nodes_on_a_list()
    setattr(nodes[node], field, Node(9))
    before = links(head, nodes)
    with pytest.raises(ListCorruption, match="neighbours"):
        list_del(nodes[1])
    assert links(head, nodes) == before
    with pytest.raises(ListCorruption, match="list corruption"):
        list(head)


def test_corrupted_head() -> None:
    """list_add looks at both neighbours of the place."""
    head, nodes = nodes_on_a_list()
    nodes[0].prev = nodes[2]
    with pytest.raises(ListCorruption, match="list_add corruption"):
        head.add(Node(7))
