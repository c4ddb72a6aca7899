"""The page as text: whole, needing nothing else, and without markup of the program's."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from concmem.errors import BadArgument
from concmem.explore.render.page import MOST_ROWS, render_lanes_fragment, render_page

from .failures import PROGRAMS, failure_of

_VOID = {"meta", "input", "link", "br"}


class Outline(HTMLParser):
    """Tags, attributes and texts; complains about what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.stack, f"not closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> of nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self.stack[-1] if self.stack else ""
        self.texts[where] = self.texts.get(where, "") + data

    def all(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and cls in [*(attrs.get("class") or "").split(), ""]
        ]


def data_of(text: str) -> dict[str, Any]:
    """What the script gets."""
    match = re.search(r'<script type="application/json" class="cm-data">(.*?)</script>', text)
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


@pytest.mark.parametrize("name", PROGRAMS)
def test_well_formed_and_self_contained(name: str) -> None:
    """Every tag is closed; nothing is fetched from anywhere."""
    text = render_page(failure_of(name))
    outline = Outline(text)
    assert {tag for tag, _ in outline.tags}.isdisjoint({"link", "img", "iframe", "object", "base"})
    for _, attrs in outline.tags:
        assert not {"src", "href", "action"} & attrs.keys()
        assert not [key for key in attrs if key.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert len(outline.all("script")) == 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_step_is_there(name: str) -> None:
    """One row each, in order, those that are folded too; each with its data."""
    failure = failure_of(name)
    assert failure.trace is not None
    text = render_page(failure)
    rows = [int(attrs["data-i"] or "") for attrs in Outline(text).all("li", "cm-step")]
    shown = [s.at for s in failure.trace if s.kind not in ("started", "done", "taken")]
    assert rows == shown
    data = data_of(text)
    assert len(data["rows"]) == len(failure.trace)
    assert all("text" in data["rows"][i] for i in rows)
    assert data["start"] in rows
    assert data["steps"] == failure.trace.steps


def test_unusual_names_are_text() -> None:
    """Neither a tag nor the end of the script."""
    text = render_page(failure_of("evil"))
    assert "<script>alert" not in text
    assert text.count("<script") == 2
    outline = Outline(text)
    assert "alert(1)" in outline.texts["span"]
    assert "alert(1)" in outline.texts["h1"]
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_explanation_leads_to_its_steps() -> None:
    """Each number is a button, for the step that has it."""
    text = render_page(failure_of("interrupt"))
    refs = re.findall(r'class="cm-ref" data-i="(\d+)">([^<]*)<', text)
    trace = failure_of("interrupt").trace
    assert trace is not None
    assert [name for _, name in refs] == ["step 1", "after step 2", "step 3"]
    assert [trace[int(at)].is_note for at, _ in refs] == [False, True, False]


def test_values_of_the_script_lead_to_the_real_ones() -> None:
    """Following the changes from the first values gives those of every step of the trace."""
    failure = failure_of("machine")
    assert failure.trace is not None
    data = data_of(render_page(failure))
    names = [each["name"] for each in data["objects"]]
    values = {i: each["first"] for i, each in enumerate(data["objects"])}
    compared = 0
    for step, row in zip(failure.trace, data["rows"], strict=True):
        if row["object"] < 0:
            continue
        assert names[row["object"]] == step.object
        assert values[row["object"]] == step.old
        if row["value"] is not None:
            values[row["object"]] = row["value"]
        assert values[row["object"]] == step.new
        compared += 1
    assert compared > 100


def test_locks_of_the_script_are_those_of_the_trace() -> None:
    """Before each step a CPU holds what the script says that it held after the one before."""
    failure = failure_of("machine")
    assert failure.trace is not None
    data = data_of(render_page(failure))
    held: dict[int, list[str]] = {}
    for step, row in zip(failure.trace, data["rows"], strict=True):
        if not step.is_note:
            assert sorted(held.get(step.cpu, [])) == sorted(step.held)
        for lane, locks in row["held"]:
            held[lane] = [data["locks"][lock] for lock in locks]


def test_source_lines_come_with_their_neighbours() -> None:
    """The line of each step is marked, and is the one that the trace knows."""
    failure = failure_of("counter")
    trace = failure.trace
    assert trace is not None
    data = data_of(render_page(failure))
    for step, row in zip(trace, data["rows"], strict=True):
        if "site" not in row:
            continue
        lines = data["sites"][row["site"]]["lines"]
        (marked,) = [text for _, text, is_here in lines if is_here]
        assert marked.strip() == trace.line_at(step.site) != ""
        assert len(lines) == 7


def test_fragment() -> None:
    """A section with its own style and script, without page, title or identifiers."""
    text = render_lanes_fragment(failure_of("counter"))
    assert text.startswith("<section")
    assert text.endswith("</section>")
    outline = Outline(text)
    assert not {"html", "head", "body", "title", "h1"} & {tag for tag, _ in outline.tags}
    assert not any("id" in attrs for _, attrs in outline.tags)


def test_style_and_script_stay_in_their_section() -> None:
    """Every rule of the style is about classes of its own."""
    text = render_lanes_fragment(failure_of("counter"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    css = re.sub(r"/\*.*?\*/", "", style[1], flags=re.DOTALL)
    selectors = re.findall(r"([^{}]+)\{", css)
    assert len(selectors) > 50
    for selector in selectors:
        assert ".cm" in selector or selector.strip().startswith("@"), selector


def test_very_long_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the steps that matter only: the rest is counted."""
    assert MOST_ROWS > 1000
    monkeypatch.setattr("concmem.explore.render.page.MOST_ROWS", 100)
    failure = failure_of("machine")
    text = render_page(failure)
    outline = Outline(text)
    assert len(outline.all("li", "cm-step")) < 60
    assert not outline.all("li", "cm-fold")
    assert "steps: alloc_pages" in outline.texts["li"]


def test_save(tmp_path: Path) -> None:
    """The suffix says what is written."""
    failure = failure_of("evil")
    for name in ("a.txt", "a.html", "a.json", "b.HTML"):
        failure.save(tmp_path / name)
    failure.save(str(tmp_path / "c.txt"))
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == failure.to_text(100) + "\n"
    assert (tmp_path / "c.txt").read_text(encoding="utf-8") == failure.to_text(100) + "\n"
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == failure.to_html()
    assert (tmp_path / "b.HTML").read_text(encoding="utf-8") == failure.to_html()
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(
        json.dumps(failure.to_trace_events())
    )
    with pytest.raises(BadArgument, match=r"path: .*\.txt, \.html, \.json"):
        failure.save(tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()
