"""
The hunts of the catalogue on the correct model, with ten times the executions: nothing is found.

Minutes: ``pytest -m slow tests/bugs``. The last result is in docs/reference/bugs.md.
"""

from __future__ import annotations

import pytest

from concmem import explore
from concmem.bugs import Bug, all_bugs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUGS = [pytest.param(bug, id=f"{bug.number}-{bug.name}") for bug in all_bugs()]


@pytest.mark.parametrize("bug", BUGS)
def test_nothing_is_found_on_the_correct_model(bug: Bug) -> None:
    nr = 10 * bug.executions[bug.scheduler]
    outcome = explore.check(bug.correct, bug.scheduler, nr, seed=2, **bug.options)
    assert outcome.failure is None, outcome.failure
    assert outcome.executions == nr or outcome.exhausted or outcome.ended_by == "scheduler"
