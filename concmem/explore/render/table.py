"""A failure as text: the interleaving with one column for each CPU, what was wrong, how to see it again."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.explore.render import words
from concmem.explore.render.explain import explain, place_of
from concmem.explore.render.fold import kept_steps
from concmem.explore.render.lanes import FOLD, RULE, STEP, Lanes, Row, lanes_of, rows_of
from concmem.explore.steps import Trace

if TYPE_CHECKING:
    from concmem.explore.failure import Failure

WIDTH: Final = 100
NARROWEST: Final = 60
NAME_MIN: Final = 8
"""Columns that are left of an object's name, so that the value can be seen."""

_STYLES: Final = {"rule": "33", "key": "1", "dim": "2", "error": "1;31", "head": "4"}


class Look(NamedTuple):
    """How text is to look."""

    width: int = WIDTH
    colour: bool = False

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def wrap(self, text: str, indent: str = "") -> str:
        lines = [
            textwrap.fill(
                line, self.width, subsequent_indent=indent, break_on_hyphens=False,
                break_long_words=False,
            )
            for line in text.splitlines() or [""]
        ]  # fmt: skip
        return "\n".join(lines)


def terminal_width() -> int:
    """Columns to use: those of the terminal, or 100 where there is none."""
    return max(NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns)


class _Columns(NamedTuple):
    """Where things are on a line."""

    number: int
    cells: tuple[int, ...]
    """Widths of the lanes; one for all of them where they are not side by side."""
    held: int
    where: int

    @property
    def total(self) -> int:
        parts = [part for part in (*self.cells, self.held, self.where) if part]
        return self.number + sum(parts) + 2 * len(parts)


def render_table(
    trace: Trace,
    kept: Collection[int] | None = None,
    key: Collection[int] = (),
    look: Look | None = None,
) -> str:
    """
    The steps of *trace*, one a line.

    Args:
        kept: indexes of the steps to be shown, see `fold`; ``None``: all.
        key: indexes of those to be marked.
        look: by default as wide as the terminal, without colour.
    """
    look = look or Look(terminal_width())
    lanes = lanes_of(trace)
    rows = list(rows_of(trace, lanes, None if kept is None else set(kept)))
    if not rows:
        return ""
    columns = _layout(rows, lanes, look.width)
    lines = [look.paint(_heading(lanes, columns), "head")]
    for row in rows:
        lines.append(_line(row, lanes, columns, row.step is not None and row.step.at in key, look))
    if any(row.kind == STEP and row.step is not None and row.step.is_irq for row in rows):
        lines.append(look.paint("   ! in an interrupt", "dim"))
    return "\n".join(lines)


def _layout(rows: list[Row], lanes: Lanes, width: int) -> _Columns:
    """Divide *width*: the CPUs side by side if their values can be seen, else one below the other."""
    steps = [row.step for row in rows if row.kind == STEP and row.step is not None]
    number = max([6, *(len(str(step.number)) + 3 for step in steps)])
    where = max((words.width(words.clean(step.where)) for step in steps), default=0)
    held = max((words.width(_held(row)) for row in rows), default=0)
    columns = _Columns(number, (), min(held, 20), min(where, 40))
    return (
        _side_by_side(rows, lanes, width, columns)
        or _side_by_side(rows, lanes, width, columns._replace(held=0))
        or _one_below_the_other(rows, lanes, width, columns)
    )


def _side_by_side(rows: list[Row], lanes: Lanes, width: int, columns: _Columns) -> _Columns | None:
    """A column for each lane; ``None`` if there is no room."""
    wanted = [len(lane.name) for lane in lanes]
    needed = list(wanted)
    for row in rows:
        if row.kind == STEP:
            wanted[row.lane] = max(wanted[row.lane], words.width(_text(row)))
            needed[row.lane] = max(needed[row.lane], _least(row))
    # What is beside the steps may go on to the right, but in the last lane not far.
    beside = [row for row in rows if row.lane >= 0 and row.kind not in (STEP, RULE)]
    spare = max((words.width(_text(row)) - sum(wanted[row.lane :]) for row in beside), default=0)
    wanted[-1] += max(0, min(spare, 24))
    number, _, held, where = columns
    room = width - number - 2 * (len(wanted) + bool(where) + bool(held))
    for cell, where_least, held_least in ((28, 24, 12), (20, 20, 8), (0, 14, 4)):
        wanted = _shrink(wanted, sum(wanted) + where + held - room, [max(n, cell) for n in needed])
        over = sum(wanted) + where + held - room
        where = max(min(where, where_least), where - max(0, over))
        over = sum(wanted) + where + held - room
        held = max(min(held, held_least), held - max(0, over))
    if sum(wanted) + where + held > room:
        return None
    return _Columns(number, tuple(wanted), held, where)


def _one_below_the_other(rows: list[Row], lanes: Lanes, width: int, columns: _Columns) -> _Columns:
    """One column, with the name of the CPU on each line."""
    number, _, held, where = columns
    room = width - number - 2 * (1 + bool(where) + bool(held))
    where, held = min(where, 30, room // 3), min(held, 16, room // 5)
    name = max(len(lane.name) for lane in lanes)
    wanted = max(words.width(_text(row)) for row in rows if row.kind != RULE) + name + 1
    return _Columns(number, (min(wanted, room - where - held),), held, where)


def _least(row: Row) -> int:
    """Columns that a step's value needs, with the name of the object cut."""
    assert row.step is not None
    _, obj, _ = words.parts(row.step)
    text = words.width(_text(row))
    return min(40, text - max(0, words.width(obj) - NAME_MIN))


def _shrink(cells: list[int], over: int, least: list[int]) -> list[int]:
    """Take *over* columns from the widest cells, none to below *least*."""
    cells = list(cells)
    while over > 0:
        place = max(range(len(cells)), key=lambda i: (cells[i] > least[i], cells[i]))
        if cells[place] <= least[place]:
            break
        cells[place] -= 1
        over -= 1
    return cells


def _heading(lanes: Lanes, columns: _Columns) -> str:
    names = [lane.name for lane in lanes] if _is_side_by_side(lanes, columns) else ["CPU"]
    parts = ["step".rjust(columns.number)]
    parts += [_pad(name, width) for name, width in zip(names, columns.cells, strict=True)]
    if columns.held:
        parts.append(_pad("holds", columns.held))
    if columns.where:
        parts.append("source")
    return "  ".join(parts).rstrip()


def _is_side_by_side(lanes: Lanes, columns: _Columns) -> bool:
    return len(columns.cells) == len(lanes)


def _line(row: Row, lanes: Lanes, columns: _Columns, is_key: bool, look: Look) -> str:
    if row.kind == RULE:
        start = f"{'-' * (columns.number - 2)} {words.cut(row.text, look.width - columns.number)} "
        return look.paint(start.ljust(columns.total, "-"), "rule")
    number = ""
    if row.kind == STEP and row.step is not None:
        number = f"{row.step.number}{'+' if row.step.is_note else ''}"
    is_key = is_key and row.kind == STEP
    number = (">" if is_key else "") + number.rjust(columns.number - is_key)
    cells = list(_cells(row, lanes, columns))
    style = "key" if is_key else "" if row.kind == STEP else "dim"
    if columns.held and row.kind == STEP:
        cells.append(_pad(words.cut(_held(row), columns.held), columns.held))
    line = "  ".join([number, *cells])
    where = ""
    if columns.where and row.kind == STEP and row.step is not None:
        where = _cut_left(words.clean(row.step.where), columns.where)
    return (look.paint(line, style) + (f"  {look.paint(where, 'dim')}" if where else "")).rstrip()


def _cells(row: Row, lanes: Lanes, columns: _Columns) -> Iterator[str]:
    if not _is_side_by_side(lanes, columns):
        name = f"{lanes[row.lane].name} " if row.lane >= 0 else ""
        yield _cell(row, columns, columns.cells[0], 0, name)
        return
    lane = max(0, row.lane)
    yield from (" " * width for width in columns.cells[:lane])
    yield _cell(row, columns, columns.cells[lane], sum(columns.cells[:lane]) + 2 * lane)
    if row.kind == STEP:
        yield from (" " * width for width in columns.cells[lane + 1 :])


def _cell(row: Row, columns: _Columns, width: int, left: int, name: str = "") -> str:
    """The cell of a step; what is no step may go on to the end of the line, as nothing comes after it."""
    if row.kind != STEP:
        return words.cut(name + _text(row), columns.total - columns.number - left - 2)
    return _pad(name + _fit(row, width - len(name)), width)


def _text(row: Row) -> str:
    """What is in the cell, were it wide enough."""
    if row.kind == STEP and row.step is not None:
        return ("! " if row.step.is_irq else "") + row.text
    return f"... {row.text}" if row.kind == FOLD else f"({row.text})"


def _fit(row: Row, columns: int) -> str:
    """The same in so many columns; of a step rather the object's name is cut than the value."""
    text = _text(row)
    if words.width(text) > columns and row.kind == STEP and row.step is not None:
        verb, obj, value = words.parts(row.step)
        rest = words.width(text) - words.width(obj)
        short = words.cut_middle(obj, max(NAME_MIN, columns - rest))
        mark = "! " if row.step.is_irq else ""
        text = mark + " ".join(part for part in (verb, short, value) if part)
    return words.cut(text, columns)


def _held(row: Row) -> str:
    if row.kind != STEP or row.step is None:
        return ""
    off = ["irqs off"] if row.step.irqs_off and not row.step.is_irq else []
    return ", ".join([*map(words.clean, row.step.held), *off])


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - words.width(text))


def _cut_left(text: str, columns: int) -> str:
    """A place in so many columns: without the function, then without the start of the file's name."""
    if words.width(text) <= columns:
        return text
    place, _, function = text.partition(" ")
    if words.width(place) + 4 <= columns:
        return words.cut(f"{place} {function}", columns)
    return f"…{place[1 - columns :]}" if len(place) > columns else place


# -- the whole report


def render_failure(failure: Failure, found: str = "", look: Look | None = None) -> str:
    """
    The whole report: the table, what it shows, the error, and the line to replay it.

    Args:
        found: how it was found, in words; comes before the last line.
    """
    look = look or Look(terminal_width())
    explanation = explain(failure)
    sections = []
    if failure.trace:
        kept = kept_steps(failure.trace, explanation.steps)
        table = render_table(failure.trace, kept, explanation.steps, look)
        if kept is not None:
            steps = words.count(failure.trace.steps, "step")
            table += "\n" + look.wrap(
                f"   {steps}, of which those that matter most are shown; print(failure.trace) shows all",
                "   ",
            )
        sections.append(table)
    if explanation.text:
        sections.append(look.wrap(explanation.text))
    sections.append(_render_error(failure, look))
    sections += [look.wrap(words.clean(note)) for note in failure.notes]
    if found:
        sections.append(look.wrap(found))
    sections.append(f"{failure.replay_line}")
    return "\n\n".join(sections)


def _render_error(failure: Failure, look: Look) -> str:
    """The kind of failure, who found it, the message, and the line that raised it."""
    who = f" on {failure.cpu}" if failure.cpu else ""
    name = type(failure.error).__name__
    message = str(failure.error).strip() or "(no message)"
    lines = [
        look.paint(f"{failure.kind}{who}: {name}", "error"),
        *(look.wrap(f"  {words.clean(line)}", "  ") for line in message.splitlines()),
    ]
    place = place_of(failure)
    if place is not None:
        where = f"  at {words.clean(str(place.site))}: {words.clean(place.text)}".rstrip(": ")
        lines.append(look.wrap(where, "    "))
    return "\n".join(lines)
