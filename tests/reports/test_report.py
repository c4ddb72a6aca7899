"""A report: its parts, what making it counts, and its JSON."""

from __future__ import annotations

import json

from concmem.reports.flows import FLOWS, coverage
from concmem.reports.report import EVENTS, make_report
from concmem.reports.run.rows import Leak, Timeline

from .runs import make_run


def test_making_it_is_counted() -> None:
    """Each part that could be made, once."""
    report = make_report(make_run(event_totals={"pgfault": 3, "report_advice": 1}))
    assert report.events == dict.fromkeys(EVENTS, 1)
    assert report.event_totals["pgfault"] == 3
    assert report.event_totals["report_advice"] == 2


def test_a_part_that_could_not_be_made_is_not_counted() -> None:
    """It says why instead."""
    run = make_run(
        busiest=None, processes=None, caches=(), leaks=None, bad_accesses=None, timeline=Timeline()
    )
    report = make_report(run)
    assert report.events == {"report_advice": 1}
    assert len(report.missing) == 4


def test_arrows_of_the_analysis_are_taken() -> None:
    """With the files read in the run, everything from L to Y."""
    totals = {"proc.meminfo": 1, "proc.buddyinfo": 1, "proc.smaps": 1}
    report = make_report(make_run(event_totals=totals))
    taken = {edge.name for edge in coverage(FLOWS["debugging"], report.event_totals).taken}
    assert taken == {
        *("L->M", "M->N", "M->O", "M->P", "N->Q", "O->R", "P->S", "Q->T", "R->T", "S->T", "T->Y"),
        *("I->U", "J->V", "K->W", "U->X", "V->X", "W->X"),
    }


def test_json() -> None:
    """All of it, in plain types."""
    report = make_report(make_run(leaks=(Leak(1, 2),)))
    data = json.loads(json.dumps(report.to_json()))
    assert data["command"] == "concmem stress made-up"
    assert data["verdict"] == "clean"
    assert data["advice"][0]["rule"] == "leaks"
    assert data["zones"][0]["orders"][10]["blocks"] == 8
    assert data["caches"][0]["name"] == "request"
    assert data["locks"][0]["waits_in"] == "rmqueue"
    assert data["leaks"][0]["addresses"] == [1]
    assert data["bad_accesses"] == []
    assert data["mempools"] is None
    assert data["processes"]["processes"][0]["pid"] == 1000
    assert data["coverage"]["debugging"]["arrows"] == len(FLOWS["debugging"].edges)
    assert data["event_totals"] == dict.fromkeys(EVENTS, 1)
