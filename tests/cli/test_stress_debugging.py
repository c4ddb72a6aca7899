"""The options of ``concmem stress`` for debugging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from concmem.cli.main import main

pytestmark = pytest.mark.timeout(60)

FAST = ["--cpus", "2", "--memory", "32M", "--ops", "200", "--runtime", "free", "--no-progress"]

Capture = pytest.CaptureFixture[str]


def test_all_of_them(tmp_path: Path, capsys: Capture) -> None:
    """They are in the result, and in the line that runs the same again; nothing was found."""
    path = tmp_path / "run.json"
    options = [
        *("--slab-debug", "FZPU,kmalloc-64", "--page-poison", "--page-owner", "--kasan"),
        *("--failslab", "10,100,0,-1", "--fail-page-alloc", "10,100,0,-1"),
    ]
    assert main(["stress", "slab-storm", *FAST, *options, "--json", str(path), "--report"]) == 0
    out = capsys.readouterr().out
    again = out.splitlines()[-1].partition("again with: ")[2].split()
    assert again[again.index("--slab-debug") :] == options
    data = json.loads(path.read_text())
    assert data["scenario"]["slab_debug"] == "FZPU,kmalloc-64"
    assert data["bad_accesses"] == []
    assert data["events"]["failslab_injected"] > 0
    taken = {edge: data["event_totals"][edge] for edge in ("slub_debug_on", "page_poisoned")}
    assert all(taken.values())


def test_without_them_nothing_is_said(tmp_path: Path) -> None:
    """No option, no verdict on accesses."""
    path = tmp_path / "run.json"
    assert main(["stress", "churn", *FAST, "--json", str(path)]) == 0
    data = json.loads(path.read_text())
    assert data["bad_accesses"] is None
    assert "--slab-debug" not in data["command"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--slab-debug", "FXP"], "slab_debug: 'X' in 'FXP' is no letter of it"),
        (["--slab-debug", "F,"], "slab_debug: expected names of caches"),
        (["--failslab", "1,2,3"], "failslab: expected 'interval,probability,space,times', got '1,2,3'"),
        (["--fail-page-alloc", "1,101,0,1"], "fail_page_alloc: probability: must be 0 to 100, got 101"),
    ],
)  # fmt: skip
def test_bad_values_are_one_clear_line(capsys: Capture, arguments: list[str], words: str) -> None:
    """Status 2, and the argument is named."""
    assert main(["stress", "churn", *FAST, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert words in line
