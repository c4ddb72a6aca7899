"""``concmem replay-trace``: do again what a real kernel did."""

from __future__ import annotations

import argparse
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from concmem.cli.output import BROKEN, CLEAN, INTERRUPTED, JsonTarget, complain
from concmem.errors import BadArgument, ConcmemError, TraceError

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.traces.plan import PagePlan, Plan, SlabPlan
    from concmem.traces.player import Player, ReplayResult

MALFORMED_SHOWN: Final = 5
"""Malformed lines that are shown; the others are only counted."""

DESCRIPTION: Final = """\
Replay the kmem: events of a recorded kernel trace. Every allocation and free, of pages and of slab
objects, is done again on the CPU that did it, in that CPU's order; a free waits for its allocation
on the other CPU. The bytes set aside for each object are compared with the traced kernel's.

FILE is the text of ftrace's `trace` file, of `trace-cmd report` or of `perf script`, gzipped or not.
"""

EPILOG: Final = """\
recording a trace, as root:
  cd /sys/kernel/tracing
  echo 1 > events/kmem/enable; sleep 1; cat trace | gzip > /tmp/kmem.trace.gz; echo 0 > events/kmem/enable
  trace-cmd record -e kmem sleep 1 && trace-cmd report > kmem.trace
  perf record -a -e 'kmem:*' sleep 1 && perf script > kmem.trace

examples:
  concmem replay-trace kmem.trace.gz
  concmem replay-trace kmem.trace --runtime jitter --memory 2G --json result.json

What cannot be replayed is counted with its reason: frees of what was allocated before the recording,
frees of NULL, second reports of a free (mm_page_free_batched). A line that cannot be read is
skipped, counted and shown with its number; with --strict it is an error.

exit status: 0 clean, 1 a rule was broken, 2 the file or an argument cannot be used (with --strict
also: a malformed line), 130 interrupted.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "replay-trace",
        help="replay a recorded kmem trace of a real kernel",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="the trace, as text; gzipped or not")
    add = parser.add_argument
    add("--memory", metavar="SIZE", default="8G", help="of the machine (default: 8G)")
    add("--cpus", type=int, metavar="N", help="CPUs (default: as many as the trace has)")
    add("--nodes", type=int, metavar="N", default=1, help="NUMA nodes (default: 1)")
    add("--seed", type=int, metavar="N", default=0, help="of the hesitations of --runtime jitter")
    add("--runtime", choices=("auto", "free", "jitter"), default="free",
        help="how the CPUs run (default: free)")  # fmt: skip
    add("--strict", action="store_true", help="a malformed line is an error")
    add("--json", metavar="FILE", help="write the result as JSON; - for standard output")
    add("--no-lockstat", action="store_true", help="keep no lock statistics: runs faster")
    add("--no-progress", action="store_true", help="show no progress during the replay")


@dataclass
class Reading:
    """What reading the file gave, besides events."""

    malformed: int = 0
    shown: list[str] = field(default_factory=list)
    """The first malformed lines, with number and reason."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Events that are no kmem events, by name."""
    lost: int = 0
    """Events that the tracer says it lost."""
    seconds: float = 0.0
    """Of reading and planning."""

    def on_malformed(self, line: int, text: str, reason: str) -> None:
        self.malformed += 1
        if len(self.shown) < MALFORMED_SHOWN:
            self.shown.append(f"line {line}: {reason}: {text[:100]}")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem.cli.display import make_console
    from concmem.cli.replay_display import show_malformed, show_replay
    from concmem.machine import Machine
    from concmem.traces.player import Player

    json = JsonTarget(args.json) if args.json is not None else None
    plan, reading = read_plan(args.file, progress=not args.no_progress)
    show_malformed(reading)
    if args.strict and reading.malformed:
        raise TraceError(f"{args.file}: {reading.malformed} malformed line(s), and --strict given")
    cpus = args.cpus if args.cpus is not None else len(plan.cpus)
    if cpus < len(plan.cpus):
        raise BadArgument(f"--cpus: the trace needs at least {len(plan.cpus)}, got {cpus}")
    error: Exception | None = None
    interrupted = False
    with Machine(
        cpus=cpus,
        memory=args.memory,
        seed=args.seed,
        nodes=args.nodes,
        runtime=args.runtime,
        lockstat=not args.no_lockstat,
    ) as machine:
        player = Player(machine, plan)
        try:
            _play(machine, player, progress=not args.no_progress)
        except KeyboardInterrupt:  # the player has stopped and verified
            interrupted = True
        except (ConcmemError, ExceptionGroup) as failure:
            error = failure
    data = summary(plan, reading, player.result, error, interrupted)
    console = make_console(sys.stderr if json is not None and json.is_stdout else sys.stdout)
    show_replay(console, plan, reading, player.result, data["verdict"])
    if json is not None:
        json.write(data)
    if error is not None:
        complain(_flat(error))
        return BROKEN
    return INTERRUPTED if interrupted else CLEAN


def read_plan(file: str, progress: bool) -> tuple[Plan, Reading]:
    """Read and match the whole file. Raises `TraceError` when it is no trace."""
    from concmem.traces.ftrace import ReadCounts, read_trace
    from concmem.traces.kmem import typed_events
    from concmem.traces.plan import plan_trace

    reading = Reading()
    start = perf_counter()
    counts = ReadCounts()
    if progress and sys.stderr.isatty():
        print(f"reading {file} ...", file=sys.stderr)
    raw = read_trace(file, on_malformed=reading.on_malformed, counts=counts)
    events = typed_events(raw, on_malformed=reading.on_malformed, unknown=reading.unknown)
    with _no_garbage_collection():
        plan = plan_trace(events)
    reading.lost = counts.lost_events
    reading.seconds = perf_counter() - start
    if not plan.cpus:
        raise TraceError(f"{file}: no kmem event could be read from it")
    return plan, reading


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A plan is many small objects without cycles, which the collector would walk again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _play(machine: Machine, player: Player, progress: bool) -> None:
    if not progress:
        player.run()
        return
    from concmem.cli.replay_display import replay_progress

    with replay_progress(player):
        player.run()


def _flat(error: BaseException) -> str:
    """Every exception in *error*, in one line."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_flat(part) for part in error.exceptions)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{notes}"


def summary(
    plan: Plan,
    reading: Reading,
    result: ReplayResult,
    error: Exception | None,
    interrupted: bool,
) -> dict[str, Any]:
    """The result for programs."""
    from concmem.cli.replay_display import events_per_second
    from concmem.reports.buddyinfo import render

    verdict = "broken" if error else "interrupted" if interrupted else "clean"
    return {
        "verdict": verdict,
        "error": _flat(error) if error else None,
        "events": sum(plan.events.values()),
        "events_by_name": dict(plan.events),
        "replayed": plan.planned_events if verdict == "clean" else result.steps,
        "skipped": dict(plan.skipped),
        "malformed": reading.malformed,
        "malformed_lines": reading.shown,
        "other_events": dict(reading.unknown),
        "lost_by_the_tracer": reading.lost,
        "implied_frees": plan.implied_frees,
        "cross_cpu_frees": plan.cross_cpu_frees,
        "waits": result.waits,
        "failed_allocations": result.failed,
        **_pages_summary(plan.pages, result),
        **_slab_summary(plan.slab, result),
        "read_seconds": reading.seconds,
        "seconds": result.seconds,
        "steps_per_second": result.steps_per_second,
        "events_per_second": events_per_second(plan, reading, result),
        "buddyinfo": render(result.at_end) if result.at_end else None,
        "verified": result.verified,
    }


def _pages_summary(plan: PagePlan, result: ReplayResult) -> dict[str, Any]:
    from concmem.mm.migratetype import migratetype_name

    agreement = result.migratetype_agreement
    return {
        "allocs_by_order": {str(k): v for k, v in plan.allocs_by_order.items()},
        "frees_by_order": {str(k): v for k, v in plan.frees_by_order.items()},
        "allocs_by_migratetype": {
            migratetype_name(k): v for k, v in plan.allocs_by_migratetype.items()
        },
        "migratetype_agreement": [
            sum(n for (traced, model), n in agreement.items() if traced == model),
            sum(agreement.values()),
        ],
        "live_pages_at_end": plan.live_pages_at_end,
        "peak_live_pages": plan.peak_live_pages,
    }


def _slab_summary(plan: SlabPlan, result: ReplayResult) -> dict[str, Any]:
    from concmem.traces.agreement import cache_agreement, kmalloc_agreement

    return {
        "object_allocs": plan.allocs,
        "object_frees": plan.frees,
        "live_objects_at_end": len(plan.live_at_end),
        "peak_live_objects": plan.peak_live_objects,
        "kmalloc_agreement": list(kmalloc_agreement(result.kmalloc_sizes)),
        "kmalloc_sizes": [
            {"size": size, "traced": traced, "model": model, "times": times}
            for (size, traced, model), times in sorted(result.kmalloc_sizes.items())
        ],
        "cache_agreement": list(cache_agreement(result.caches)),
        "caches": [
            {
                "name": cache.name,
                "object_size": cache.object_size,
                "traced": list(cache.traced),
                "model": cache.model,
                "allocs": cache.allocs,
                "frees": cache.frees,
            }
            for cache in result.caches
        ],
    }
