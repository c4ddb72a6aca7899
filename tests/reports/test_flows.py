"""Flowcharts as data: nodes and arrows, proofs, coverage, Mermaid and JSON."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import concmem
from concmem import Machine
from concmem.errors import BadArgument
from concmem.mm.kmem_cache_cpu import EVENT_NAMES as SLUB_NAMES
from concmem.mm.vmstat import EVENT_NAMES
from concmem.reports import report
from concmem.reports.flows import (
    FLOWS,
    PENDING,
    Edge,
    Flow,
    coverage,
    coverage_line,
    event_totals,
    mermaid,
    never_line,
    pending_part,
    since,
    to_json,
)

PACKAGE = Path(concmem.__file__).parent

NODES = {"allocation": 27, "free": 31, "mempool": 28, "performance": 26, "debugging": 25}
"""Letters go A to Z, AA, AB and so on (memory pools: BB after AA)."""

EDGES = {
    "allocation": "AB BC BD CE DF EG FH GI HI IJ JK JL KM MN MO NP PQ PR RS RT TU UV VW WX SY XY QY "
    "OZ Y-AA Z-AA L-AA",
    "free": "AB BC CD CE DF EG FH GI HJ IJ JK JL KM MN NO NP OQ QR RS RT RU TV VW VX PY YZ Z-AA Z-AB "
    "AA-AC AC-Y AC-AB S-AD W-AD AB-AD X-AD U-AD L-AE AD-AE",
    "mempool": "AB BC CD DE EF FG FH GI IE IJ KL LM LN MO NP PQ PR OS QT ST RU VW WX WY XZ Y-AA Z-BB "
    "AA-BB",
    "performance": "AB BC BD DE DF FG GH HI IJ CK EK JK KL LM LN MO ON PQ QR QS RT SU TV UV VW VX WY "
    "YZ XZ",
    "debugging": "AB BC BD BE CF DG EH FI GJ HK LM MN MO MP NQ OR PS QT RT ST IU JV KW UX VX WX TY",
}

DECISIONS = {
    "allocation": "B J M",
    "free": "C J N R V Z AC",
    "mempool": "F I L P W",
    "performance": "B L Q V",
    "debugging": "B",
}

SAMPLE = Flow(
    "sample",
    "A sample",
    {"A": "Begin", "B": "Which?", "C": "/one", "D": "other"},
    (
        Edge("A", "B", "", "one + other"),
        Edge("B", "C", "yes", "one"),
        Edge("B", "D", "no", "other"),
        Edge("C", "D", "", "kmemleak_on"),
    ),
)


def letters(count: int) -> list[str]:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return ([*alphabet] + ["A" + letter for letter in alphabet])[:count]


def pair(word: str) -> tuple[str, str]:
    source, _, target = word.partition("-")
    return (source, target) if target else (word[0], word[1])


@pytest.mark.parametrize("name", FLOWS)
def test_nodes_and_arrows(name: str) -> None:
    """Exactly the letters, and the arrows in their order."""
    flow = FLOWS[name]
    expected = letters(NODES[name])
    if name == "mempool":
        expected[-1] = "BB"
    assert list(flow.nodes) == expected
    assert [(edge.source, edge.target) for edge in flow.edges] == [
        pair(word) for word in EDGES[name].split()
    ]
    assert set(FLOWS) == set(EDGES)


@pytest.mark.parametrize("name", FLOWS)
def test_labels(name: str) -> None:
    """Decisions ask, and all arrows that leave one say an answer of their own."""
    flow = FLOWS[name]
    assert {letter for letter, label in flow.nodes.items() if label.endswith("?")} == set(
        DECISIONS[name].split()
    )
    for letter, label in flow.nodes.items():
        assert label.isascii()
        answers = [edge.label for edge in flow.edges if edge.source == letter]
        if label.endswith("?") or any(answers):
            assert all(answers), letter
            assert len(set(answers)) == len(answers) >= 2, letter


# -- proofs


def known_events() -> set[str]:
    with Machine(cpus=1, memory="16M") as m:
        process = m.process()
        for file in ("meminfo", "buddyinfo", f"{process.pid}/smaps"):
            m.procfs.read(file)
        return set(event_totals(m.statistics()))


def test_every_proof_names_events_that_exist() -> None:
    """Each is a total of a machine or of a report, or is pending; no name is misspelt."""
    known = known_events() | set(report.EVENTS)
    known |= {event for events in PENDING.values() for event in events}
    for flow in FLOWS.values():
        for edge in flow.edges:
            assert {name for _, name in edge.terms()} <= known, edge.name
            assert edge.proving_events(), edge.name


def test_every_event_made_for_the_charts_is_used() -> None:
    """Those that `vmstat` lists for them; what a waiter adds is for people only."""
    made = EVENT_NAMES[EVENT_NAMES.index("kmalloc_large") :]
    used = {name for flow in FLOWS.values() for edge in flow.edges for _, name in edge.terms()}
    assert set(made) - used == {"mempool_alloc_waited"}


def has_method(m: Machine, part: str) -> bool:
    """Whether the machine offers what *part* is for."""
    if part == "malloc":
        return hasattr(m, "process") and hasattr(m.submit(0, m.process).result(50), "malloc")
    return hasattr(m, {"memory pools": "mempool_create", "processes": "process"}[part])


def source() -> str:
    """All of the package but the charts and the list of event names."""
    return "".join(
        path.read_text()
        for path in PACKAGE.rglob("*.py")
        if "flows" not in path.parts and path.name != "vmstat.py"
    )


@pytest.mark.parametrize("part", ["memory pools", "processes", "malloc"])
def test_a_part_that_has_arrived_is_not_pending(part: str) -> None:
    """The table of pending events shrinks with the model."""
    if part in PENDING:
        text = source()
        counted = all(f'"{event}"' in text for event in PENDING[part])
        with Machine(cpus=1, memory="16M") as m:
            assert not (counted and has_method(m, part)), f"take {part!r} out of PENDING"


def test_what_is_not_pending_is_counted_somewhere() -> None:
    """Each event of the charts is counted in the source, unless it is pending."""
    text = source()
    pending = {event for events in PENDING.values() for event in events}
    for flow in FLOWS.values():
        for edge in flow.edges:
            for _, name in edge.terms():
                if "." not in name and name not in pending:
                    assert f'"{name}"' in text, name
                elif name.startswith("slab."):
                    assert name.removeprefix("slab.") in SLUB_NAMES


@pytest.mark.parametrize("proof", ["", "+", "a +", "+ a", "a b", "a * b", "a + - b"])
def test_a_proof_is_a_sum(proof: str) -> None:
    """What is none is refused."""
    with pytest.raises(BadArgument, match="proof: "):
        Edge("A", "B", "", proof).terms()


def test_counts_of_arrows_and_nodes() -> None:
    """Sums and differences, never negative; a node has the larger of its two sides."""
    assert Edge("A", "B", "", "a + b - c").count({"a": 5, "b": 2, "c": 3, "d": 9}) == 4
    assert Edge("A", "B", "", "a - c").count({"c": 3}) == 0
    counts = SAMPLE.counts({"one": 2, "other": 3})
    assert counts == [5, 2, 3, 0]
    assert SAMPLE.node_counts(counts) == {"A": 5, "B": 5, "C": 2, "D": 3}
    assert SAMPLE.node_counts([1, 2, 3, 7]) == {"A": 1, "B": 5, "C": 7, "D": 10}


def test_since() -> None:
    """New names count from nothing; what has become less has not been."""
    assert since({"a": 5, "b": 2, "c": 1}, {"a": 3, "c": 4}) == {"a": 2, "b": 2, "c": 0}


# -- what is said of them


def test_coverage() -> None:
    """Taken, never taken, and pending."""
    found = coverage(SAMPLE, {"one": 4})
    assert [edge.name for edge in found.taken] == ["A->B", "B->C"]
    assert [edge.name for edge in found.never] == ["B->D"]
    assert found.to_json() == {
        "arrows": 4,
        "taken": 2,
        "never": ["B->D"],
        "pending": [edge.name for edge in found.pending],
    }
    assert never_line([SAMPLE], {"one": 4}).startswith("never taken: sample B->D")
    assert never_line([SAMPLE], {"one": 1, "other": 1, "kmemleak_on": 1}) == ""
    assert never_line(FLOWS.values(), {}).endswith("arrows, which `concmem flows` names")
    taken = {"one": 1, "other": 1, "kmemleak_on": 1}
    assert coverage_line([SAMPLE], taken) == "arrows of the flowcharts taken: sample 4/4"


def test_an_arrow_is_pending_when_nothing_can_prove_it() -> None:
    """One event that can be counted is enough not to be."""
    event = next(event for events in PENDING.values() for event in events)
    assert pending_part(Edge("A", "B", "", event)) in PENDING
    assert pending_part(Edge("A", "B", "", f"{event} + vmalloc_map")) is None
    assert pending_part(Edge("A", "B", "", f"vmalloc_map - {event}")) is None
    # Counted all the same, it is taken.
    flow = SAMPLE._replace(edges=(Edge("A", "B", "", event),))
    assert coverage(flow, {event: 1}).taken == flow.edges


def test_mermaid() -> None:
    """Boxes and diamonds, counts on arrows, the never taken red."""
    text = mermaid(SAMPLE._replace(edges=SAMPLE.edges[:3]), {"one": 12})
    assert text.splitlines() == [
        *("---", "title: A sample", "---", "flowchart TD"),
        '    A["Begin"]',
        '    B{"Which?"}',
        '    C["/one"]',
        '    D["other"]',
        '    A -->|"12"| B',
        '    B -->|"yes: 12"| C',
        '    B -->|"no: 0"| D',
        "    linkStyle 2 stroke:red,color:red",
    ]
    event = next(event for events in PENDING.values() for event in events)
    flow = SAMPLE._replace(edges=(Edge("A", "B", "yes", event),))
    assert '    A -.->|"yes: pending"| B' in mermaid(flow, {}).splitlines()
    assert "linkStyle" not in mermaid(flow, {})


@pytest.mark.parametrize("name", FLOWS)
def test_mermaid_of_the_charts(name: str) -> None:
    """One line for each node and arrow; all labels are quoted, and none has a quote in it."""
    flow = FLOWS[name]
    body = mermaid(flow, {}).splitlines()[4:]
    arrow = re.compile(r'    [A-Z]+ -\.?->\|"[^"]+"\| [A-Z]+')
    node = re.compile(r'    [A-Z]+(\["[^"]+"\]|\{"[^"]+\?"\})')
    assert sum(bool(node.fullmatch(line)) for line in body) == len(flow.nodes)
    assert sum(bool(arrow.fullmatch(line)) for line in body) == len(flow.edges)


def test_json() -> None:
    """The shape that others read."""
    assert to_json([SAMPLE], {"one": 2, "other": 3}) == {
        "flows": {
            "sample": {
                "nodes": {
                    "A": {"label": "Begin", "count": 5},
                    "B": {"label": "Which?", "count": 5},
                    "C": {"label": "/one", "count": 2},
                    "D": {"label": "other", "count": 3},
                },
                "edges": [
                    {"from": "A", "to": "B", "label": "", "count": 5},
                    {"from": "B", "to": "C", "label": "yes", "count": 2},
                    {"from": "B", "to": "D", "label": "no", "count": 3},
                    {"from": "C", "to": "D", "label": "", "count": 0},
                ],
            }
        }
    }


def test_the_page_has_every_arrow() -> None:
    """docs/reference/flows.md lists each arrow with its proof, as the data has it."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "flows.md").read_text()
    for flow in FLOWS.values():
        for edge in flow.edges:
            label = f" {edge.label}" if edge.label else ""
            row = f"| {edge.source} -> {edge.target}{label} | `{edge.proof}` |"
            assert row in page, f"{flow.name}: {row}"
