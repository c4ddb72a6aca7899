"""From raw to typed events: every event, every way to print a value, every value that cannot be."""

from __future__ import annotations

from collections import Counter

import pytest

from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, ZERO
from concmem.traces.events import (
    Informational,
    KmemEvent,
    PageAlloc,
    PageFree,
    SlabAlloc,
    SlabFree,
)
from concmem.traces.ftrace import KMEM_EVENTS, RawEvent
from concmem.traces.kmem import typed_events
from concmem.traces.plain import PLAIN

ALLOC = "page=00000000aa pfn=0x10 order=2 migratetype=1 gfp_flags=GFP_KERNEL"


def typed(name: str, args: str) -> tuple[list[KmemEvent], list[str]]:
    """Typed events and malformed reasons of one event on CPU 3, line 9."""
    bad: list[str] = []
    raw = RawEvent(9, "git", 1, 3, 0, name, args, f"git-1 ... {name}: {args}")
    events = typed_events([raw], on_malformed=lambda line, text, reason: bad.append(reason))
    return list(events), bad


@pytest.mark.parametrize(
    ("name", "args", "event"),
    [
        ("mm_page_alloc", ALLOC, PageAlloc(3, 16, 2, 1, GFP_KERNEL, 9)),
        (
            "mm_page_alloc",
            "page=0xffffea0000000400 pfn=16 order=0 migratetype=0 gfp_flags=0xcc0|__GFP_ZERO",
            PageAlloc(3, 16, 0, 0, GFP_KERNEL | ZERO, 9),
        ),
        (
            "mm_page_alloc",
            "page=(____ptrval____) pfn=0x0 order=0 migratetype=0 gfp_flags=GFP_ATOMIC",
            PageAlloc(3, 0, 0, 0, GFP_ATOMIC, 9),
        ),
        ("mm_page_free", "page=00000000aa pfn=0x10 order=2", PageFree(3, 16, 2, 9, False)),
        ("mm_page_free_direct", "page=00000000aa pfn=16 order=2", PageFree(3, 16, 2, 9, False)),
        ("mm_page_free_batched", "page=00000000aa pfn=0x11 order=0", PageFree(3, 17, 0, 9, True)),
        ("mm_pagevec_free", "page=00000000aa pfn=17 order=0 cold=0", PageFree(3, 17, 0, 9, True)),
        (
            "kmem_cache_alloc",
            "call_site=f+0x1/0x2 ptr=b2a1f832 name=filp bytes_req=80 bytes_alloc=96 "
            "gfp_flags=GFP_ATOMIC node=1 accounted=true",
            SlabAlloc(
                3, 0xB2A1F832, "filp", 80, 96, GFP_ATOMIC, 1, "f+0x1/0x2", 9, "kmem_cache_alloc"
            ),
        ),
        (
            "kmalloc",
            "call_site=ffff81 ptr=0xffff888012345678 bytes_req=7 bytes_alloc=8 gfp_flags=GFP_KERNEL",
            SlabAlloc(3, 0xFFFF888012345678, "", 7, 8, GFP_KERNEL, -1, "ffff81", 9, "kmalloc"),
        ),
        (
            "kmalloc_node",
            "call_site=f ptr=(nil) bytes_req=7 bytes_alloc=8 gfp_flags=GFP_KERNEL node=-1",
            SlabAlloc(3, 0, "", 7, 8, GFP_KERNEL, -1, "f", 9, "kmalloc_node"),
        ),
        ("kfree", "call_site=f ptr=(null)", SlabFree(3, 0, "", "f", 9, "kfree")),
        (
            "kmem_cache_free",
            "call_site=f ptr=(____ptrval____) name=a b",
            SlabFree(3, None, "a b", "f", 9, "kmem_cache_free"),
        ),
        (
            "mm_setup_per_zone_wmarks",
            "node_id=0 zone name=DMA watermark min=1",
            Informational(3, 9, "mm_setup_per_zone_wmarks"),
        ),
    ],
)
def test_events(name: str, args: str, event: KmemEvent) -> None:
    """Every request of both allocators, in the kernel's old and new spellings."""
    assert typed(name, args) == ([event], [])


@pytest.mark.parametrize(
    "page",
    [
        "page=(nil) pfn=0x0",
        "page=0 pfn=0",
        "page=0000000000000000 pfn=0x0",
        "pfn=0x0",
        "page=(null) pfn=18446744073709551615",
    ],
)
def test_failed_allocation(page: str) -> None:
    """An allocation without a page is one that failed in the traced kernel."""
    (event,), _ = typed("mm_page_alloc", f"{page} order=4 migratetype=0 gfp_flags=GFP_ATOMIC")
    assert event == PageAlloc(3, None, 4, 0, GFP_ATOMIC, 9)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ("", "no value for order"),
        (ALLOC.replace("order=2", ""), "no value for order"),
        (ALLOC.replace("gfp_flags=GFP_KERNEL", ""), "no value for gfp_flags"),
        (ALLOC.replace("gfp_flags=GFP_KERNEL", "gfp_fl"), "'gfp_fl' is no key=value"),
        (ALLOC.replace("pfn=0x10", ""), "no value for pfn"),
        (ALLOC.replace("order=2", "order=31"), "order=31 cannot be"),
        (ALLOC.replace("order=2", "order=-1"), "order=-1 cannot be"),
        (ALLOC.replace("order=2", "order="), "order= cannot be"),
        (ALLOC.replace("migratetype=1", "migratetype=x"), "migratetype=x cannot be"),
        (ALLOC.replace("pfn=0x10", "pfn=0x"), "pfn=0x is no number"),
        (ALLOC.replace("pfn=0x10", "pfn=1_0"), "pfn=1_0 is no number"),
        (ALLOC.replace("pfn=0x10", "pfn=-16"), "pfn=-16 is no number"),
        (ALLOC.replace("pfn=0x10", "pfn=0x1_0"), "pfn=0x1_0 is no number"),
        (ALLOC.replace("pfn=0x10", "pfn=0xfffffffffffffff0"), "is out of range"),
        (ALLOC.replace("pfn=0x10", "pfn=" + "9" * 5000), "is no number"),
        (ALLOC.replace("pfn=0x10", "pfn=0x11"), "pfn=0x11 is not aligned to order 2"),
        (ALLOC.replace("page=00000000aa", "page=zz"), "page=zz is no number"),
        (ALLOC.replace("GFP_KERNEL", "GFP_KERN"), "there is no flag 'GFP_KERN'"),
        (ALLOC.replace("GFP_KERNEL", "GFP_KERNEL|"), "there is no flag ''"),
        (ALLOC.replace("GFP_KERNEL", "0x10000000"), "bits that are no GFP flag"),
        (ALLOC.replace("GFP_KERNEL", "-1"), "bits that are no GFP flag"),
        (ALLOC.replace("GFP_KERNEL", "__GFP_MOVABLE|__GFP_RECLAIMABLE"), "exclude each other"),
    ],
)
def test_malformed(args: str, reason: str) -> None:
    """A value that is absent or cannot be is reported by name and costs only its line."""
    events, (why,) = typed("mm_page_alloc", args)
    assert events == []
    assert why.startswith("mm_page_alloc: ")
    assert reason in why
    assert len(why) <= 200


def test_flags_without_effect() -> None:
    """Flags that only other kernels have, and that choose no page, are read and left out."""
    for flag in ("__GFP_NOLOCKDEP", "___GFP_SKIP_ZERO", "__GFP_NO_OBJ_EXT"):
        (event,), _ = typed("mm_page_alloc", f"{ALLOC}|{flag}")
        assert event == PageAlloc(3, 16, 2, 1, GFP_KERNEL, 9)


def test_unknown_events_are_counted() -> None:
    """Events of other systems are counted by name; kmem events that are no request are passed."""
    unknown: Counter[str] = Counter()
    names = [*sorted(KMEM_EVENTS), "sched_switch", "sched_switch", "mm_vmscan_x"]
    raw = [RawEvent(1, "", 1, 0, 0, name, "", "") for name in names]
    events = list(typed_events(raw, unknown=unknown))
    assert all(isinstance(event, Informational) for event in events)
    assert len(events) == len(KMEM_EVENTS) - 11
    assert unknown == {"sched_switch": 2, "mm_vmscan_x": 1}


PLAIN_ARGS = {
    "kmalloc": "call_site=f+0x1/0x2 ptr=0000000089322c48 bytes_req=100 bytes_alloc=128 "
    "gfp_flags=GFP_KERNEL|__GFP_ZERO node=-1 accounted=false",
    "kmem_cache_alloc": "call_site=f+0x1/0x2 ptr=0x43b17da9 name=seq_file bytes_req=120 "
    "bytes_alloc=120 gfp_flags=GFP_KERNEL node=1 accounted=true",
    "kfree": " call_site=f+0x3a/0xf0 ptr=00000000b2a1f832",
    "kmem_cache_free": "   call_site=f ptr=43b17da9 name=seq_file",
    "mm_page_alloc": "page=00000000aa pfn=0x10 order=2 migratetype=1 gfp_flags=GFP_KERNEL",
    "mm_page_free": "page=00000000aa pfn=0x10 order=2",
    "mm_page_free_batched": "page=00000000aa pfn=0x11 order=0",
}
SPOILT = [
    " ",
    "=",
    "0",
    "-1",
    "x",
    "\x85",
    "ptr=",
    "name=a b",
    "(nil)",
    "G",
    "\u0663",
    "99999999999",
]


@pytest.mark.parametrize("name", PLAIN_ARGS)
def test_the_quick_way_agrees_with_the_long_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event read the quick way is what the long way reads, also when a bit of it is different."""
    args = PLAIN_ARGS[name]
    typed(name, args)  # so that the GFP flags are known
    assert PLAIN[name](RawEvent(9, "git", 1, 3, 0, name, args, "")) is not None
    variants = [args]
    for at in range(len(args)):
        variants += [args[:at] + args[at + 1 :], args[:at]]
        variants += [args[:at] + bit + args[at:] for bit in SPOILT]
        variants += [args[:at] + bit + args[at + len(bit) :] for bit in SPOILT]
    quick = [typed(name, variant) for variant in variants]
    monkeypatch.delitem(PLAIN, name)
    assert quick == [typed(name, variant) for variant in variants]
