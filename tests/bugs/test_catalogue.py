"""
Each planted bug is found, its witness shows it, and the correct model passes under the same schedule.

A bug overrides few methods. bases.tsv holds a digest of each that is overridden, as it was when the bug was
written: a change of the original fails here until somebody has looked whether the bug still is the same
mistake, and has renewed the digest (``python -m tests.bugs.bases``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from concmem import explore
from concmem.bugs import Bug, all_bugs, find_bug
from concmem.errors import BadArgument

from .bases import digests, overrides, recorded

pytestmark = pytest.mark.timeout(120)

BUGS = [pytest.param(bug, id=f"{bug.number}-{bug.name}") for bug in all_bugs()]


def searches() -> Iterator[Any]:
    for bug in all_bugs():
        for scheduler in bug.executions:
            yield pytest.param(bug, scheduler, id=f"{bug.number}-{bug.name}-{scheduler}")


@pytest.mark.parametrize(("bug", "scheduler"), list(searches()))
def test_it_is_found(bug: Bug, scheduler: str) -> None:
    """Within as many executions as it says, and by what it says."""
    nr = bug.executions[scheduler]
    outcome = explore.check(bug.program, scheduler, nr, seed=0, shrink=False, **bug.options)
    assert outcome.failure is not None, f"not found in {outcome.executions} executions"
    assert bug.is_shown_by(outcome.failure.kind, outcome.failure.error), outcome.failure


@pytest.mark.parametrize("bug", BUGS)
def test_the_witness_shows_it(bug: Bug) -> None:
    outcome = explore.replay(bug.program, bug.witness, **bug.options)
    assert outcome.failure is not None
    assert bug.is_shown_by(outcome.failure.kind, outcome.failure.error), outcome.failure


@pytest.mark.parametrize("bug", BUGS)
def test_the_correct_model_passes_under_the_witness(bug: Bug) -> None:
    """As far as that goes: what is correct may take other steps; then its default is taken."""
    outcome = explore.replay(bug.correct, bug.witness, strict=False, **bug.options)
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize("bug", BUGS)
def test_the_correct_model_passes_the_same_search(bug: Bug) -> None:
    nr = min(bug.executions[bug.scheduler], 100)
    outcome = explore.check(bug.correct, bug.scheduler, nr, seed=1, **bug.options)
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize("bug", BUGS)
def test_an_override_fits_its_base(bug: Bug) -> None:
    """It overrides what is there, with the same parameters, and what it was written for."""
    assert bug.replaces
    for base, planted in bug.replaces.items():
        assert issubclass(planted, base)
        assert planted is not base
    found = overrides(bug)
    assert found, "overrides nothing"
    for key, (original, planted_method) in found.items():
        if inspect.isfunction(original):
            parameters = list(inspect.signature(original).parameters)
            assert parameters == list(inspect.signature(planted_method).parameters), key
    known = recorded()
    assert {key: known.get(key) for key in found} == digests(bug)


@pytest.mark.parametrize("bug", BUGS)
def test_what_it_says(bug: Bug) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", bug.name)
    assert re.fullmatch(r"[BG]\d\d?", bug.number)
    module = inspect.getmodule(bug.workload)
    assert module is not None
    assert module.__doc__ is not None
    for word in ("Symptom:", "Fix:"):
        assert word in module.__doc__
    assert re.search(r"^ {4}CPU 0 ", module.__doc__, re.MULTILINE), "no interleaving in columns"
    assert find_bug(bug.name) is find_bug(bug.number) is bug


def test_names_and_numbers_are_different() -> None:
    assert len({bug.name for bug in all_bugs()}) == len(all_bugs())
    assert len({bug.number for bug in all_bugs()}) == len(all_bugs())


def test_an_unknown_bug() -> None:
    with pytest.raises(BadArgument, match="there is no 'nonesuch'"):
        find_bug("nonesuch")


def test_the_table_in_the_docs_names_every_bug() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "bugs.md"
    rows = re.findall(r"^\| ([BG]\d+) \| ([a-z0-9-]+) \|", page.read_text(), re.MULTILINE)
    assert rows == [(bug.number, bug.name) for bug in all_bugs()]
