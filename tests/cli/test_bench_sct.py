"""``concmem bench sct``: tables, JSON, and what is refused."""

from __future__ import annotations

import json

import pytest

from concmem import sct
from concmem.cli import bench_sct
from concmem.cli.main import main

Capture = pytest.CaptureFixture[str]

FAST = ["bench", "sct", "--executions", "40"]


def test_names_are_those_of_the_suite() -> None:
    """They are written down so that --help need not import it."""
    assert tuple(sct.BENCHMARKS) == bench_sct.PROGRAMS
    assert (*sct.RANDOM, *sct.SYSTEMATIC) == bench_sct.SCHEDULERS


def test_table(capsys: Capture) -> None:
    """A row for each program, measured and expected; a table for each kind of scheduler."""
    options = ["--program", "deadlock01", "--program", "account"]
    assert main([*FAST, *options]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines() if line.startswith(("account", "deadlock01"))]
    assert [row[0] for row in rows] == ["account", "deadlock01"] * 2
    assert rows[0][1:3] == ["4", "9"]
    assert [cell.rstrip("!").split("/")[1] for cell in rows[1][3:8]] == [
        "2.7", "10.4", "6.3", "4.0", "2.0",
    ]  # fmt: skip
    assert rows[2][3] == "0/0"
    assert rows[2][5] == "0/1" or rows[2][5] == "1/1"
    assert " as expected." in out
    assert not err


def test_json(capsys: Capture) -> None:
    """To standard output, then the table goes to standard error; the same seed, the same numbers."""
    options = ["--program", "lazy01", "--scheduler", "pos", "--scheduler", "db", "--seed", "3"]
    results = []
    for _ in range(2):
        assert main([*FAST, *options, "--json", "-"]) == 0
        out, err = capsys.readouterr()
        results.append(json.loads(out))
        assert "lazy01" in err
    for cell in (*results[0]["cells"], *results[1]["cells"]):
        del cell["seconds"]
    assert results[0] == results[1]
    pos, db = results[0]["cells"]
    assert (pos["scheduler"], pos["executions"], pos["expected"]) == ("pos", 40, 1.8)
    assert pos["mean"] == 40 / pos["failures"]
    assert (db["scheduler"], db["bound"], db["expected"], db["agrees"]) == ("db", 0, 0, True)


def test_a_bug_that_is_never_found(capsys: Capture) -> None:
    """Said so, and expected."""
    assert main([*FAST, "--program", "stringbuffer", "--scheduler", "pct-2"]) == 0
    out = capsys.readouterr().out
    assert "never/never" in out
    assert "1 of 1 as expected." in out


@pytest.mark.parametrize(
    "options", [["--program", "none"], ["--scheduler", "pct"], ["--executions", "0"]]
)
def test_refused(options: list[str], capsys: Capture) -> None:
    """With the option in the message."""
    assert main(["bench", "sct", *options]) == 2
    assert options[0] in capsys.readouterr().err
