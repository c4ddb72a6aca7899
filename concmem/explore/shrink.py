"""
Shrinking: the simplest schedule, of the smallest program, that fails in the same way.

First the program: leave out bodies and operations while it still fails with the same identity (same kind, same
class of error, same place). Then the schedule: leave out deviations, then move each to an earlier step and to a
smaller choice; where many are left, look for the failure where few lead to it. Whatever comes out is the schedule
that the execution really had, so it replays exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, ReplayDiverged
from concmem.explore.schedule import Dropped, Schedule
from concmem.explore.schedulers.delay_bounding import DelayBounding
from concmem.explore.schedulers.preemption_bounding import PreemptionBounding
from concmem.explore.schedulers.replay import Replay

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.runner import Runner

Deviations = tuple[tuple[int, int], ...]
Identity = tuple[str, str, str]

FEW: Final = 2
"""Deviations that most failures need."""

AFRESH: Final = 500
"""Executions of each scheduler that looks for the failure once more."""


class Shrinker:
    """One search for something simpler."""

    def __init__(
        self, runner: Runner, schedule: Schedule, identity: Identity, seconds: float
    ) -> None:
        self._runner = runner
        self.best = schedule
        self._identity = identity
        self._deadline = perf_counter() + seconds
        self._tried: set[Schedule] = set()

    def out_of_time(self) -> bool:
        return perf_counter() > self._deadline

    def improves(self, candidate: Schedule) -> bool:
        """Try *candidate*; take what really happened if that fails the same way and is simpler."""
        if candidate in self._tried or self.out_of_time():
            return False
        self._tried.add(candidate)
        ended = self._fails(candidate)
        if ended is None or self._size(ended) >= self._size(self.best):
            return False
        self.best = ended
        return True

    @staticmethod
    def _size(schedule: Schedule) -> tuple[object, ...]:
        whole = sum(part.operation < 0 for part in schedule.dropped)
        return -whole, -len(schedule.dropped), *schedule.key

    def _fails(self, candidate: Schedule) -> Schedule | None:
        """The schedule that was really executed, if it failed the same way."""
        try:
            execution = self._runner.run_once(Replay(candidate, strict=False), candidate.dropped)
        except (ReplayDiverged, BadArgument):
            return None
        assert execution is not None
        return self._failed_alike(execution, candidate.dropped)

    def _failed_alike(self, execution: Execution, dropped: tuple[Dropped, ...]) -> Schedule | None:
        from concmem.explore.runner import failure_from

        failure = failure_from(execution, dropped)
        if failure is None or failure.identity != self._identity:
            return None
        return Schedule.parse(failure.schedule)

    # -- passes

    def drop_parts(self, parts: list[Dropped]) -> None:
        """Leave out bodies and operations."""
        for part in parts:
            if self.out_of_time() or self._is_dropped(part):
                continue
            dropped = tuple(sorted({*self.best.dropped, part}))
            if self._makes_sense(dropped):
                self.improves(Schedule(self.best.deviations, dropped))

    def _makes_sense(self, dropped: tuple[Dropped, ...]) -> bool:
        """
        Whether the program still passes when nothing is preempted.

        An oracle that counts what all bodies did fails without one of them, and that is no race.
        """
        return self._fails(Schedule((), dropped)) is None

    def _is_dropped(self, part: Dropped) -> bool:
        return part in self.best.dropped or Dropped(part.body) in self.best.dropped

    def drop_deviations(self) -> bool:
        """Leave out runs of deviations, long ones first; whether any could be."""
        improved = False
        size = max(1, len(self.best.deviations))
        while size:
            start = 0
            while start < len(self.best.deviations) and not self.out_of_time():
                deviations = self.best.deviations
                candidate = deviations[:start] + deviations[start + size :]
                if self.improves(self.best._replace(deviations=candidate)):
                    improved = True
                else:
                    start += size
            size //= 2
        return improved

    def lower(self) -> bool:
        """Move deviations to earlier steps and smaller choices; whether any could be."""
        improved = False
        for i in range(len(self.best.deviations)):
            for candidate in self._lower_at(i):
                if self.out_of_time() or i >= len(self.best.deviations):
                    return improved
                if self.improves(self.best._replace(deviations=candidate)):
                    improved = True
                    break
        return improved

    def _lower_at(self, i: int) -> Iterator[Deviations]:
        """Simpler ones for deviation *i*, the simplest first."""
        deviations = self.best.deviations
        if i >= len(deviations):  # those before became fewer
            return
        step, k = deviations[i]
        first = deviations[i - 1][0] + 1 if i else 0
        for earlier in range(first, step):
            for choice in range(k + 1):
                yield (*deviations[:i], (earlier, choice), *deviations[i + 1 :])
        for choice in range(k):
            yield (*deviations[:i], (step, choice), *deviations[i + 1 :])

    def search_afresh(self) -> None:
        """
        Look for the failure where few deviations lead to it.

        Leaving out one after the other does not get from one way to fail to another.
        """
        for policy in (DelayBounding(), PreemptionBounding()):
            policy.reset(0)
            deadline = perf_counter() + (self._deadline - perf_counter()) / 3
            for _ in range(AFRESH):
                if perf_counter() > deadline:
                    break
                execution = self._runner.run_once(policy, self.best.dropped)
                if execution is None:
                    break
                ended = self._failed_alike(execution, self.best.dropped)
                if ended is not None:
                    if self._size(ended) < self._size(self.best):
                        self.best = ended
                    break


def minimize(runner: Runner, schedule: Schedule, identity: Identity, seconds: float) -> Schedule:
    """The simplest schedule found within *seconds* that fails with *identity*."""
    shrinker = Shrinker(runner, schedule, identity, seconds)
    shrinker.improves(Schedule((), schedule.dropped))
    shrinker.drop_deviations()
    if shrinker.best.deviations:
        parts = runner.parts()
        shrinker.drop_parts([part for part in parts if part.operation < 0])
        # Backwards: what comes last is what nothing depends on.
        shrinker.drop_parts([part for part in reversed(parts) if part.operation >= 0])
    if len(shrinker.best.deviations) > FEW:
        shrinker.search_afresh()
    while shrinker.drop_deviations() or shrinker.lower():
        if shrinker.out_of_time():
            break
    return shrinker.best
