"""A history as text: time goes down, one column for each CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from concmem.explore.calls import Call


def explain(
    calls: Sequence[Call], longest: Sequence[Call], rejected: Sequence[tuple[Call, str]], name: str
) -> str:
    """Why there is no order: the history, the longest beginning of one, and what is wrong then."""
    numbers = {call.start: number for number, call in enumerate(longest, 1)}
    lines = [
        f"not linearizable: no order of these calls is one of {name}",
        "",
        *columns(calls, numbers),
        "",
        "the longest beginning of an order:",
        *(f"  #{numbers[call.start]} {_who(call.cpu)}: {call}" for call in longest),
        *([] if longest else ["  (none)"]),
        "",
        "what could come next, and cannot:",
        *(f"  {_who(call.cpu)}: {call}: {why}" for call, why in rejected),
    ]
    return "\n".join(lines)


def columns(calls: Sequence[Call], numbers: Mapping[int, int]) -> list[str]:
    """
    The history, a row for each event, with ``|`` while a call has not returned.

    Args:
        numbers: of calls, by their start; shown as ``#1``.
    """
    cpus = sorted({call.cpu for call in calls})
    events = sorted(
        [(call.start, False, call) for call in calls]
        + [(call.end, True, call) for call in calls if call.end is not None],
        key=lambda event: event[0],
    )
    rows = [{cpu: _who(cpu) for cpu in cpus}]
    running: dict[int, list[Call]] = {cpu: [] for cpu in cpus}
    skip = False
    for (_, is_return, call), following in zip(events, [*events[1:], None], strict=True):
        if skip:  # shown with its call
            skip = False
            continue
        row = {cpu: "|" for cpu in cpus if running[cpu]}
        mine = running[call.cpu]
        number = f" #{numbers[call.start]}" if call.start in numbers else ""
        if is_return:
            # Its name again where an interrupt's call came in between.
            name = f"{call.op} " if len(mine) > 1 else ""
            row[call.cpu] = f"{name}-> {call.result!r}"
            mine.remove(call)
        elif following is not None and following[2] is call:
            row[call.cpu] = f"{call}{number}"
            skip = True
        else:
            row[call.cpu] = f"{call.invocation()}{number}"
            mine.append(call)
        rows.append(row)
    widths = {cpu: max(len(row.get(cpu, "")) for row in rows) for cpu in cpus}
    return [
        "  ".join(["", *(row.get(cpu, "").ljust(widths[cpu]) for cpu in cpus)]).rstrip()
        for row in rows
    ]


def _who(cpu: int) -> str:
    return f"cpu{cpu}" if cpu >= 0 else "no cpu"
