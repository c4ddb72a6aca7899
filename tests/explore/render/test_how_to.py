"""The reports in the how-to are what its code prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "read-a-failure.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMES = re.compile(r"in [\d.]+ s, [\d,]+ a second")


def without_times(text: str) -> str:
    """Reports with what differs from run to run replaced, in one line each."""
    return TIMES.sub("in 0.01 s, 5,000 a second", " ".join(text.split()))


def test_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each text block is what the code before it has printed."""
    monkeypatch.setenv("COLUMNS", "96")
    text = PAGE.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "docs"}
    printed, compared = "", 0
    for match in BLOCK.finditer(text):
        if match[1] == "python":
            line = text[: match.start()].count("\n") + 2
            exec(compile("\n" * (line - 1) + match[2], str(PAGE), "exec"), namespace)
            printed += capsys.readouterr().out
        else:
            if TIMES.search(printed):
                assert without_times(match[2]) == without_times(printed)
            else:
                assert match[2] == printed
            printed = ""
            compared += 1
    assert compared == 3
