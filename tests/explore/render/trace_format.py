"""
The rules of the Chrome trace-event format, checked independently of what writes it.

From the format's description: which fields each phase must have, that duration events of a thread nest, that
asynchronous and flow events come in pairs and in order.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

_FIELDS = {
    "X": {"dur"},
    "B": set(),
    "E": set(),
    "i": {"s"},
    "M": {"args"},
    "b": {"id", "cat"},
    "e": {"id", "cat"},
    "n": {"id", "cat"},
    "s": {"id", "cat"},
    "t": {"id", "cat"},
    "f": {"id", "cat"},
    "C": {"args"},
}
"""Phases, and what each must have besides name, ts, pid and tid."""

_METADATA = {
    "process_name": "name",
    "process_labels": "labels",
    "process_sort_index": "sort_index",
    "thread_name": "name",
    "thread_sort_index": "sort_index",
}

SLACK = 1e-9


def problems(data: Any) -> list[str]:
    """Everything that is wrong with *data*, the JSON object format."""
    data = json.loads(json.dumps(data, allow_nan=False))
    if not isinstance(data, dict) or not isinstance(data.get("traceEvents"), list):
        return ["no object with a list of traceEvents"]
    found = []
    if data.get("displayTimeUnit") not in (None, "ms", "ns"):
        found.append("displayTimeUnit")
    events = data["traceEvents"]
    for number, event in enumerate(events):
        found += [f"event {number}: {each}" for each in _fields(event)]
    if found:
        return found
    return [*_order(events), *_nesting(events), *_pairs(events), *_flows(events)]


def _fields(event: dict[str, Any]) -> list[str]:
    found = []
    phase = event.get("ph")
    if phase not in _FIELDS:
        return [f"unknown phase {phase!r}"]
    for field in {"name", "ts", "pid", "tid"} | _FIELDS[phase]:
        if field not in event:
            found.append(f"{phase} without {field}")
    for field, kinds in (
        ("name", str), ("cat", str), ("ts", (int, float)), ("dur", (int, float)), ("pid", int),
        ("tid", int), ("args", dict), ("id", (int, str)),
    ):  # fmt: skip
        if field in event and (
            not isinstance(event[field], kinds) or isinstance(event[field], bool)
        ):
            found.append(f"{field} is {event[field]!r}")
    if event.get("dur", 0) < 0 or event.get("ts", 0) < 0:
        found.append("time before the beginning")
    if phase == "i" and event.get("s") not in ("g", "p", "t"):
        found.append(f"scope {event.get('s')!r}")
    if phase == "f" and event.get("bp", "e") != "e":
        found.append(f"bp {event['bp']!r}")
    if phase == "M":
        argument = _METADATA.get(event.get("name", ""))
        if argument is None or argument not in event.get("args", {}):
            found.append(f"metadata {event.get('name')!r}")
    return found


def _order(events: list[dict[str, Any]]) -> list[str]:
    """Times of each thread do not go backwards; every thread has one name."""
    found = []
    last: dict[tuple[int, int], float] = {}
    for number, event in enumerate(events):
        if event["ph"] == "M":
            continue
        thread = event["pid"], event["tid"]
        if event["ts"] < last.get(thread, 0):
            found.append(f"event {number}: goes back in time")
        last[thread] = event["ts"]
    names = [(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"]
    if len(names) != len(set(names)):
        found.append("a thread has two names")
    found += [f"thread {thread} has no name" for thread in last if thread not in names]
    return found


def _nesting(events: list[dict[str, Any]]) -> list[str]:
    """Slices of a thread are inside of each other or apart, in the order of the file."""
    found = []
    stacks: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    begun: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for number, event in enumerate(events):
        thread = event["pid"], event["tid"]
        if event["ph"] == "B":
            begun[thread].append(event["name"])
        elif event["ph"] == "E" and (not begun[thread] or begun[thread].pop() != event["name"]):
            found.append(f"event {number}: E without its B")
        elif event["ph"] == "X":
            stack = stacks[thread]
            while stack and stack[-1] <= event["ts"] + SLACK:
                stack.pop()
            end = event["ts"] + event["dur"]
            if stack and end > stack[-1] + SLACK:
                found.append(f"event {number}: {event['name']!r} overlaps the one around it")
            stack.append(end)
    found += [f"thread {thread}: B without E" for thread, names in begun.items() if names]
    return found


def _pairs(events: list[dict[str, Any]]) -> list[str]:
    """Asynchronous slices of one id: begin, then end, of the same name."""
    found = []
    open_: dict[tuple[str, Any], list[dict[str, Any]]] = defaultdict(list)
    for number, event in enumerate(events):
        key = event.get("cat", ""), event.get("id")
        if event["ph"] == "b":
            open_[key].append(event)
        elif event["ph"] == "e":
            if not open_[key]:
                found.append(f"event {number}: end without beginning")
                continue
            begun = open_[key].pop()
            if begun["name"] != event["name"] or begun["ts"] > event["ts"]:
                found.append(f"event {number}: does not match its beginning")
    found += [f"{key} does not end" for key, each in open_.items() if each]
    return found


def _flows(events: list[dict[str, Any]]) -> list[str]:
    """An arrow begins in a slice, ends in a slice, and not before it began."""
    found = []
    slices = [event for event in events if event["ph"] == "X"]

    def is_inside(event: dict[str, Any]) -> bool:
        return any(
            each["tid"] == event["tid"]
            and each["ts"] - SLACK <= event["ts"] <= each["ts"] + each["dur"] + SLACK
            for each in slices
        )

    starts = {(e["cat"], e["name"], e["id"]): e for e in events if e["ph"] == "s"}
    ends = {(e["cat"], e["name"], e["id"]): e for e in events if e["ph"] == "f"}
    found += [f"arrow {key} has one end only" for key in starts.keys() ^ ends.keys()]
    for key in starts.keys() & ends.keys():
        if starts[key]["ts"] > ends[key]["ts"]:
            found.append(f"arrow {key} goes back in time")
        found += [
            f"arrow {key} is in no slice" for e in (starts[key], ends[key]) if not is_inside(e)
        ]
    return found
