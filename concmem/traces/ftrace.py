"""
Reader for recorded kernel events, in the three spellings that tools print.

* ftrace, the file ``trace``:     ``git-27865   [001] d..1.  1068.09: kfree: call_site=... ptr=...``
* ``trace-cmd report``:           ``git-27865 [001]  1068.09: kfree:    call_site=... ptr=...``
* ``perf script``:                ``git 27865 [001]  1068.09: kmem:kfree: call_site=... ptr=...``

Every line is matched alone, so spellings may even be mixed. The flags column, ftrace's column of
thread groups and perf's ``pid/tid`` and period are optional. A task may have any name: blanks,
dashes and brackets in it do not confuse the reader.

Not read: ftrace's latency format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from concmem.errors import TraceError
from concmem.traces.source import MAX_LINE, Damage, TraceSource, printable, read_lines, source_name

OnMalformed: TypeAlias = Callable[[int, str, str], object]
"""Called with line number, line and reason for every line that is skipped as unreadable."""

KMEM_EVENTS: Final = frozenset(
    {
        "kfree",
        "kmalloc",
        "kmalloc_node",
        "kmem_cache_alloc",
        "kmem_cache_alloc_node",
        "kmem_cache_free",
        "mm_alloc_contig_migrate_range_info",
        "mm_calculate_totalreserve_pages",
        "mm_page_alloc",
        "mm_page_alloc_extfrag",
        "mm_page_alloc_zone_locked",
        "mm_page_free",
        "mm_page_free_batched",
        "mm_page_free_direct",
        "mm_page_pcpu_drain",
        "mm_pagevec_free",
        "mm_setup_per_zone_lowmem_reserve",
        "mm_setup_per_zone_wmarks",
        "rss_stat",
    }
)
"""The events of ``include/trace/events/kmem.h``, with the names they had before Linux 3.3."""


class RawEvent(NamedTuple):
    """One line of a trace, its values still text."""

    line: int
    """Line number in the file, from 1."""
    comm: str
    pid: int
    """The thread that did it (``task->pid``)."""
    cpu: int
    timestamp: int
    """Nanoseconds, or ticks if the recording's clock counts those."""
    name: str
    """Event name without its system: ``kfree``, not ``kmem:kfree``."""
    args: str
    """What the event says, usually ``key=value`` words."""
    text: str
    """The line itself."""

    @property
    def fields(self) -> dict[str, str]:
        """The ``key=value`` words of `args`; other words are left out. Parsed at every call."""
        return parse_fields(self.args)[0]


@dataclass(slots=True)
class ReadCounts:
    """What `read_trace` saw so far. Every line is one of these or carries no event."""

    lines: int = 0
    events: int = 0
    """Lines that became a `RawEvent`."""
    kmem_events: int = 0
    malformed: int = 0
    lost_events: int = 0
    """Events the recorder says it dropped; a report without a number counts as one."""
    backwards: int = 0
    """Events older than the one before: many of them mean that the file is not in time order."""


# Lengths are bounded and blanks possessive, so that no text makes a match or int() crawl.
_TIME: Final = r"([0-9]{1,20})(?:\.([0-9]{1,9}))?:[ ]++"
_EVENT: Final = r"(?:[\w-]+:)?(\w+):(?=[ \t\r]|$)(.*)"
_FTRACE: Final = re.compile(
    r"[ ]*+(.{0,100}?)-([0-9]{1,10})[ ]++(?:\([ ]*(?:[0-9]{1,10}|-+)\)[ ]++)?\[([0-9]{1,6})\]"
    r"(?:[ ]++[^\s\[\]]{1,12})??[ ]++" + _TIME + _EVENT,
    re.ASCII,
)
_PERF: Final = re.compile(
    r"[ ]*+(.{0,100}?)[ ]++(?:-?[0-9]{1,10}/[ ]*)?(-?[0-9]{1,10})[ ]++\[([0-9]{1,6})\]"
    r"(?:[ ]++[^\s\[\]]{1,12})??[ ]++" + _TIME + r"(?:[0-9]{1,20}[ ]++)?" + _EVENT,
    re.ASCII,
)
_SCALE: Final = (1, *(10 ** (9 - digits) for digits in range(1, 10)))

_LOST: Final = re.compile(
    r"\s*CPU:?\s*[0-9]+\s+\[(?:LOST(?: ([0-9]{1,18}))? EVENTS|EVENTS DROPPED)"
)
_PERF_LOST: Final = re.compile(r".*\[[0-9]+\].*: PERF_RECORD_LOST(?:_SAMPLES)? lost ([0-9]{1,18})")
# Headings, call chains of ftrace ("=> f") and of perf ("ffffffff81 f+0x1 (...)"), and the lines
# of the function tracer carry no event.
_NO_EVENT: Final = re.compile(
    r"cpus=[0-9]+\s*$|version = |CPU [0-9]+ is empty|\s*=> |\s+[0-9a-f]{1,16} \S.*\)\s*$"
    r"|.*\[[0-9]+\].*: (?:<stack trace>|<user stack trace>|\S+ <-\S+)\s*$"
)


def read_trace(
    source: TraceSource,
    *,
    on_malformed: OnMalformed | None = None,
    counts: ReadCounts | None = None,
) -> Iterator[RawEvent]:
    """
    Yield the events of a trace in file order; nothing is opened before the first one is asked for.

    Lines that cannot be read are given to *on_malformed* and skipped. A gzip file that is cut or
    damaged gives what can be read, then one malformed line.

    Args:
        source: a path, or an open file of bytes or text; gzip is told by its first bytes.
        counts: filled in while reading; complete once the iterator is exhausted.

    Raises:
        TraceError: the file cannot be read, is empty or no text, or has no ``kmem`` event at all.
    """
    counts = ReadCounts() if counts is None else counts
    first_reason = ""
    other_event = ""
    latest = 0
    first, second = _FTRACE, _PERF  # the one that matched last is tried first
    new = tuple.__new__

    def malformed(line: int, text: str, reason: str) -> None:
        nonlocal first_reason
        counts.malformed += 1
        first_reason = first_reason or f"line {line}: {reason}"
        if on_malformed is not None:
            on_malformed(line, printable(text), reason)

    for batch in read_lines(source):
        if isinstance(batch, Damage):
            malformed(*batch)
            continue
        counts.lines += len(batch.lines)
        for number, text in enumerate(batch.lines, batch.first):
            if text[:1] == "#":
                continue
            if len(text) > MAX_LINE:
                malformed(number, text, f"longer than {MAX_LINE} bytes")
                continue
            match = first.match(text)
            if match is None:
                match = second.match(text)
                if match is None:
                    if lost := _lost_events(text):
                        counts.lost_events += lost
                    elif (reason := _why_not(text)) is not None:
                        malformed(number, text, reason)
                    continue
                first, second = second, first
            comm, pid, cpu, seconds, fraction, name, args = match.groups()
            if fraction is None:
                timestamp = int(seconds)
            else:
                timestamp = int(seconds + fraction) * _SCALE[len(fraction)]
            if timestamp < latest:
                counts.backwards += 1
            latest = timestamp
            counts.events += 1
            if name in KMEM_EVENTS:
                counts.kmem_events += 1
            elif not other_event:
                other_event = name
            # Spelled so, a named tuple takes half the time.
            yield new(RawEvent, (number, comm, int(pid), int(cpu), timestamp, name, args, text))

    if not counts.kmem_events:
        raise TraceError(f"{source_name(source)}: {_nothing(counts, other_event, first_reason)}")


def parse_fields(args: str) -> tuple[dict[str, str], str]:
    """
    The ``key=value`` words of *args*, and the first word that is none ("" if all are).

    A cache name may contain blanks, so words after ``name=`` belong to it.
    """
    words = args.split()
    try:
        return dict([word.split("=", 1) for word in words]), ""
    except ValueError:  # a word without "="
        pass
    fields: dict[str, str] = {}
    loose = key = ""
    for word in words:
        before, equals, value = word.partition("=")
        if equals:
            key = before
            fields[key] = value
        elif key == "name":
            fields[key] += f" {word}"
        else:
            loose = loose or word
    return fields, loose


def _lost_events(text: str) -> int:
    """How many events *text* says were lost, 0 if it says nothing of the kind."""
    match = _LOST.match(text) or _PERF_LOST.match(text)
    if match is None:
        return 0
    return int(match[1] or 1)


def _why_not(text: str) -> str | None:
    """Why *text* is no event line, or ``None`` if it need not be one."""
    if not text.strip() or _NO_EVENT.match(text):
        return None
    if "\0" in text:
        return "binary data"
    column = re.search(r"\[([^\[\]]*)\](?!.*\[[0-9]+\])", text)
    if column is None:
        return "no [cpu] column: the line is cut or no event"
    if not re.fullmatch(r"[0-9]{1,6}", column[1], re.ASCII):
        return f"cpu is not a number: [{column[1]}]"
    before, after = text[: column.start()], text[column.end() :]
    if not re.search(r"[- ][0-9]{1,10}[ ]+(?:\(.*\)[ ]+)?$", before, re.ASCII):
        return "no task and pid before the [cpu] column"
    if not re.match(r"(?:[ ]+\S+)??[ ]+[0-9]{1,20}(?:\.[0-9]{1,9})?:(?:[ ]|$)", after, re.ASCII):
        return "no timestamp after the [cpu] column"
    return "no event name after the timestamp"


def _nothing(counts: ReadCounts, other_event: str, first_reason: str) -> str:
    """The message for a file without any kmem event."""
    if other_event:
        return (
            f"has no kmem event (but {counts.events} others, such as {other_event}): "
            "record with `-e kmem`, or write 1 to events/kmem/enable"
        )
    if first_reason:
        return (
            f"has no kmem event; {counts.malformed} of {counts.lines} lines cannot be read, "
            f"the first is {first_reason}"
        )
    return "has no kmem event, only headings"
