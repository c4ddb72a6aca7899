"""A run is read back as it was written, and files that are none are told apart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from concmem.errors import BadArgument
from concmem.reports.run import KIND, SCHEMA, Run, missing, parse_run, plain, read_run
from concmem.reports.run.rows import PhaseRow, Timeline
from concmem.workloads import Phase, Scenario, run_stress

from ..runs import make_run, make_sample


def to_json(run: Run) -> dict[str, Any]:
    """The result file of a made-up run."""
    return plain({name: getattr(run, name) for name in run.__dataclass_fields__})  # type: ignore[no-any-return]


def test_it_is_read_as_it_was_written() -> None:
    """Every row, through JSON."""
    run = make_run()
    assert read_run(json.dumps(to_json(run))) == run


def test_a_real_run_is_read() -> None:
    """What the engine has found, number by number where both name it alike."""
    plan = Scenario(
        (Phase("processes"), Phase("slab-churn")), cpus=2, memory="16M", ops=3000, runtime="free",
        verify_every=0.01,
    )  # fmt: skip
    with plan.boot() as machine:
        result = run_stress(machine, plan)
    run = read_run(json.dumps(result.to_json()))
    assert (run.kind, run.schema) == (KIND, SCHEMA)
    assert run.operations == result.operations
    assert [cpu.operations for cpu in run.cpus] == [cpu.operations for cpu in result.cpus]
    assert [lock.wait.total for lock in run.locks] == [lock.wait.total for lock in result.locks]
    assert run.timeline == result.timeline
    assert run.mixed == result.mixed
    assert run.event_totals == result.event_totals
    first, last = run.timeline.samples[0], run.timeline.samples[-1]
    assert sum(first.operations) <= sum(last.operations) == run.operations
    assert [cpu.operations for cpu in run.cpus] == list(last.operations)
    # Everything was given back, and the last look came after that.
    assert sum(last.free_pages(zone) for zone in range(len(run.timeline.zones))) == run.memory.free
    assert last.cached == run.memory.cached
    assert run.timeline.error == ""


def test_a_file_from_before_is_read_as_far_as_it_goes() -> None:
    """What it lacks is said, and nothing else is wrong."""
    data = to_json(make_run())
    for key in ("kind", "schema", "timeline", "caches", "busiest", "mixed", "processes"):
        del data[key]
    for key in ("leaks", "bad_accesses", "concmem", "python", "hung"):
        del data[key]
    run = parse_run(data)
    assert run.schema == 0
    assert run.cpus == make_run().cpus
    said = "\n".join(missing(run))
    for words in ("older concmem", "no samples", "nobody looked", "mixed", "kmemleak", "debugging"):
        assert words in said


def test_what_a_newer_version_adds_is_passed_over() -> None:
    """Keys that are not known, at any depth."""
    data = to_json(make_run())
    data["new"] = 1
    data["cpus"][0]["new"] = {"x": []}
    assert parse_run(data) == make_run()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        ("concmem", "no JSON: Expecting value at line 1 column 1"),
        ('{"verdict": "clean", "cpus": [', "was cut off: it is JSON up to line 1 column"),
        ('{"verdict": "clean", "cpu', "was cut off: it is JSON up to line 1 column"),
        ("[1]", "no result of `concmem stress --json`"),
        ("null", "no result of `concmem stress --json`"),
        ("{}", "no result of `concmem stress --json`"),
        ('{"verdict": "clean"}', "no result of `concmem stress --json`"),
        ('{"flows": {}, "event_totals": {}}', "a file of `concmem flows --json`"),
        ('{"flows": {}, "verdict": "clean"}', "a file of `concmem flows --json`"),
        ('{"measures": []}', "a file of `concmem bench --json`"),
        ('{"verdict": "clean", "advice": []}', "a file of `concmem report --json`"),
        ('{"kind": "else", "verdict": "clean", "cpus": []}', "no result of"),
        ('{"verdict": "clean", "cpus": []}', "the file: has no 'interrupted'"),
        ("[" * 100_000, "nests too deeply"),
    ],
)
def test_other_files_are_told_apart(text: str, words: str) -> None:
    """Each with its reason."""
    with pytest.raises(BadArgument) as caught:
        read_run(text)
    assert words in str(caught.value)


def test_every_truncation_is_called_one() -> None:
    """Wherever the file ends, if it is not at its end: cut off, or no JSON yet."""
    text = json.dumps(to_json(make_run()), indent=2)
    for length in range(1, len(text), 97):
        with pytest.raises(BadArgument, match=r"cut off|no JSON"):
            read_run(text[:length])
    with pytest.raises(BadArgument, match="cut off"):
        read_run(text[: len(text) // 2])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("operations",), "many", "operations: expected a whole number, got 'many'"),
        (("operations",), True, "operations: expected a whole number, got True"),
        (("seconds",), None, "seconds: expected a number, got None"),
        (("cpus",), {}, "cpus: expected a list, got {}"),
        (("cpus", 0), 7, "cpus[0]: expected an object, got 7"),
        (("cpus", 1, "operations"), 1.5, "cpus[1].operations: expected a whole number, got 1.5"),
        (("locks", 0, "contention_points", 0), ["a"], "expected 2 elements, got 1"),
        (("events",), {"pgfault": "x"}, "events.pgfault: expected a whole number"),
        (("busiest", "zones", 0, "name"), 3, "busiest.zones[0].name: expected text, got 3"),
        (("schema",), 99, "schema: this file is of version 99, which a newer concmem"),
    ],
)
def test_wrong_values_are_named(path: tuple[Any, ...], value: object, words: str) -> None:
    """By where they are in the file."""
    data: Any = to_json(make_run())
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(BadArgument) as caught:
        parse_run(data)
    assert words in str(caught.value)


def test_missing_rows_are_named() -> None:
    """A row without a field that it must have."""
    data = to_json(make_run())
    del data["locks"][0]["wait"]
    with pytest.raises(BadArgument, match=r"^locks\[0\]: has no 'wait'$"):
        parse_run(data)


def test_nothing_is_missing_of_a_whole_run() -> None:
    """A report of it needs no excuses."""
    assert missing(make_run()) == []


def test_where_a_run_was_cut_off() -> None:
    """Its unfinished phase, and those that never began."""
    run = make_run(interrupted=True, phases=(PhaseRow("local", 5, 1.0, False),), seconds=1.5)
    assert missing(run) == [
        "the run was interrupted after 1.5 s, in local; never begun: slab-churn"
    ]
    ended = replace(run, interrupted=False, phases=run.phases[:0])
    assert missing(ended) == ["the run was ended early after 1.5 s; never begun: local, slab-churn"]


def test_what_could_not_be_seen_is_said() -> None:
    """One sentence for each part."""
    assert missing(make_run(hung=True)) == [
        "the machine hung: nobody could look at its memory at the end"
    ]
    assert missing(make_run(verifications=0)) == ["the machine was never verified"]
    assert missing(make_run(locks=())) == [
        "no lock statistics were kept (--no-lockstat): no contention"
    ]
    early = Timeline((), (make_sample(0),), "KeyError: 3")
    assert missing(make_run(timeline=early)) == ["sampling ended early: KeyError: 3"]
