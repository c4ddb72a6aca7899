"""
Prometheus' node_exporter reads an export, also of a machine that is running.

Every value of its buddyinfo, meminfo, slabinfo, vmstat and zoneinfo collectors is what the statistics of the
machine say, computed here once more.
"""

from __future__ import annotations

import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from concmem.mm.statistics import MachineStatistics, NodeStatistics, ZoneStatistics
from concmem.reports.live_export import LiveExport
from concmem.workloads import Phase, Scenario, run_stress

from .conftest import Exported
from .programs import program

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120)]

COLLECTORS = ("buddyinfo", "meminfo", "slabinfo", "vmstat", "zoneinfo")

Metrics = dict[tuple[str, ...], float]
"""Name, and the values of its labels in the order of their names."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def exporter(tree: Path) -> Iterator[str]:
    """The exporter on *tree*; the address of its metrics."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus-node-exporter", "node_exporter"),
        f"--path.procfs={tree}",
        f"--web.listen-address={address}",
        "--web.disable-exporter-metrics",
        "--collector.disable-defaults",
        "--collector.vmstat.fields=.*",
        *(f"--collector.{name}" for name in COLLECTORS),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "istening on" in line:
                break
        else:
            pytest.fail(f"it ended: {''.join(said)}")
        try:
            yield f"http://{address}/metrics"
        finally:
            process.terminate()
            process.stderr.read()


def scrape(address: str) -> Metrics:
    """What it says of this moment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=60) as answer:
        text = answer.read().decode()
    metrics = {}
    for line in text.splitlines():
        match = re.fullmatch(r"node_(\w+)(?:\{(.*)\})? (\S+)", line)
        if match is not None and not match[1].startswith("scrape_collector_duration"):
            labels = re.findall(r'(\w+)="([^"]*)"', match[2] or "")
            metrics[match[1], *(value for _, value in sorted(labels))] = float(match[3])
    return metrics


def part(metrics: Metrics, name: str) -> Metrics:
    """Those of one collector."""
    return {key: value for key, value in metrics.items() if key[0].startswith(f"{name}_")}


@pytest.fixture(scope="module")
def metrics(exported: Exported) -> Metrics:
    with exporter(exported.tree) as address:
        return scrape(address)


def all_zones(stats: MachineStatistics) -> list[ZoneStatistics]:
    return [zone for node in stats.nodes for zone in node.zones]


def test_all_collectors_succeed(metrics: Metrics) -> None:
    """They say so."""
    assert {
        key[1]: value for key, value in metrics.items() if key[0] == "scrape_collector_success"
    } == (dict.fromkeys(COLLECTORS, 1))


def test_buddyinfo(metrics: Metrics, exported: Exported) -> None:
    """Free blocks of each order of each zone that has pages."""
    assert part(metrics, "buddyinfo") == {
        ("buddyinfo_blocks", str(zone.node), str(order), zone.name): blocks
        for zone in all_zones(exported.stats)
        if zone.present
        for order, blocks in enumerate(zone.nr_free)
    }


def test_slabinfo(metrics: Metrics, exported: Exported) -> None:
    """Five numbers of each cache."""
    expected: Metrics = {}
    for cache in exported.stats.slabs:
        objects = sum(node.total_objects for node in cache.nodes)
        free = sum(node.partial_objects - node.partial_inuse for node in cache.nodes)
        numbers = {
            "active_objects": objects - free,
            "objects": objects,
            "object_size_bytes": cache.size,
            "objects_per_slab": cache.objs_per_slab,
            "pages_per_slab": 1 << cache.order,
        }
        expected |= {(f"slabinfo_{name}", cache.name): n for name, n in numbers.items()}
    assert part(metrics, "slabinfo") == expected


def user_pages(node: NodeStatistics) -> dict[str, int]:
    """Pages of processes on one node, by the kernel's names."""
    assert node.user is not None
    return {
        "nr_anon_pages": node.user.nr_anon_pages,
        "nr_file_pages": node.user.nr_shmem,
        "nr_inactive_anon": node.user.nr_anon_pages + node.user.nr_shmem,
        "nr_mapped": node.user.nr_mapped,
        "nr_shmem": node.user.nr_shmem,
        "nr_slab_reclaimable": node.nr_slab_reclaimable,
        "nr_slab_unreclaimable": node.nr_slab_unreclaimable,
    }


def test_meminfo(metrics: Metrics, exported: Exported) -> None:
    """Bytes; what the model does not have is 0, and what depends on the architecture is constant."""
    shown = {key[0].removeprefix("memory_"): n for key, n in part(metrics, "memory").items()}
    zones = all_zones(exported.stats)
    nodes = exported.stats.nodes
    user = exported.stats.user
    assert user is not None
    assert exported.stats.vmalloc is not None
    totals = {name: sum(user_pages(node)[name] for node in nodes) for name in user_pages(nodes[0])}
    reclaimable, unreclaimable = totals["nr_slab_reclaimable"], totals["nr_slab_unreclaimable"]
    reserve = sum(
        min(zone.managed, zone.watermark_high + max(zone.lowmem_reserve)) for zone in zones
    )
    low = sum(zone.watermark_low for zone in zones)
    free = sum(zone.nr_free_pages for zone in zones)
    pages = {
        "MemTotal": sum(zone.managed for zone in zones),
        "MemFree": free,
        "MemAvailable": free - reserve + reclaimable - min(reclaimable // 2, low),
        "Slab": reclaimable + unreclaimable,
        "SReclaimable": reclaimable,
        "KReclaimable": reclaimable,
        "SUnreclaim": unreclaimable,
        "AnonPages": totals["nr_anon_pages"],
        "Shmem": totals["nr_shmem"],
        "Cached": totals["nr_shmem"],
        "Mapped": totals["nr_mapped"],
        "Inactive": totals["nr_inactive_anon"],
        "Inactive_anon": totals["nr_inactive_anon"],
        "PageTables": sum(node.user.nr_page_table_pages for node in nodes if node.user),
        "CommitLimit": user.commit_limit,
        "Committed_AS": user.committed_as,
        "VmallocUsed": exported.stats.vmalloc.nr_vmalloc_pages,
        "CmaTotal": sum(zone.cma for zone in zones),
        "CmaFree": sum(zone.nr_free_cma for zone in zones),
    }
    expected = {f"{name}_bytes": 4096.0 * nr for name, nr in pages.items()}
    expected["VmallocTotal_bytes"] = ((1 << 35) - 1) * 1024.0
    expected["Hugepagesize_bytes"] = 2 << 20
    direct = {name: shown.pop(name) for name in list(shown) if name.startswith("DirectMap")}
    assert sum(direct.values()) == 4096 * sum(zone.present for zone in zones)
    assert {name: n for name, n in shown.items() if n or name in expected} == expected
    assert expected["AnonPages_bytes"] > 0
    assert expected["Shmem_bytes"] > 0
    assert expected["CmaFree_bytes"] > 0


def test_zoneinfo(metrics: Metrics, exported: Exported) -> None:
    """Watermarks, sizes and counters of each zone; per-node counters with the first that has pages."""
    known: Metrics = {}
    zeros = set()
    for node in exported.stats.nodes:
        first = next((zone for zone in node.zones if zone.present), None)
        for zone in node.zones:
            labels = str(zone.node), zone.name
            numbers = {
                "min_pages": zone.watermark_min,
                "low_pages": zone.watermark_low,
                "high_pages": zone.watermark_high,
                "spanned_pages": zone.spanned,
                "present_pages": zone.present,
                "managed_pages": zone.managed,
                **{f"protection_{n}": pages for n, pages in enumerate(zone.lowmem_reserve)},
            }
            if zone.present:
                numbers["nr_free_pages"] = zone.nr_free_pages
            if zone is first:
                numbers |= {
                    f"{name.removesuffix('_pages')}_pages": n
                    for name, n in user_pages(node).items()
                }
            known |= {(f"zoneinfo_{name}", *labels): n for name, n in numbers.items()}
            zeros |= {
                (f"zoneinfo_{name}", *labels)
                for name in (
                    *("nr_active_anon_pages", "nr_active_file_pages", "nr_inactive_file_pages"),
                    *("nr_unevictable_pages", "nr_isolated_anon_pages", "nr_isolated_file_pages"),
                    *("nr_dirty_pages", "nr_writeback_pages", "nr_kernel_stacks"),
                    *(
                        f"numa_{word}_total"
                        for word in ("hit", "miss", "foreign", "interleave", "local", "other")
                    ),
                )
            }
    shown = part(metrics, "zoneinfo")
    assert {key: n for key, n in shown.items() if key not in zeros} == known
    assert {n for key, n in shown.items() if key in zeros} == {0}


def test_vmstat(metrics: Metrics, exported: Exported) -> None:
    """Counters and all events by name; what is neither is not modelled, and 0."""
    stats = exported.stats
    zones = all_zones(stats)
    shown = {key[0].removeprefix("vmstat_"): n for key, n in part(metrics, "vmstat").items()}
    sets = [pageset for zone in zones for pageset in zone.pagesets]
    expected = dict(stats.events)
    for name in user_pages(stats.nodes[0]):
        expected[name] = sum(user_pages(node)[name] for node in stats.nodes)
    expected |= {
        "nr_free_pages": sum(zone.nr_free_pages for zone in zones),
        "nr_free_cma": sum(zone.nr_free_cma for zone in zones),
        "nr_page_table_pages": sum(n.user.nr_page_table_pages for n in stats.nodes if n.user),
        "pgfree": sum(pageset.nr_free for pageset in sets) + stats.events["pgfree_direct"],
    }
    for kind in ("DMA", "DMA32", "Normal"):
        expected[f"pgalloc_{kind.lower()}"] = sum(
            pageset.nr_alloc for zone in zones if zone.name == kind for pageset in zone.pagesets
        )
    assert {name: shown.get(name) for name in expected} == expected
    assert expected["pgfault"] > 0
    assert expected["pgfree"] > 0
    others = {name: n for name, n in shown.items() if name not in expected}
    assert set(others.values()) == {0}
    assert {"pswpin", "nr_dirty", "numa_hit", "nr_unstable"} <= others.keys()


def test_it_watches_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that is renewed all the time is never seen in the middle of it."""
    monkeypatch.setattr("concmem.reports.live_export.EXPORT_EVERY", 0.01)
    plan = Scenario(
        (Phase("slab-churn"), Phase("local")), cpus=2, memory="32M", seconds=3.0, runtime="free"
    )
    seen: list[Metrics] = []
    with (
        plan.boot() as machine,
        LiveExport(machine.procfs, tmp_path),
        exporter(tmp_path) as address,
    ):
        result = run_stress(
            machine, plan, on_progress=lambda _: seen.append(scrape(address)), progress_every=0.05
        )
    assert result.errors == []
    successes = {
        n for each in seen for key, n in each.items() if key[0] == "scrape_collector_success"
    }
    assert successes == {1}
    allocations = [each["vmstat_pgfree",] for each in seen]
    assert allocations == sorted(allocations)
    assert len(set(allocations)) > 1
