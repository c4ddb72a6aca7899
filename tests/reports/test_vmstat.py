from __future__ import annotations

from hypothesis import given, settings

from concmem.mm.statistics import MachineStatistics
from concmem.mm.vmstat import EVENT_NAMES
from concmem.reports import vmstat, zoneinfo

from .samples import machines, make_machine, make_pageset, make_slab_machine, make_zone
from .test_zoneinfo import parse as parse_zoneinfo


def parse(text: str) -> list[tuple[str, int]]:
    """Name and number of each line."""
    return [(name, int(value)) for name, value in (line.split(" ") for line in text.splitlines())]


def test_first_and_last_line() -> None:
    """The file begins with nr_free_pages, summed over the zones, and ends with nr_unstable."""
    stats = make_machine(
        make_zone("DMA", nr_free_pages=40), make_zone("Normal", nr_free_pages=2, node=1)
    )
    text = vmstat.render(stats)
    assert text.startswith("nr_free_pages 42\nnr_zone_inactive_anon 0\n")
    assert text.endswith("\nnr_unstable 0\n")


def test_slab_pages_of_all_nodes() -> None:
    """In pages."""
    values = dict(parse(vmstat.render(make_slab_machine(make_zone(), make_zone(node=1)))))
    assert values["nr_slab_reclaimable"] == 1024 + 64
    assert values["nr_slab_unreclaimable"] == 30 + 18


def test_page_events_come_from_the_page_sets() -> None:
    """Pages handed out count for their zone; pages freed count together with direct frees."""
    pagesets = (make_pageset(nr_alloc=5, nr_free=2), make_pageset(nr_alloc=7, nr_free=1))
    stats = make_machine(
        make_zone("DMA32", pagesets=pagesets),
        make_zone("Normal", pagesets=pagesets[:1]),
        make_zone("Normal", pagesets=pagesets[1:], node=1),
        events={"pgalloc_direct": 1000, "pgfree_direct": 500},
    )
    values = dict(parse(vmstat.render(stats)))
    assert values["pgalloc_dma"] == 0
    assert values["pgalloc_dma32"] == 12
    assert values["pgalloc_normal"] == 12
    assert values["pgalloc_direct"] == 1000
    assert values["pgfree"] == 6 + 500
    assert values["pgfree_direct"] == 500


def test_kernel_names_come_first_in_kernel_order() -> None:
    """Events that the kernel has keep its order; the model's own follow in theirs."""
    stats = make_machine(make_zone(), events=dict.fromkeys(EVENT_NAMES, 1))
    names = [name for name, _ in parse(vmstat.render(stats))]
    kernel = [name for name in names if name in vmstat.KERNEL_EVENTS]
    assert kernel == [name for name in vmstat.KERNEL_EVENTS if name in kernel]
    own = [name for name in EVENT_NAMES if name not in vmstat.KERNEL_EVENTS]
    assert names[-len(own) - 1 :] == [*own, "nr_unstable"]
    assert names.index("pgfree") == names.index("allocstall_normal") + 1


def test_event_with_a_computed_name_wins() -> None:
    """An event of the machine replaces the line computed for that name, so no name is doubled."""
    pagesets = (make_pageset(nr_alloc=5),)
    stats = make_machine(make_zone(pagesets=pagesets), events={"pgalloc_normal": 9})
    assert [v for name, v in parse(vmstat.render(stats)) if name == "pgalloc_normal"] == [9]


@given(machines())
@settings(derandomize=True, deadline=None, database=None, max_examples=20)
def test_numbers_read_back(stats: MachineStatistics) -> None:
    """Every event is there, names are unique, and zone counters equal the sums of zoneinfo."""
    lines = parse(vmstat.render(stats))
    values = dict(lines)
    assert len(values) == len(lines)
    assert stats.events.items() <= values.items()
    populated = [zone for node in stats.nodes for zone in node.zones if zone.present]
    unpopulated = [zone for node in stats.nodes for zone in node.zones if not zone.present]
    zoneinfo_values = parse_zoneinfo(zoneinfo.render(stats))
    read = [zoneinfo_values[zone.node, zone.name]["nr_free_cma"][0] for zone in populated]
    assert values["nr_free_cma"] == sum(read) + sum(zone.nr_free_cma for zone in unpopulated)
    assert values["pgfree"] == sum(
        ps.nr_free for zone in (*populated, *unpopulated) for ps in zone.pagesets
    )
