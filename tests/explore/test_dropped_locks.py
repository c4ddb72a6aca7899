"""
Each lock of the memory management code left out in turn: a data race or a broken rule is reported.

dropped_locks.tsv names every section of the source with a lock, and the program that notices when it is not taken.
Some are not noticed: see docs/explanation/controlled-mode.md.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from concmem import explore
from concmem.errors import KernelBug

from .dropping import Section, sections, without_lock, wrapped
from .mm_programs import PROGRAMS

TABLE = Path(__file__).with_name("dropped_locks.tsv")

EXECUTIONS = 180
"""Twice what the slowest needed; the seed is fixed."""

BATCHES = 8

Key = tuple[str, str, str, str]


def table() -> dict[Key, str]:
    """The program that notices, by module, function, lock, and the how manieth such section it is."""
    rows = [line.split("\t") for line in TABLE.read_text().splitlines() if line[:1] != "#"]
    return {(row[0], row[1], row[2], row[3]): row[4] for row in rows}


def keyed_sections() -> dict[Key, Section]:
    """Every section of the source, by the same."""
    count: Counter[tuple[str, str, str]] = Counter()
    found: dict[Key, Section] = {}
    for section in sections():
        key = section.module.removeprefix("concmem.mm."), section.function, section.lock
        count[key] += 1
        found[(*key, str(count[key]))] = section
    return found


def test_the_table_names_every_section() -> None:
    """None is forgotten, and most are noticed."""
    assert set(table()) == set(keyed_sections())
    noticed = sum(program != "-" for program in table().values())
    assert (len(table()), noticed) == (195, 135)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_dropped_lock_is_noticed(batch: int) -> None:
    """Without the lock, the program fails under some of 180 random schedules."""
    found = keyed_sections()
    noticed = [(key, program) for key, program in table().items() if program != "-"]
    for key, program in noticed[batch::BATCHES]:
        section = found[key]
        assert is_noticed(section, program), f"{section.name}: not noticed by {program}"


def is_noticed(section: Section, program: str) -> bool:
    """Whether *program* fails, if only when it is booted."""
    with wrapped(section.module, {section.line}, without_lock):
        try:
            outcome = explore.check(
                PROGRAMS[program], "random", executions=EXECUTIONS, cpus=2, shrink=False
            )
        except KernelBug:
            return True
    return outcome.failure is not None


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_correct_code_is_not_reported(name: str) -> None:
    """The same programs find nothing in the code as it is; twice, random and by priorities."""
    for scheduler in ("random", "pct"):
        outcome = explore.check(PROGRAMS[name], scheduler, executions=6, cpus=2, shrink=False)
        assert outcome.failure is None, str(outcome.failure)
