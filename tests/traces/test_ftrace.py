"""One line at a time: the three spellings, odd task names, and everything malformed."""

from __future__ import annotations

import io
import re

import pytest

from concmem.traces.ftrace import RawEvent, ReadCounts, read_trace

GOOD = "ok-1 [000] ..... 0.000001: kfree: call_site=f+0x1/0x2 ptr=0000000000000000\n"


def read(text: str) -> tuple[list[RawEvent], list[tuple[int, str, str]], ReadCounts]:
    """Events of *text* (after one good line, so that it is a trace), malformed lines, counts."""
    bad: list[tuple[int, str, str]] = []
    counts = ReadCounts()
    source = io.StringIO(GOOD + text)
    events = list(read_trace(source, on_malformed=lambda *e: bad.append(e), counts=counts))
    return events[1:], bad, counts


def one(text: str) -> RawEvent:
    """The only event of *text*, which must have nothing malformed."""
    (event,), bad, _ = read(text + "\n")
    assert bad == []
    return event


@pytest.mark.parametrize(
    ("text", "pid", "cpu", "nanoseconds"),
    [
        ("        git-27865   [001] d..1.  1068.099081: kfree: ptr=0", 27865, 1, 1068099081000),
        ("        git-27865   (  27800) [001] dN.2.  2.000000: kfree: ptr=0", 27865, 1, 2 * 10**9),
        ("        git-27865   (-------) [012] .... 2.000000: kfree: ptr=0", 27865, 12, 2 * 10**9),
        ("        git-27865   [001]     7.5: kfree: ptr=0", 27865, 1, 7500000000),
        ("        git-27865   [001] ..... 123456789: kfree: ptr=0", 27865, 1, 123456789),
        ("  git-27865 [001]  1068.099081: kfree:                ptr=0", 27865, 1, 1068099081000),
        ("  git-27865 [001] ....  8.000000001: kfree:       ptr=0   ", 27865, 1, 8 * 10**9 + 1),
        ("git 27865 [001]  1068.099081: kmem:kfree: ptr=0", 27865, 1, 1068099081000),
        ("git 27800/27865 [001]  1068.099081: kmem:kfree: ptr=0", 27865, 1, 1068099081000),
        ("   git   27800/27865 [001] 9.000000001:     kmem:kfree: ptr=0", 27865, 1, 9 * 10**9 + 1),
        ("git 27865 [001]  10.099081:          1 kmem:kfree: ptr=0", 27865, 1, 10099081000),
    ],
)
def test_spellings(text: str, pid: int, cpu: int, nanoseconds: int) -> None:
    """Every column layout of ftrace, trace-cmd and perf gives the same event."""
    event = one(text)
    assert event.line == 2
    assert (event.comm, event.pid, event.cpu) == ("git", pid, cpu)
    assert event.timestamp == nanoseconds
    assert (event.name, event.fields, event.text) == ("kfree", {"ptr": "0"}, text)


@pytest.mark.parametrize(
    "comm",
    [
        "<idle>",
        "<...>",
        "kworker/0:1-events-12",
        "kworker/u8:2+flush-8:0",
        "Web Content",
        "a-1 [002] b",
        "[kthreadd]",
        "x [000] y",
        "12",
        "a b 12",
        "a: b: c",
        "ptr=0 -",
        "-",
        "mm-1 [000] 1.0 kfree",
        "1.5: kfree: x",
        "\udce9t\udce9",
    ],
)
@pytest.mark.parametrize(
    "line", ["{}-42 [003] d..1. 1.0: kfree: ptr=0", "{}   42 [003] 1.0: kfree: ptr=0"]
)
def test_odd_comms(comm: str, line: str) -> None:
    """A task may call itself anything without confusing its pid, CPU or event."""
    event = one(line.format(comm))
    assert (event.comm, event.pid, event.cpu, event.name) == (comm, 42, 3, "kfree")


def test_values() -> None:
    """Values stay as printed, cache names may have blanks, other events any text."""
    event = one(
        "a-1 [0] . 1.0: kmem_cache_free: call_site=f.part.0+0x24/0x1f0 [xfs] ptr=(____ptrval____)"
    )
    assert event.fields == {"call_site": "f.part.0+0x24/0x1f0", "ptr": "(____ptrval____)"}
    event = one("a-1 [0] . 1.0: kmem_cache_free: call_site=ffff81 ptr=(nil) name=my own cache")
    assert event.fields == {"call_site": "ffff81", "ptr": "(nil)", "name": "my own cache"}
    event = one("a-1 [0] . 1.0: sched_switch: prev_comm=x y prev_state=R+ ==> next_comm=z=1")
    assert event.fields["next_comm"] == "z=1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("        git-27865   [001] d..1.  1068.099", "no timestamp"),
        ("        git-27865   [001] d..1.", "no timestamp"),
        ("        git-27865   [0", r"no \[cpu\] column"),
        ("        git-278", r"no \[cpu\] column"),
        ("        git-27865   [001] d..1.  1068.099081: kfr", "no event name"),
        ("        git-27865   [001] d..1.  1068.099081:", "no event name"),
        ("        git-27865   [0x1] d..1.  1068.099081: kfree: ptr=0", "cpu is not a number"),
        ("        git-27865   [] d..1.  1068.099081: kfree: ptr=0", "cpu is not a number"),
        ("        git-27865   [-1] d..1.  1068.099081: kfree: ptr=0", "cpu is not a number"),
        ("        git-27865   [9999999] d..1.  1.099081: kfree: ptr=0", "cpu is not a number"),
        ("        git-x   [001] d..1.  1068.099081: kfree: ptr=0", "no task and pid"),
        ("        git   [001] d..1.  1068.099081: kfree: ptr=0", "no task and pid"),
        ("        git-27865   [001] d..1.  late: kfree: ptr=0", "no timestamp"),
        ("        git-27865   [001] d..1.  1.1234567890: kfree: ptr=0", "no timestamp"),
        ("\0\0\0\0", "binary data"),
        ("garbage", r"no \[cpu\] column"),
    ],
)
def test_malformed(text: str, reason: str) -> None:
    """A line that cannot be read is reported with number, text and reason, then skipped."""
    events, bad, counts = read(f"{text}\n{GOOD}")
    assert [event.line for event in events] == [3]
    ((line, shown, why),) = bad
    assert (line, shown) == (2, text)
    assert re.match(reason, why)
    assert counts.malformed == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "# comment",
        "##### CPU 1 buffer started ####",
        "cpus=2",
        "version = 7",
        "CPU 3 is empty",
        " => kmem_cache_alloc",
        "git-27865   [001] d..1.  1068.099081: <stack trace>",
        "git-27865   [001] d..1.  1068.099081: __free_pages <-free_pages",
        "\tffffffff813a1b2c kmem_cache_alloc+0x1ac ([kernel.kallsyms])",
    ],
)
def test_lines_without_event(text: str) -> None:
    """Headings, blank lines, call chains and function traces are neither events nor malformed."""
    events, bad, _ = read(f"{text}\n")
    assert events == []
    assert bad == []


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CPU:0 [LOST 123 EVENTS]", 123),
        ("CPU:12 [LOST EVENTS]", 1),
        ("CPU:1 [EVENTS DROPPED]", 1),
        ("git 27865 [001] 1.5: PERF_RECORD_LOST lost 40", 40),
    ],
)
def test_lost_events(text: str, lost: int) -> None:
    """What the recorder dropped is counted, not reported as malformed."""
    events, bad, counts = read(f"{text}\n")
    assert (events, bad, counts.lost_events) == ([], [], lost)


def test_counts() -> None:
    """Lines, events and steps back in time are counted while reading."""
    _, _, counts = read("bad\n" + GOOD + "a-1 [0] . 0.0: sched_wakeup: x=1\n")
    assert counts == ReadCounts(
        lines=4, events=3, kmem_events=2, malformed=1, lost_events=0, backwards=1
    )


def test_no_line_takes_long() -> None:
    """Lines made to defeat a backtracking matcher are refused, not pondered."""
    for text in (" " * 8000, "-1 " * 2600, "x" + " " * 8000, "[0]" * 2600, "1 [0] " * 1300):
        events, _, _ = read(f"{text}\n" * 5)
        assert events == []
