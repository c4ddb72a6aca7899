"""
A failure as a page: lanes for the CPUs, a slider through the interleaving, values, locks, and source lines.

The page needs nothing else, and no network. All that comes from the program is text in it, never markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from concmem.explore.render import words
from concmem.explore.render.explain import Explanation, explain, place_of
from concmem.explore.render.fold import kept_steps
from concmem.explore.render.lanes import ASIDE, FOLD, STEP, Lanes, Row, lanes_of, rows_of
from concmem.explore.render.page_data import COLOURS, PageData
from concmem.explore.steps import Step, Trace

if TYPE_CHECKING:
    from concmem.explore.failure import Failure

MOST_ROWS: Final = 3000
"""Steps up to which a page has all of them; of more, it has those that are not folded."""

_HERE: Final = Path(__file__).parent

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ margin: 0; padding: clamp(.7rem, 2vw, 1.5rem); }}
html {{ color-scheme: light dark; background: #ffffff; }}
@media (prefers-color-scheme: dark) {{ html {{ background: #0f141a; }} }}
</style>
</head>
<body>
{section}
</body>
</html>
"""


def render_page(failure: Failure) -> str:
    """The whole page, as HTML."""
    title = words.clean(f"{failure.kind}: {type(failure.error).__name__}")
    return _PAGE.format(title=escape(title), section=render_lanes_fragment(failure, is_page=True))


def render_lanes_fragment(failure: Failure, is_page: bool = False) -> str:
    """
    The same as a ``<section>``, to be put into another page; several of them may be in one.

    It brings its own style and script, which touch nothing outside of it. It follows the reader's light or
    dark mode, or ``data-theme="dark"`` or ``"light"`` of the page's root element.

    Args:
        is_page: it has the page for itself: its title is the page's, and arrow keys work everywhere.
    """
    trace = failure.trace if failure.trace is not None else Trace()
    explanation = explain(failure)
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    parts = [
        f'<section class="cm" tabindex="0"{" data-page=1" if is_page else ""} aria-label="interleaving">',
        f"<style>\n{style}</style>",
        *_top(failure, explanation, "h1" if is_page else "h2"),
    ]
    if trace:
        parts += _body(failure, trace, explanation)
    parts.append("</section>")
    return "\n".join(parts)


def _top(failure: Failure, explanation: Explanation, heading: str) -> Iterator[str]:
    """What went wrong, and how to see it again."""
    who = f" on {words.task(failure.cpu)}" if failure.cpu else ""
    name = type(failure.error).__name__
    message = _text("\n".join(map(words.clean, str(failure.error).splitlines())))
    yield '<header class="cm-top">'
    yield f'<p class="cm-kind">{_text(failure.kind + who)}</p>'
    yield f'<{heading} class="cm-title">{_text(name)}{": " if message else ""}{message}</{heading}>'
    place = place_of(failure)
    if place is not None:
        line = f" <code>{_text(place.text)}</code>" if place.text else ""
        yield f'<p class="cm-at">at {_text(str(place.site))}{line}</p>'
    if explanation.text:
        yield f'<p class="cm-why">{_linked(explanation, failure.trace or Trace())}</p>'
    for note in failure.notes:
        yield f'<p class="cm-note">{_text(note)}</p>'
    yield (
        f'<p class="cm-replay"><code>{_text(failure.replay_line)}</code> '
        '<button type="button" class="cm-copy">Copy</button></p>'
    )
    yield "</header>"


def _linked(explanation: Explanation, trace: Trace) -> str:
    """The explanation, with the steps it speaks of as buttons."""
    places = {words.at(trace[at]): at for at in explanation.steps}

    def link(match: re.Match[str]) -> str:
        at = places.get(match[0])
        if at is None:
            return match[0]
        return f'<button type="button" class="cm-ref" data-i="{at}">{match[0]}</button>'

    return re.sub(r"(?:after )?step \d+", link, _text(explanation.text))


def _body(failure: Failure, trace: Trace, explanation: Explanation) -> Iterator[str]:
    """The picture, the slider, and what holds at a step."""
    lanes = lanes_of(trace)
    rows = list(rows_of(trace, lanes, kept_steps(trace, explanation.steps)))
    key = set(explanation.steps)
    data = PageData(trace, lanes, key)
    has_folded = len(trace) <= MOST_ROWS
    yield f'<div class="cm-body" style="--lanes:{len(lanes)};--digits:{len(str(trace[-1].number))}">'
    yield '<div class="cm-picture">'
    yield _head(lanes)
    yield '<ol class="cm-rows">'
    picture = _Picture(lanes, data, key, has_folded)
    for row in rows:
        yield from picture.row(row)
    yield f'<li class="cm-row cm-end">{_text(failure.kind)}: {_text(type(failure.error).__name__)}</li>'
    yield "</ol></div>"
    yield from _side(data)
    yield from _controls()
    yield "</div>"
    start = min(key) if key else picture.shown[0]
    text = json.dumps(data.as_json(set(picture.shown), start)).replace("<", "\\u003c")
    yield f'<script type="application/json" class="cm-data">{text}</script>'
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    yield f"<script>\n{script}</script>"


def _head(lanes: Lanes) -> str:
    names = "".join(
        f'<span style="--lane-colour:{_colour(i)}">{_text(lane.name)}</span>'
        for i, lane in enumerate(lanes)
    )
    return f'<div class="cm-head"><span class="cm-no">step</span>{names}<span class="cm-all">CPUs</span></div>'


class _Picture:
    """The rows of the picture, one after the other."""

    def __init__(
        self, lanes: Lanes, data: PageData, key: Collection[int], has_folded: bool
    ) -> None:
        self._lanes = lanes
        self._data = data
        self._key = key
        self._has_folded = has_folded
        self._nr_folds = 0
        self.shown: list[int] = []
        """The steps that the page has, by their place in the trace."""

    def row(self, row: Row) -> Iterator[str]:
        """One row; of a fold, those behind it, too."""
        if row.kind == STEP and row.step is not None:
            yield self._step(row.step)
        elif row.kind == ASIDE:
            cell = f'<span class="cm-cell">{self._cpu(row.lane)}{_text(row.text)}</span>'
            yield self._item("cm-aside", row.lane, cell)
        elif row.kind == FOLD and self._has_folded:
            self._nr_folds += 1
            fold = self._nr_folds
            button = f'<button type="button">… {_text(row.text)}</button>'
            yield self._item("cm-fold", max(0, row.lane), button, f' data-fold="{fold}"')
            for step in row.folded:
                yield self._step(step, f' data-in="{fold}" hidden')
        else:
            dots = "… " if row.kind == FOLD else ""
            yield f'<li class="cm-row cm-rule">{dots}{_text(row.text)}</li>'

    def _step(self, step: Step, more: str = "") -> str:
        self.shown.append(step.at)
        lane = self._lanes.of(step.cpu)
        parts = zip(("verb", "object", "value"), words.parts(step, "→"), strict=True)
        cell = " ".join(
            f'<span class="cm-{name}">{_text(part)}</span>' for name, part in parts if part
        )
        irq = '<span class="cm-irq">irq</span>' if step.is_irq else ""
        is_key = " cm-key" if step.at in self._key else ""
        return self._item(
            f"cm-step{is_key}",
            lane,
            f'<span class="cm-no">{step.number}{"+" if step.is_note else ""}</span>'
            f'<span class="cm-cell">{self._cpu(lane)}{irq}{cell}</span>',
            f' data-i="{step.at}"{more}',
        )

    def _item(self, kind: str, lane: int, content: str, more: str = "") -> str:
        """A row in a lane, with the locks that each CPU holds after the step before it, or after it."""
        held = [
            self._data.locks_at(self.shown[-1], i) if self.shown else []
            for i in range(len(self._lanes))
        ]
        gutters = "".join(
            f'<i class="cm-lane" style="grid-column:{i + 2}">{_bars(locks)}</i>'
            for i, locks in enumerate(held)
        )
        return (
            f'<li class="cm-row {kind}"{more} style="--lane:{lane};--bars:{len(held[lane])};'
            f'--lane-colour:{_colour(lane)}">{gutters}{content}</li>'
        )

    def _cpu(self, lane: int) -> str:
        return f'<span class="cm-cpu">{_text(self._lanes[lane].name)}</span>'


def _bars(locks: list[int]) -> str:
    return "".join(f'<b style="--lock:{COLOURS[lock % len(COLOURS)]}"></b>' for lock in locks)


def _colour(lane: int) -> str:
    return f"hsl({(210 + 137 * lane) % 360} 65% 50%)"


def _side(data: PageData) -> Iterator[str]:
    """Panels that the script fills."""
    yield '<div class="cm-side">'
    yield (
        '<div class="cm-panel"><h3>Source <span class="cm-where"></span></h3>'
        '<pre class="cm-source"></pre><p class="cm-calls"></p></div>'
    )
    yield (
        '<div class="cm-panel cm-cpus"><h3>CPUs after this step</h3><table><thead><tr><th>CPU</th><th>is</th>'
        "<th>holds</th></tr></thead><tbody></tbody></table></div>"
    )
    if data.objects:
        more = (
            '<label><input type="checkbox" class="cm-everything"> all objects</label>'
            if data.has_private_objects
            else ""
        )
        yield (
            f'<div class="cm-panel cm-values"><h3>Values after this step {more}</h3>'
            '<div class="cm-scroll"><table><thead><tr><th>object</th><th>value</th><th>written by</th></tr>'
            "</thead><tbody></tbody></table></div></div>"
        )
    yield "</div>"


def _controls() -> Iterator[str]:
    yield '<div class="cm-controls">'
    yield '<button type="button" class="cm-prev" aria-label="step back">◀</button>'
    yield '<input type="range" class="cm-slider" min="0" value="0" step="1" aria-label="step">'
    yield '<button type="button" class="cm-next" aria-label="step on">▶</button>'
    yield '<output class="cm-step-text"></output>'
    yield "</div>"


def _text(text: str) -> str:
    """*text* as HTML; line breaks are kept."""
    return escape("\n".join(map(words.clean, text.split("\n"))))
