"""``concmem replay-trace`` and ``concmem bench``, as a user calls them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from concmem.cli.main import main

TRACE = Path(__file__).parent.parent / "data" / "kmem-linux-6.18-git-2cpus.trace.gz"
ALLOC = (
    " task-1 [000] ..... 1.000001: mm_page_alloc: page=0x1 pfn=0x1000 order=0 migratetype=0 "
    "gfp_flags=GFP_KERNEL\n"
)
FREE = " task-1 [001] ..... 1.000002: mm_page_free: page=0x1 pfn=0x1000 order=0\n"


def test_the_real_trace_ends_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0, the tables, and JSON that agrees with a plain count of lines."""
    out = tmp_path / "out.json"
    assert main(["replay-trace", str(TRACE), "--json", str(out), "--no-progress"]) == 0
    text = capsys.readouterr().out
    assert "buddyinfo at the end of the trace" in text
    assert text.rstrip().splitlines()[-1].startswith("clean: ")
    data = json.loads(out.read_text())
    lines = gzip.decompress(TRACE.read_bytes()).decode().splitlines()
    events = [line for line in lines if not line.startswith("#")]
    assert data["events"] == len(events)
    assert data["replayed"] + sum(data["skipped"].values()) == data["events"]
    page_events = sum(": mm_page_alloc: " in line or ": mm_page_free: " in line for line in events)
    not_replayed = [
        data["skipped"][reason]
        for reason in (
            "freed, allocated before the trace",
            "freed again, its allocation is not in the trace",
        )
    ]
    assert data["replayed"] == page_events - sum(not_replayed)
    assert data["verified"] is True
    assert data["failed_allocations"] == 0
    assert data["malformed"] == 0


def test_json_to_stdout_is_nothing_but_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--json -`` the tables go to standard error."""
    trace = tmp_path / "t.trace"
    trace.write_text(ALLOC + FREE)
    assert main(["replay-trace", str(trace), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["cross_cpu_frees"] == 1


def test_malformed_lines_are_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line cut in the middle is skipped and shown with its number; the rest is replayed."""
    trace = tmp_path / "t.trace"
    trace.write_text(ALLOC + ALLOC[:70] + "\n" + FREE)
    assert main(["replay-trace", str(trace)]) == 0
    captured = capsys.readouterr()
    assert "malformed line 2" in captured.err
    assert "Traceback" not in captured.err
    assert "clean: 2 steps" in captured.out


def test_strict_makes_a_malformed_line_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--strict`` ends with status 2 before anything runs."""
    trace = tmp_path / "t.trace"
    trace.write_text(ALLOC + ALLOC[:70] + "\n" + FREE)
    assert main(["replay-trace", str(trace), "--strict"]) == 2
    assert "1 malformed line(s)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (bytes(range(256)) * 8, "binary"),
        (b"# tracer: nop\n", "no kmem event"),
        (b"hello world\n", "no kmem event"),
    ],
    ids=["empty", "binary", "header only", "prose"],
)
def test_what_is_no_trace_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    """Status 2 and one line that says what is wrong with the file."""
    trace = tmp_path / "t.trace"
    trace.write_bytes(content)
    assert main(["replay-trace", str(trace)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_gzip_cut_short_is_replayed_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end of compressed data in the middle is one malformed entry."""
    trace = tmp_path / "t.trace.gz"
    trace.write_bytes(TRACE.read_bytes()[:20_000])
    assert main(["replay-trace", str(trace), "--no-progress"]) == 0
    assert "malformed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--cpus", "1"], ["--memory", "1M"], ["--memory", "12Q"], ["--json", "/no/such/x"]]
)
def test_bad_options_are_named(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, one line, the option's name in it."""
    trace = tmp_path / "t.trace"
    trace.write_text(ALLOC + FREE)
    assert main(["replay-trace", str(trace), *options]) == 2
    error = capsys.readouterr().err
    assert options[0].lstrip("-") in error
    assert len(error.splitlines()) == 1


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and the path."""
    assert main(["replay-trace", "no-such-file.trace"]) == 2
    assert "no-such-file.trace" in capsys.readouterr().err


def test_bench_prints_every_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table and the JSON have each measure; no value is judged here."""
    import concmem.workloads.bench as bench

    for name in ("ROUNDS", "BOOTS"):
        monkeypatch.setattr(bench, name, 1)
    for name in ("PAIRS", "CHURN_PAIRS"):
        monkeypatch.setattr(bench, name, 80)
    out = tmp_path / "out.json"
    assert main(["bench", "--json", str(out)]) == 0
    measures = json.loads(out.read_text())["measures"]
    assert len(measures) == len(bench.BENCHMARKS)
    assert all(measure["name"] in capsys.readouterr().out for measure in measures[:1])
