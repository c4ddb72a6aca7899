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
    names = (
        "mm_page_alloc",
        "mm_page_free",
        "kmalloc",
        "kfree",
        "kmem_cache_alloc",
        "kmem_cache_free",
    )
    requests = sum(any(f": {name}: " in line for name in names) for line in events)
    not_replayed = [
        data["skipped"][reason]
        for reason in (
            "freed, allocated before the trace",
            "freed again, its allocation is not in the trace",
            "free of NULL",
        )
    ]
    assert data["replayed"] == requests - sum(not_replayed)
    assert data["kmalloc_agreement"] == [2246, 2246]
    assert data["cache_agreement"] == [35, 35]
    assert sum(each["times"] for each in data["kmalloc_sizes"]) == 2246
    assert sum(each["allocs"] for each in data["caches"]) == data["object_allocs"] - 2246
    assert data["events_per_second"] > 0
    assert "skipped: free of NULL" in text
    assert "names_cache" in text
    assert "that differ" not in text
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


KMALLOC = (
    " task-1 [000] ..... 1.000003: kmalloc: call_site=f ptr=00000000a0 bytes_req=100 "
    "bytes_alloc=112 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
)
CACHE = (
    " task-1 [000] ..... 1.000004: kmem_cache_alloc: call_site=f ptr=00000000b0 name=x-1 "
    "bytes_req=40 bytes_alloc=64 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
)
KFREE = " task-1 [001] ..... 1.000005: kfree: call_site=f ptr=00000000a0\n"


@pytest.mark.parametrize(
    "content", [KMALLOC + CACHE + KFREE, ALLOC + KMALLOC + CACHE + FREE + KFREE]
)
def test_sizes_that_differ_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """Both numbers stand in the table and in the JSON; a trace without page events is one too."""
    trace = tmp_path / "t.trace"
    trace.write_text(content)
    out = tmp_path / "out.json"
    assert main(["replay-trace", str(trace), "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert (data["kmalloc_agreement"], data["cache_agreement"]) == ([0, 1], [0, 1])
    assert data["caches"] == [
        {"name": "x-1", "object_size": 40, "traced": [64], "model": 40, "allocs": 1, "frees": 0}
    ]
    assert data["kmalloc_sizes"] == [{"size": 100, "traced": 112, "model": 128, "times": 1}]
    assert data["cross_cpu_frees"] == len(content.splitlines()) // 2
    assert data["verified"] is True
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["kmalloc", "of", "100", "112", "128", "1"] in lines
    assert ["x-1", "64", "40", "1"] in lines


def test_a_broken_rule_names_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1, and the line of the trace at which it happened."""
    import concmem.mm.kmalloc as kmalloc

    monkeypatch.setattr(kmalloc.Kmalloc, "ksize", lambda self, address: 1 // 0)
    trace = tmp_path / "t.trace"
    trace.write_text(ALLOC + KMALLOC + FREE + KFREE)
    assert main(["replay-trace", str(trace)]) == 1
    assert "(line 2 of the trace)" in capsys.readouterr().err


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
