"""Reference counts in the orders of events that are hard to get right."""

from __future__ import annotations

from collections.abc import Callable

from concmem.runtime.variables import FreeRefcount


class Hooked(FreeRefcount):
    """Runs something else just before a token is taken back: another CPU, at the worst moment."""

    __slots__ = ("hooks",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.hooks: list[Callable[[], object]] = []

    def remove(self, token: bool) -> None:
        if self.hooks:
            self.hooks.pop()()
        super().remove(token)


def test_two_attempts_and_a_whole_life_between() -> None:
    """
    Two attempts at a count of zero; meanwhile it is set to one and dropped.

    cpu0 pushes, sees none | cpu1: first reference | cpu2 pushes, sees none | cpu1 drops it, popping
    cpu2's token | cpu2 takes a token back | cpu0 finds none to take back.
    Whoever says that it has a reference has one, and there are no others.
    """
    count = Hooked("count")
    results = []

    def first_then_attempt() -> None:
        count.add(True)
        count.hooks.append(lambda: results.append(("drop was last", count.dec_and_test())))
        results.append(("cpu2", count.inc_not_zero()))

    count.hooks.append(first_then_attempt)
    results.append(("cpu0", count.inc_not_zero()))
    held = sum(got for name, got in results if name.startswith("cpu"))
    last = dict(results)["drop was last"]
    assert count.read() == held
    assert last == (held == 0)
    for _ in range(held):
        assert count.dec_and_test() == (count.read() == 0)


def test_an_attempt_at_zero_leaves_nothing() -> None:
    """It fails, and the count is still zero."""
    count = FreeRefcount("count")
    assert not count.inc_not_zero()
    assert count.read() == 0
