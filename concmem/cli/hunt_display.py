"""What ``concmem hunt`` shows while it runs, and what it writes in the end."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import concmem
from concmem.cli.output import JsonTarget, command_line
from concmem.errors import BadArgument

if TYPE_CHECKING:
    from typing import Self

    from concmem.explore import Outcome

FIRST_AFTER: Final = 1.0
"""Seconds before the first line: most hunts are over by then."""

LINE_EVERY: Final = 5.0
"""Seconds between two lines, where no terminal is."""


class HuntProgress:
    """A line on standard error: one that changes on a terminal, else a new one now and then."""

    def __init__(self, executions: int, seconds: float | None, quiet: bool) -> None:
        self._executions = executions
        self._seconds = seconds
        self._quiet = quiet
        self._start = monotonic()
        self._line_at = self._start + FIRST_AFTER - LINE_EVERY
        self._is_terminal = sys.stderr.isatty()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown and self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __call__(self, outcome: Outcome) -> None:
        now = monotonic()
        if self._quiet or now - self._start < FIRST_AFTER:
            return
        if not self._is_terminal and now - self._line_at < LINE_EVERY:
            return
        self._line_at = now
        self._shown = True
        if self._is_terminal:
            print(f"\r{self._line(outcome)}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(self._line(outcome), file=sys.stderr, flush=True)

    def _line(self, outcome: Outcome) -> str:
        rate = outcome.executions / outcome.seconds if outcome.seconds else 0.0
        shares = [outcome.executions / self._executions]
        if self._seconds is not None:
            shares.append(outcome.seconds / self._seconds)
        bound = f", bound {outcome.bound} done" if outcome.bound is not None else ""
        return (
            f"{outcome.seconds:6.1f} s {max(shares):4.0%}  {outcome.executions:,} executions, "
            f"{rate:,.0f}/s, {outcome.coverage.schedules:,} different, up to "
            f"{outcome.coverage.steps_max} steps{bound}, nothing found"
        )


class Outputs:
    """
    The files that an outcome is to be written to.

    Raises:
        BadArgument: one of them cannot be.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.json = JsonTarget(args.json) if args.json is not None else None
        self._files = {
            option: (Path(path), suffix)
            for option, path, suffix in (
                ("html", args.html, ".html"),
                ("trace-events", args.trace_events, ".json"),
            )
            if path is not None
        }
        self._args = args
        for option, (path, _) in self._files.items():
            if not path.parent.is_dir() or path.is_dir():
                raise BadArgument(f"--{option}: {str(path)!r} cannot be written")

    def write(self, outcome: Outcome) -> None:
        """Write them all. Those of a failure are not written when there is none."""
        if self.json is not None:
            self.json.write(outcome_json(outcome, self._args))
        failure = outcome.failure
        if failure is None:
            return
        for path, suffix in self._files.values():
            is_page = suffix == ".html"
            text = failure.to_html() if is_page else json.dumps(failure.to_trace_events())
            path.write_text(text, encoding="utf-8")


def _command(outcome: Outcome, args: argparse.Namespace) -> str:
    if outcome.scheduler == "replay":
        return f"{command_line('replay', args.target, {})} '{args.schedule}'"
    return command_line("hunt", args.target, {"scheduler": outcome.scheduler, "seed": outcome.seed})


def outcome_json(outcome: Outcome, args: argparse.Namespace) -> dict[str, Any]:
    """*outcome* as plain data."""
    failure = outcome.failure
    return {
        "concmem": concmem.__version__,
        "command": _command(outcome, args),
        "target": args.target,
        "scheduler": outcome.scheduler,
        "seed": outcome.seed,
        "found": failure is not None,
        "executions": outcome.executions,
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "exhausted": outcome.exhausted,
        "bound": outcome.bound,
        "probability": outcome.probability,
        "ended_by": outcome.ended_by,
        "interrupted": outcome.interrupted,
        "coverage": vars(outcome.coverage),
        "failure": None
        if failure is None
        else {
            "kind": failure.kind,
            "error": type(failure.error).__name__,
            "message": str(failure.error),
            "place": failure.place,
            "cpu": failure.cpu,
            "step": failure.step,
            "schedule": failure.schedule,
            "original_schedule": failure.original_schedule,
            "preemptions": failure.preemptions,
            "execution": failure.executions,
            "replay": failure.replay_line,
            "explanation": failure.explanation,
            "trace": [
                {**step._asdict(), "value": step.value, "site": step.site._asdict()}
                for step in failure.trace or ()
            ],
        },
    }
