"""The page: valid, self-contained, with all that the report says, whatever names there are."""

from __future__ import annotations

import re
from typing import Any

import pytest
from justhtml import JustHTML

from concmem.reports.flows import FLOWS
from concmem.reports.html.page import render
from concmem.reports.report import make_report
from concmem.reports.run import Run
from concmem.reports.run.rows import BadAccess, ErrorRow, Leak, PhaseRow, Timeline
from concmem.reports.words import plural

from ..runs import make_activity, make_cache, make_lock, make_run

EVIL = "<script>alert('&\"')</script>"


def page(run: Run, *lanes: str) -> Any:
    """The page, parsed strictly: an error in the HTML is one in the test."""
    return JustHTML(render(make_report(run), lanes), strict=True, sanitize=False)


def text(document: Any, selector: str) -> str:
    return " ".join(element.to_text() for element in document.query(selector))


def whole_run() -> Run:
    """A run of which there is everything to show."""
    return make_run(
        leaks=(Leak(0x1000, 64, 0, 5, ("open", "main")),),
        bad_accesses=(BadAccess("request", "Poison overwritten", 0x40, "BUG request"),),
        errors=(ErrorRow("DoubleFree", "request: freed twice", "", "mm/slub.py:1", "Traceback"),),
        verdict="broken",
        events={"mempool_create": 1, "mempool_alloc_reserved": 2},
        event_totals={"slab.alloc_fastpath": 12_345, "vmalloc_map": 3},
    )


def test_it_is_valid_and_says_everything() -> None:
    """A section for each subject."""
    document = page(whole_run())
    assert [h.to_text() for h in document.query("h2")] == [
        *("Advice", "Failures", "Time lines", "Memory", "Slabs", "Locks", "CPUs", "Flowcharts")
    ]
    assert "made-up: broken" in text(document, "h1")
    assert "20,000" in text(document, ".tiles")
    assert "leaked" in text(document, "#advice")
    for words in ("DoubleFree", "request: freed twice", "Traceback", "BUG request", "open < main"):
        assert words in text(document, "#failures")
    assert "slab-churn" in text(document, "#timelines")
    assert "node 0 DMA32" in text(document, "#memory")
    assert "MemTotal" in text(document, "#memory pre")
    assert "request" in text(document, "#slabs")
    assert "&zone->lock" in text(document, "#locks")
    assert "cpu1" in text(document, "#cpus")


@pytest.mark.parametrize(
    "run",
    [
        whole_run(),
        make_run(),
        make_run(
            busiest=None, caches=(), timeline=Timeline(), locks=(), slabs=(), mixed=(),
            processes=None, leaks=None, bad_accesses=None, verifications=0, schema=0,
        ),
        make_run(cpus=(), phases=(), operations=0, seconds=0.0, hung=True, interrupted=True),
    ],
    ids=["all", "quiet", "little", "nothing"],
)  # fmt: skip
def test_it_is_self_contained(run: Run) -> None:
    """No id twice, no script, and nothing that is loaded from anywhere."""
    html = render(make_report(run))
    document = page(run)
    ids = [element.attrs["id"] for element in document.query("[id]")]
    assert len(ids) == len(set(ids))
    links = [element.attrs["href"] for element in document.query("[href]")]
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert not document.query("script, link, img, iframe, object, embed, [src], [srcset]")
    # Names of XML that nobody fetches apart, there is no address in it.
    addresses = set(re.findall(r"[a-z]+://[^\"'\s<>]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in html
    assert "@import" not in html
    (policy,) = document.query("meta[http-equiv=Content-Security-Policy]")
    assert policy.attrs["content"].startswith("default-src 'none';")
    assert "script" not in policy.attrs["content"]


def test_names_are_text_and_never_html() -> None:
    """Of caches, locks, functions, scenarios, errors, leaks, phases: from anybody."""
    run = make_run(
        scenario={"name": EVIL, "phases": [{"name": EVIL}]},
        command=EVIL,
        concmem=EVIL,
        python=EVIL,
        runtime=EVIL,
        caches=(make_cache(EVIL, slabs=99, in_use=1),),
        slabs=(make_activity(EVIL, free_fastpath=0),),
        locks=(make_lock(EVIL, contention_points=((EVIL, 1),), contending_points=((EVIL, 2),)),),
        phases=(PhaseRow(EVIL, 1, 1.0, False),),
        errors=(ErrorRow(EVIL, EVIL, EVIL, EVIL, EVIL),),
        leaks=(Leak(1, 2, 0, 0, (EVIL, EVIL)),),
        bad_accesses=(BadAccess(EVIL, EVIL, 1, EVIL),),
        verdict=EVIL,
        busiest=make_run().busiest._replace(buddyinfo=EVIL, phase=EVIL),  # type: ignore[union-attr]
        timeline=make_run().timeline._replace(
            samples=tuple(
                sample._replace(phase=EVIL, waits={EVIL: (n, n)})
                for n, sample in enumerate(make_run().timeline.samples)
            )
        ),
    )
    document = page(run)
    assert not document.query("script")
    assert EVIL in text(document, "h1")
    assert EVIL in text(document, "#failures")
    assert EVIL in text(document, "#locks")
    assert "<script" not in render(make_report(run))


def test_what_is_missing_is_said() -> None:
    """In the head of the page, and in the section that has nothing."""
    document = page(make_run(busiest=None, caches=(), locks=(), timeline=Timeline()))
    assert "no samples" in text(document, "#missing")
    assert "no samples" in text(document, "#timelines")
    assert "Nothing is known of memory" in text(document, "#memory")
    assert "Nothing is known of slabs" in text(document, "#slabs")
    assert "Nothing was waited for" in text(document, "#locks")
    assert not page(make_run()).query("#missing")


def test_lanes_come_first_among_the_failures() -> None:
    """As they are, and with leave to run a script of their own."""
    lane = '<div id="lane"><b>cpu0</b><script>1</script></div>'
    document = page(whole_run(), lane)
    failures = document.query("#failures > *")
    assert failures[1].attrs["class"].split() == ["lanes", "scroll"]
    assert failures[1].query("b")[0].to_text() == "cpu0"
    (policy,) = document.query("meta[http-equiv=Content-Security-Policy]")
    assert "script-src 'unsafe-inline'" in policy.attrs["content"]


@pytest.mark.parametrize("name", FLOWS)
def test_flowcharts_have_all_nodes_and_arrows(name: str) -> None:
    """Each with its count, and what was never taken is of another kind."""
    flow = FLOWS[name]
    totals = {"slab.alloc_fastpath": 12_345, "mempool_create": 1, "proc.meminfo": 2}
    report = make_report(make_run(event_totals=totals))
    document = JustHTML(render(report), strict=True, sanitize=False)
    (chart,) = document.query(f"#flow-{name} svg")
    counts = flow.counts(report.event_totals)
    taken = chart.query("path.taken")
    assert len(taken) == sum(nr > 0 for nr in counts)
    assert len(chart.query("path.arrow")) == len(flow.edges)
    assert len(chart.query(".node")) == len(flow.nodes)
    says = " ".join(title.to_text() for title in chart.query("path title"))
    for edge, nr in zip(flow.edges, counts, strict=True):
        if nr:
            assert (
                f"{edge.name} {edge.label} taken {plural(nr, 'time')}; proof: {edge.proof}" in says
            )
    words = " ".join(title.to_text() for title in chart.query(".node title"))
    for letter, label in flow.nodes.items():
        assert f"{letter} {label}: reached " in words


def test_the_map_of_a_zone() -> None:
    """Free blocks by order and type."""
    document = page(make_run())
    titles = [title.to_text() for title in document.query("svg.zone .cell title")]
    assert "Movable, order 10: 8 free blocks, 32.0 MiB" in titles
    assert "Unmovable, order 3: 0 free blocks, 0 B" in titles
    parts = [title.to_text() for title in document.query("svg.zone .part title")]
    assert parts == [
        "in use: 8,088 pages, 49.4%",
        "in page sets: 100 pages, 0.6%",
        "free: 8,196 pages, 50.0%",
        "Unmovable blocks: 2,048 pages, 12.5%",
        "Movable blocks: 14,336 pages, 87.5%",
    ]


def test_the_bars_of_caches() -> None:
    """What objects used and what was lost, as far as it is more than nothing; many in more pictures."""
    cache = make_cache("a", object_size=60, in_use=320)
    document = page(make_run(caches=(cache,)))
    titles = [title.to_text() for title in document.query("#slabs .part title")]
    assert titles == [
        "a: 18.8 KiB used by objects, 46.9%",
        "a: 20.0 KiB free objects, 50.0%",
        "a: 1.2 KiB padding, 3.1%",
    ]
    many = tuple(make_cache(f"c{n}") for n in range(50))
    assert len(page(make_run(caches=many)).query("#slabs svg")) == 3


def test_a_long_run_with_many_cpus_stays_small() -> None:
    """As many samples, CPUs, caches and locks as there can be in a page: under 3 MB."""
    base = make_run().timeline.samples[3]
    samples = tuple(
        base._replace(
            seconds=n / 4,
            operations=tuple(range(n, n + 8)),
            waits={f"a lock with a long name {i}": (n * i, n * i * 1_000_000) for i in range(30)},
        )
        for n in range(256)
    )
    run = make_run(
        timeline=make_run().timeline._replace(samples=samples),
        caches=tuple(make_cache(f"a cache with a long name {n}") for n in range(200)),
        locks=tuple(make_lock(f"a lock with a long name {n}") for n in range(200)),
        errors=(ErrorRow("E", "m" * 500, "", "w", "t" * 5000),) * 100,
    )
    assert len(render(make_report(run)).encode()) < 3_000_000
