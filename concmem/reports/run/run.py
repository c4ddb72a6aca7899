"""
A run, as its result file tells it, and what the file does not tell.

The file is what ``concmem stress --json`` writes. It says what it is (``kind``) and in which version of
that (``schema``); files from before that had neither, and are read as far as they go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from concmem.errors import BadArgument
from concmem.reports.run.decode import decode
from concmem.reports.run.rows import (
    BadAccess,
    CachePeak,
    CpuRow,
    ErrorRow,
    Leak,
    LockRow,
    MemoryRow,
    MixedBlocks,
    Moment,
    PhaseRow,
    ProcessPeak,
    SlabRow,
    Timeline,
)

KIND: Final = "concmem stress result"

SCHEMA: Final = 1
"""Goes up when something in the file changes its meaning or goes away; not when something is added."""

OTHER_KINDS: Final = {
    "flows": "`concmem flows --json`",
    "measures": "`concmem bench --json`",
    "plan": "`concmem replay-trace --json`",
    "advice": "`concmem report --json`",
}
"""A key that only another command's file has, and that command."""


@dataclass(frozen=True)
class Run:
    """All that is known of a run. Fields with a default may be missing in its file."""

    verdict: str
    """``clean`` or ``broken``."""
    interrupted: bool
    seconds: float
    operations: int
    rate: float
    scenario: dict[str, Any]
    """Name and parameters, as used."""
    runtime: str
    gil: bool
    cpus: tuple[CpuRow, ...]
    phases: tuple[PhaseRow, ...]
    events: dict[str, int]
    locks: tuple[LockRow, ...]
    errors: tuple[ErrorRow, ...] = ()
    verifications: int = 0
    event_totals: dict[str, int] = field(default_factory=dict)
    memory: MemoryRow = field(default_factory=MemoryRow)
    slabs: tuple[SlabRow, ...] = ()
    schema: int = 0
    kind: str = KIND
    command: str = ""
    """The line that runs the same again."""
    concmem: str = ""
    """The version that ran it."""
    python: str = ""
    hung: bool = False
    """Whether the CPUs came to a stop, so that nobody could look at the machine afterwards."""
    timeline: Timeline = field(default_factory=Timeline)
    caches: tuple[CachePeak, ...] = ()
    busiest: Moment | None = None
    processes: ProcessPeak | None = None
    """``None``: no process had any memory when somebody looked."""
    mixed: tuple[MixedBlocks, ...] = ()
    leaks: tuple[Leak, ...] | None = None
    """What kmemleak found; ``None``: it was not on."""
    bad_accesses: tuple[BadAccess, ...] | None = None
    """What slab debugging and page poisoning found; ``None``: they were not on."""

    @property
    def name(self) -> str:
        """Of the scenario."""
        return str(self.scenario.get("name", "run"))


def parse_run(data: object) -> Run:
    """
    The run that *data*, a result file as `json.loads` makes it, is about.

    Raises:
        BadArgument: it is a file of another kind, or of a newer version, or something in it is wrong.
    """
    if not isinstance(data, dict):
        raise BadArgument("this is JSON, but no result of `concmem stress --json`")
    if data.get("kind", KIND) != KIND or "verdict" not in data or "cpus" not in data:
        for key, command in OTHER_KINDS.items():
            if key in data:
                raise BadArgument(
                    f"this is a file of {command}, and no result of `concmem stress --json`"
                )
        raise BadArgument("this is JSON, but no result of `concmem stress --json`")
    schema = data.get("schema", 0)
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadArgument(
            f"schema: this file is of version {schema}, which a newer concmem has written; "
            f"this one reads up to version {SCHEMA}"
        )
    return decode(Run, data, "")


def read_run(text: str) -> Run:
    """
    The run in the text of a result file.

    Raises:
        BadArgument: as `parse_run`; or the text is no JSON, or ends too early.
    """
    if not text.strip():
        raise BadArgument("the file is empty")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise BadArgument(
                f"the file was cut off: it is JSON up to {where}, where it ends in the middle"
            ) from None
        raise BadArgument(f"the file is no JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise BadArgument(
            "the file is no result of `concmem stress`: it nests too deeply"
        ) from None
    return parse_run(data)


def missing(run: Run) -> list[str]:
    """What a report of *run* cannot tell, and why; a sentence each."""
    found = [*_cut_off(run)]
    if run.schema < SCHEMA:
        found.append("the file was written by an older concmem: what it does not have is left out")
    if run.hung:
        found.append("the machine hung: nobody could look at its memory at the end")
    if not run.verifications:
        found.append("the machine was never verified")
    if not run.timeline.samples:
        found.append("there are no samples: no time lines, no fragmentation over time")
    if run.timeline.error:
        found.append(f"sampling ended early: {run.timeline.error}")
    if run.busiest is None:
        found.append("nobody looked while the run was on: no memory map, no state of the caches")
    if not run.locks:
        found.append("no lock statistics were kept (--no-lockstat): no contention")
    if not run.mixed:
        found.append(
            "mixed page blocks were not counted: that is done when the machine is verified"
        )
    if run.leaks is None:
        found.append("kmemleak was not on: no leak report")
    if run.bad_accesses is None:
        found.append("slab debugging was not on: no access error report")
    return found


def _cut_off(run: Run) -> list[str]:
    """Where a run ended early."""
    planned = [str(phase.get("name")) for phase in run.scenario.get("phases", [])]
    begun = len(run.phases)
    never = planned[begun:]
    broken_off = [phase.name for phase in run.phases if not phase.complete]
    if not (run.interrupted or never or broken_off):
        return []
    why = "interrupted" if run.interrupted else "ended early"
    text = f"the run was {why} after {run.seconds:.1f} s"
    if broken_off:
        text += f", in {', '.join(broken_off)}"
    if never:
        text += f"; never begun: {', '.join(never)}"
    return [text]
