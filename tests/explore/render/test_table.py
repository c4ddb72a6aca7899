"""The report as text: who did what in whose column, what was forced, what was wrong, how to see it again."""

from __future__ import annotations

import re

import pytest

from concmem import explore
from concmem.explore.render import words
from concmem.explore.render.fold import MOST
from concmem.explore.render.table import Look, render_table

from .failures import EVIL, PROGRAMS, failure_of


def lines_of(name: str, width: int = 100) -> list[str]:
    return failure_of(name).to_text(width).splitlines()


def column(heading: str, name: str) -> int:
    return heading.index(name)


def test_each_cpu_has_its_column() -> None:
    """An operation starts where the name of its CPU does, with its value."""
    heading, first, rule, *rest = lines_of("counter")
    cpu0, cpu1 = column(heading, "cpu0"), column(heading, "cpu1")
    assert first[cpu0:].startswith("read x -> 0 ")
    assert rest[0][cpu1:].startswith("read x -> 0 ")
    assert rest[1][cpu1:].startswith("write x 0 -> 1 ")
    assert rest[2][cpu1:].startswith("(has ended)")
    assert rest[3][cpu0:].startswith("write x 1 -> 1 ")
    assert re.fullmatch(r"-+ cpu0 is preempted -+", rule)
    assert all(
        line[column(heading, "source") :].startswith("programs.py:") for line in (first, rest[0])
    )


def test_steps_of_the_explanation_are_marked() -> None:
    """With a character, not with colour alone."""
    marked = [line for line in lines_of("counter") if line.startswith(">")]
    assert [line.split()[1] for line in marked] == ["1", "3", "4"]


def test_order_of_the_report() -> None:
    """Table, explanation, error with the line that raised it, how it was found; the line to replay is last."""
    lines = lines_of("counter")
    places = [
        next(i for i, line in enumerate(lines) if text in line)
        for text in (
            "read x -> 0",
            "read: the update of cpu1 is lost",
            "assertion: AssertionError",
            "after: assert x.value == 2",
            'explore.replay(program, "v1:1.0")',
        )
    ]
    assert places == sorted(places)
    assert lines[-1] == 'explore.replay(program, "v1:1.0")'


def test_replay_line() -> None:
    """A command if there is one; otherwise Python, with the arguments that were not the usual ones."""
    failure = explore.Failure("assertion", AssertionError(), "v1:3.0", "", 1, "")
    assert failure.replay_line == 'explore.replay(program, "v1:3.0")'
    failure.options = {"cpus": 3, "detectors": {"races"}}
    assert failure.replay_line == (
        "explore.replay(program, \"v1:3.0\", cpus=3, detectors={'races'})"
    )
    failure.target = "mytests:program --cpus 3"
    assert str(failure).splitlines()[-1] == "concmem replay mytests:program --cpus 3 'v1:3.0'"


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_replay_line_replays(name: str) -> None:
    """What is printed in the end leads to the same failure."""
    failure = failure_of(name)
    line = failure.replay_line
    outcome = eval(line, {"explore": explore, "program": PROGRAMS[name]})
    assert outcome.failure.identity == failure.identity


def test_interrupts_are_in_the_column_of_their_cpu() -> None:
    """Marked, with the line where they begin, and where the body goes on."""
    text = "\n".join(lines_of("interrupt"))
    assert "- interrupt on cpu0: tick -" in text
    assert "! store Slot.value 0 -> 10" in text
    assert "- cpu0 goes on -" in text
    assert "! in an interrupt" in text
    assert lines_of("interrupt")[0].split() == ["step", "cpu0", "source"]


def test_notes_have_no_number_of_their_own() -> None:
    """An access under its guard is no step: it has the number of the step before."""
    assert any(line.split()[0] == "1+" for line in lines_of("data_race"))


def test_kernel_threads_have_a_column_if_they_did_something() -> None:
    """The flusher has one, the one without work has none."""
    heading = lines_of("kernel_thread")[0]
    assert heading.split() == ["step", "cpu0", "flusher", "holds", "source"]


def test_locks_held() -> None:
    """In a column of their own, if there are any."""
    heading, *lines = lines_of("order")
    held = {line[column(heading, "holds") :].split()[0] for line in lines if "write data" in line}
    assert held == {"lock"}
    assert "holds" not in lines_of("counter")[0]


def test_deadlock_shows_who_waits_for_what() -> None:
    """After the last step, each in its column."""
    heading, *lines = lines_of("abba")
    first = next(line for line in lines if "(waits for b, held by cpu1)" in line)
    second = next(line for line in lines if "(waits for a, held by cpu0)" in line)
    assert first.index("(") == column(heading, "cpu0")
    assert second.index("(") == column(heading, "cpu1")


def test_long_traces_are_folded() -> None:
    """A few dozen lines for some 400 steps; the steps that matter, and how many are left out."""
    failure = failure_of("machine")
    lines = lines_of("machine")
    assert failure.trace is not None
    assert failure.trace.steps > 300
    assert len(lines) < MOST
    text = "\n".join(lines)
    assert re.search(r"\.\.\. \d+ steps: .*(alloc|free)_pages", text)
    assert "is preempted" in text
    assert "print(failure.trace) shows all" in text
    shown = sum(bool(re.match(r">?\s*\d+  ", line)) for line in lines)
    folded = sum(int(n.replace(",", "")) for n in re.findall(r"\.\.\. ([\d,]+) step", text))
    assert shown + folded == failure.trace.steps


def test_str_of_a_trace_has_every_step() -> None:
    """Nothing is folded there."""
    trace = failure_of("machine").trace
    assert trace is not None
    numbers = [int(n) for n in re.findall(r"^ *(\d+) ", str(trace), re.MULTILINE)]
    assert numbers == list(range(1, trace.steps + 1))


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_line_is_wider_than_asked(name: str, width: int) -> None:
    """Whatever the names are; only the line to replay is never broken."""
    for line in lines_of(name, width)[:-1]:
        assert words.width(line) <= width, line


def test_many_cpus_are_shown_one_below_the_other() -> None:
    """Where there is no room for a column each, each line has the CPU's name."""
    heading, *lines = lines_of("many_cpus", 80)
    assert heading.split()[:2] == ["step", "CPU"]
    assert any("cpu7 acquire b" in line for line in lines)
    assert "cpu7" in lines_of("many_cpus", 160)[0]


def test_a_narrow_table_keeps_values() -> None:
    """Names are cut in the middle, values are not cut."""
    trace = failure_of("data_race").trace
    assert trace is not None
    text = render_table(trace, look=Look(70))
    assert re.search(r"store Acc\S*… ?\S* 0 -> 1", text)


def test_unusual_names_cannot_do_anything() -> None:
    """No control character gets through, wide characters take two columns."""
    failure = failure_of("evil")
    for text in (failure.to_text(100), str(failure.trace), failure.explanation):
        assert all(char.isprintable() or char == "\n" for char in text)
    assert EVIL not in failure.to_text(100)
    heading, *lines = lines_of("evil", 160)
    places = [
        line.index("failures.py") + words.width(line) - len(line)
        for line in lines
        if "漢字" in line
    ]
    assert places
    assert set(places) == {heading.index("source")}


def test_colour_only_where_asked() -> None:
    """The same text, with escape sequences in between."""
    failure = failure_of("counter")
    coloured = failure.to_text(100, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == failure.to_text(100)


def test_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as the terminal says; 100 where there is none."""
    failure = failure_of("many_cpus")
    monkeypatch.setenv("COLUMNS", "70")
    assert str(failure) == failure.to_text(70)
    monkeypatch.setenv("COLUMNS", "20")
    assert str(failure) == failure.to_text(60), "narrower than that is no table any more"
