"""The default scenario, with debugging on, takes every arrow of the flowcharts that anything can take."""

from __future__ import annotations

import json

import pytest

from concmem.reports.flows import FLOWS, coverage
from concmem.reports.report import make_report
from concmem.reports.run import parse_run
from concmem.workloads import load_scenario, run_stress

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("cpus", [1, 4])
def test_the_default_scenario_takes_every_arrow(cpus: int) -> None:
    """
    On one CPU and on several, with a report of it; none that can be taken is left at 0.

    One cache is debugged, so that the others take their fast paths, and somebody reads `/proc/slabinfo`.
    """
    # The rarest, a CPU that is done with a full slab, is taken some ten times in such a run, whatever
    # the seed and the number of CPUs: none at all has odds of less than 1 in 10,000.
    scenario = load_scenario("default").changed(cpus=cpus, ops=24_000 // cpus, runtime="free")
    scenario = scenario.changed(slab_debug="FZPU,kmalloc-96", page_poison=True)
    with scenario.boot(lockstat=False, kmemleak=True) as machine:
        result = run_stress(
            machine,
            scenario,
            progress_every=0.05,
            on_progress=lambda _: machine.procfs.read("slabinfo"),
        )
    assert result.errors == []
    assert result.bad_accesses == ()
    report = make_report(parse_run(json.loads(json.dumps(result.to_json()))))
    never = {
        name: [edge.name for edge in coverage(flow, report.event_totals).never]
        for name, flow in FLOWS.items()
    }
    assert never == {name: [] for name in FLOWS}
