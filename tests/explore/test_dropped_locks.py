"""
Each lock of the memory management code left out in turn: a data race or a broken rule is reported.

dropped_locks.tsv names every section of the source with a lock, and the program that notices when it is not taken.
A few are not noticed: see docs/explanation/controlled-mode.md.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from concmem import explore
from concmem.errors import KernelBug

from .dropping import Section, all_wrapped, sections, without_lock, wrapped
from .dropping_covered import BOOT, holders
from .mm_programs import PROGRAMS

TABLE = Path(__file__).with_name("dropped_locks.tsv")

EXECUTIONS = 180
"""Twice what the slowest needed; the seed is fixed."""

BATCHES = 8

COVERED = "covered: "

OPTIONS: dict[str, dict[str, Any]] = {"leaks_parked": {"verify_every": 5}}
"""How programs are run that need more than a schedule: here, that CPUs are parked now and then."""

Key = tuple[str, str, str, str]


class Row(NamedTuple):
    """What is known of one section."""

    program: str
    """That notices; ``-``: none; or ``covered:`` and the lock that is held as well."""
    how: str
    scheduler: str = "random"


def table() -> dict[Key, Row]:
    """By module, function, lock, and the how manieth such section it is."""
    rows = [line.split("\t") for line in TABLE.read_text().splitlines() if line[:1] != "#"]
    return {(row[0], row[1], row[2], row[3]): Row(*row[4:]) for row in rows}


def keyed_sections() -> dict[Key, Section]:
    """Every section of the source, by the same."""
    count: Counter[tuple[str, str, str]] = Counter()
    found: dict[Key, Section] = {}
    for section in sections():
        key = section.module.removeprefix("concmem.mm."), section.function, section.lock
        count[key] += 1
        found[(*key, str(count[key]))] = section
    return found


def noticed() -> list[tuple[Key, Row]]:
    """The rows with a program."""
    return [(key, row) for key, row in table().items() if row.program in PROGRAMS]


def covered() -> dict[Key, str]:
    """The sections that another lock covers, and that."""
    return {
        key: row.program.removeprefix(COVERED)
        for key, row in table().items()
        if row.program.startswith(COVERED)
    }


def test_the_table_names_every_section() -> None:
    """None is forgotten, and nearly all are noticed."""
    rows = table()
    assert set(rows) == set(keyed_sections())
    unnoticed = sum(row.program == "-" for row in rows.values())
    assert (len(rows), len(noticed()), len(covered()), unnoticed) == (195, 186, 6, 3)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_dropped_lock_is_noticed(batch: int) -> None:
    """Without the lock, the program fails under some of 180 schedules."""
    found = keyed_sections()
    for key, row in noticed()[batch::BATCHES]:
        section = found[key]
        assert is_noticed(section, row), f"{section.name}: not noticed by {row.program}"


def is_noticed(section: Section, row: Row) -> bool:
    """Whether the program fails, if only when it is booted."""
    with wrapped([section], without_lock):
        try:
            outcome = explore.check(
                PROGRAMS[row.program],
                row.scheduler,
                executions=EXECUTIONS,
                cpus=2,
                shrink=False,
                **OPTIONS.get(row.program, {}),
            )
        except KernelBug:
            return True
    return outcome.failure is not None


@pytest.mark.parametrize(
    ("outer", "programs"),
    [
        ("mm->mmap_lock", ("stack_and_copies", "address_space")),
        ("slab_mutex", ("same_name", "cpu_goes")),
        (BOOT, ("pages", "caches")),
    ],
)
def test_a_covered_section_is_covered(outer: str, programs: tuple[str, ...]) -> None:
    """Each time that it is entered, the CPU has the other lock (to write); what else uses the data has it, too."""
    found = keyed_sections()
    wanted = [found[key] for key, lock in covered().items() if lock == outer]
    reached: set[Section] = set()
    check = holders(outer)

    def note(section: Section, lock: Any) -> Any:
        reached.add(section)
        return check(section, lock)

    with all_wrapped(wanted, note):
        for program in programs:
            outcome = explore.check(
                PROGRAMS[program], "random", executions=20, cpus=2, shrink=False
            )
            assert outcome.failure is None, str(outcome.failure)
    assert reached == set(wanted)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_correct_code_is_not_reported(name: str) -> None:
    """The same programs find nothing in the code as it is; twice, random and by priorities."""
    for scheduler in ("random", "pct"):
        outcome = explore.check(
            PROGRAMS[name],
            scheduler,
            executions=6,
            cpus=2,
            shrink=False,
            **OPTIONS.get(name, {}),
        )
        assert outcome.failure is None, str(outcome.failure)
