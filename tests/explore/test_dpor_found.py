"""Programs of which an outcome was once missed, made as small as they can be."""

from __future__ import annotations

import pytest

from concmem import explore

from .drawn.search import search
from .drawn.spec import Spec

SPECS = {
    # Who was handed a semaphore goes on because of that, not of the last change before.
    "semaphore handed over": Spec(
        [[("down_read", [])], [("down_write", []), ("down_read", [("clock",)])]]
    ),
    # The failure of one CPU must not hide that of another one.
    "two failures": Spec(
        [[("read", 0), ("fail_if", 0, 0)], [("read", 1), ("read", 1), ("fail_if", 1, 0)]]
    ),
    "failures that exclude each other": Spec(
        [[("write", 0, 1), ("fail_if", 1, 0)], [("write", 1, 1), ("fail_if", 0, 0)]]
    ),
    "failure under a lock": Spec(
        [[("lock", 0, [("fail_if", 0, 1)])], [("write", 0, 1), ("lock", 0, [("fail_if", 0, 1)])]]
    ),
    "failure in an interrupt": Spec(
        [[("write", 0, 1), ("write", 0, 2)], [("write", 1, 1), ("fail_if", 1, 1)]],
        [(0, [("fail_if", 0, 1)])],
    ),
    # A failed trylock is no deadlock, but only that order shows it.
    "circle and trylock": Spec(
        [[("lock", 0, [("trylock", 1, [])])], [("lock", 1, [("lock", 0, [])])]]
    ),
    "circle": Spec([[("lock", 0, [("lock", 1, [])])], [("lock", 1, [("lock", 0, [])])]]),
    "wake-up that came before": Spec(
        [[("wait", 0, None)], [("wake", 0, 1)]],
    ),
    "time-outs of different lengths": Spec(
        [[("wait", 0, 1.0), ("read", 0)], [("wait", 1, 2.0), ("write", 0, 1)]],
        early_timeouts=1,
    ),
    "interrupt with interrupts off": Spec(
        [[("irqs_off", [("write", 0, 1), ("write", 0, 2)])], [("post", 0, [("read", 0)])]]
    ),
    "a body of one's own": Spec(
        [[("post", 0, [("write", 0, 1)]), ("start", 1, [("copy", 0, 0)])], [("copy", 0, 1)]]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=str)
def test_nothing_is_missed(name: str, order: list[int]) -> None:
    """The same final states and failures as depth-first search, whatever the order of the bodies."""
    spec = SPECS[name].permuted(order)
    everything = search(spec, explore.DFS(), 3000)
    assert everything.exhausted
    reduced = search(spec, explore.DPOR(), everything.executions + 5)
    assert reduced.exhausted
    assert reduced.found == everything.found
    assert everything.states or everything.failures
    assert reduced.executions <= everything.executions
