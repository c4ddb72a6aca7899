"""The leak detector: what is a reference, what is a leak, and what one may tell it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from concmem.errors import BadArgument
from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC
from concmem.mm.slab_flags import SLAB_NOLEAKTRACE

from .helpers import PAGE, on_cpu
from .kmemleak_helpers import WORD, detector, found, kmalloc, leak_machine, the_leak

# -- references


def test_a_block_that_only_a_variable_of_python_leads_to_is_a_leak() -> None:
    """A variable of Python is a register: it does not count."""
    with leak_machine() as m:
        address = kmalloc(m)
        assert found(m) == [address]
        on_cpu(m, m.kfree, address)
        assert found(m) == []


def test_an_address_in_static_data_is_a_reference() -> None:
    """Until it is overwritten."""
    with leak_machine() as m:
        slot = m.data(3)
        address = slot[2] = kmalloc(m)
        assert found(m) == []
        slot[2] = None
        assert found(m) == [address]


@pytest.mark.parametrize("offset", [0, 1, 40, 63])
def test_an_interior_address_is_a_reference(offset: int) -> None:
    """Any address in the block counts."""
    with leak_machine() as m:
        m.data()[0] = kmalloc(m, 64) + offset
        assert found(m) == []


@pytest.mark.parametrize("offset", [-1, 64])
def test_an_address_beside_is_none(offset: int) -> None:
    """The byte before, and the byte behind."""
    with leak_machine() as m:
        address = kmalloc(m, 64)
        m.data()[0] = address + offset
        assert found(m) == [address]


def test_an_address_that_is_not_aligned_is_not_seen() -> None:
    """Words are aligned."""
    with leak_machine() as m:
        slot = m.data(2)
        address = kmalloc(m)
        m.memory.write(slot.address + 4, address.to_bytes(8, "little"))
        assert found(m) == [address]


def test_references_by_way_of_other_blocks() -> None:
    """A list whose head is lost is lost as a whole; with its head, nothing is."""
    with leak_machine() as m:
        head = m.data()
        blocks = [kmalloc(m) for _ in range(5)]
        for block, following in pairwise(blocks):
            m.memory.write_u64(block + 16, following)
        head[0] = blocks[0]
        assert found(m) == []
        head[0] = None
        # Of the list itself, each but the first is referred to by one that is no longer referred to.
        assert found(m) == sorted(blocks)


def test_a_circle_that_nothing_leads_to_is_a_leak() -> None:
    """Counting references would not find it."""
    with leak_machine() as m:
        one, other = kmalloc(m), kmalloc(m)
        m.memory.write_u64(one, other)
        m.memory.write_u64(other, one)
        assert found(m) == sorted([one, other])


def test_a_block_that_only_a_freed_one_leads_to_is_a_leak() -> None:
    """What is freed is not scanned, though its bytes are still there."""
    with leak_machine() as m:
        slot = m.data()
        owner = slot[0] = kmalloc(m, 256)
        owned = kmalloc(m, 64)
        m.memory.write_u64(owner + 64, owned)
        assert found(m) == []
        on_cpu(m, m.kfree, owner)
        assert m.memory.read_u64(owner + 64) == owned
        assert found(m) == [owned]


def test_per_cpu_data_and_stacks_are_scanned() -> None:
    """Of every CPU; a frame counts for as long as it is there."""
    with leak_machine() as m:
        counters = m.percpu_data(2)
        counters.of(1)[1] = kmalloc(m)
        address = kmalloc(m)

        def with_frame() -> list[int]:
            with m.stack_frame(4) as frame:
                frame[3] = address
                return found(m)

        assert on_cpu(m, with_frame) == []
        assert found(m) == [address]


def test_stacks_are_not_scanned_when_told_so() -> None:
    """``stack=off``, and on again."""
    with leak_machine() as m:
        address = kmalloc(m)

        def with_frame() -> tuple[list[int], list[int]]:
            with m.stack_frame(1) as frame:
                frame[0] = address
                detector(m).write("stack=off")
                without = found(m)
                detector(m).write("stack=on")
                return without, found(m)

        assert on_cpu(m, with_frame) == ([address], [])


def test_a_root_of_python_counts_as_long_as_it_exists() -> None:
    """For what has addresses and is no memory of the machine."""

    class Owner:
        def __init__(self, address: int) -> None:
            self.addresses = [address]

    with leak_machine() as m:
        address = kmalloc(m)
        owner = Owner(address)
        detector(m).register_root(owner, lambda each: each.addresses)
        assert found(m) == []
        detector(m).unregister_root(owner)
        assert found(m) == [address]
        detector(m).register_root(owner, lambda each: each.addresses)
        assert found(m) == []
        del owner
        assert found(m) == [address]
        with pytest.raises(BadArgument, match="words"):
            detector(m).register_root(m, None)  # type: ignore[arg-type]


def test_a_generator_of_addresses_may_use_the_machine() -> None:
    """It is not called under a lock of the detector."""
    with leak_machine() as m:
        address = kmalloc(m)

        def words(machine: Machine) -> Iterator[int]:
            spare = machine.kmalloc(32)
            assert spare is not None
            machine.kfree(spare)
            yield address

        detector(m).register_root(m, words)
        assert found(m) == []


def test_a_root_that_raises_does_not_end_the_thread() -> None:
    """What an automatic scan raises surfaces at the end of the run; commands are still done."""
    with leak_machine(cpus=1) as m:
        kmemleak = detector(m)
        called = m.runtime.spinlock("called")
        calls = m.runtime.waitqueue(called, "calls")
        times: list[None] = []

        def words(_machine: Machine) -> list[int]:
            with called:
                times.append(None)
                calls.wake_up_all()
            raise ZeroDivisionError

        def until_called() -> None:
            with called:
                calls.wait_for(lambda: bool(times), 30.0)

        kmemleak.register_root(m, words)
        kmemleak.write("scan=on")
        on_cpu(m, until_called)
        kmemleak.unregister_root(m)
        kmemleak.write("scan=off")
        assert kmemleak.report() == ""
        with pytest.raises(ExceptionGroup) as caught:
            m.run([lambda: None])
        assert caught.group_contains(ZeroDivisionError)


# -- what is followed


def test_every_allocator_is_followed() -> None:
    """Each kind of block is a leak when nothing leads to it, with its size, and is forgotten when freed."""
    with leak_machine() as m:
        cache = m.kmem_cache_create("objects", 200)
        blocks = {
            "cache": (lambda: cache.alloc(), cache.free, 200),
            "kmalloc": (lambda: m.kmalloc(100), m.kfree, 128),
            "kzalloc": (lambda: m.kzalloc(100), m.kfree, 128),
            "pages": (lambda: m.kmalloc(3 * PAGE), m.kfree, 3 * PAGE),
            "vmalloc": (lambda: m.vmalloc(2 * PAGE + 1), m.vfree, 3 * PAGE),
            "kvmalloc": (lambda: m.kvmalloc(8 << 20), m.kvfree, 8 << 20),
            "interrupt": (
                lambda: m.call_on(1, lambda: m.kmalloc(16, GFP_ATOMIC)),
                m.kfree,
                16,
            ),
        }
        known = detector(m).statistics().nr_objects
        for name, (allocate, release, size) in blocks.items():
            address = on_cpu(m, allocate)
            assert address is not None or name == "kvmalloc"
            if address is None:
                continue
            assert found(m) == [address], name
            assert the_leak(m).size == size, name
            on_cpu(m, release, address)
            assert found(m) == [], name
        assert detector(m).statistics().nr_objects == known
        m.verify()


def test_objects_in_bulk_are_followed() -> None:
    """All of a batch; a refused batch leaves all known."""
    with leak_machine() as m:
        cache = m.kmem_cache_create("objects", 64)
        objects = on_cpu(m, cache.alloc_bulk, 5)
        for address in objects:
            m.memory.write(address, b"x" * 64)
        assert found(m) == sorted(objects)
        with pytest.raises(Exception, match="free already"):
            on_cpu(m, cache.free_bulk, [*objects, objects[0]])
        assert found(m) == sorted(objects)
        on_cpu(m, cache.free_bulk, objects)
        assert found(m) == []
        m.verify()


def test_a_free_that_is_refused_leaves_the_block_known() -> None:
    """A wrong address, the wrong cache."""
    with leak_machine() as m:
        cache = m.kmem_cache_create("objects", 64)
        address = kmalloc(m)
        for wrong in (lambda: cache.free(address), lambda: m.kfree(address + 8)):
            with pytest.raises(Exception, match=r"0x"):
                on_cpu(m, wrong)
        assert found(m) == [address]
        m.verify()


def test_a_cache_may_be_left_out() -> None:
    """``SLAB_NOLEAKTRACE``: as those of the detector itself."""
    with leak_machine() as m:
        cache = m.kmem_cache_create("untraced", 64, flags=SLAB_NOLEAKTRACE)
        address = on_cpu(m, cache.alloc)
        assert found(m) == []
        on_cpu(m, cache.free, address)


def test_pages_are_neither_followed_nor_references() -> None:
    """What is in pages of the buddy system is not scanned."""
    with leak_machine() as m:
        page = on_cpu(m, m.alloc_pages)
        assert page is not None
        assert found(m) == []
        address = kmalloc(m)
        m.memory.write_u64(m.page_address(page), address)
        assert found(m) == [address]


def test_the_reserve_of_a_pool_is_referred_to() -> None:
    """Its elements are no leaks; one that was given away is."""
    with leak_machine() as m:
        pool = on_cpu(m, m.mempool_create_kmalloc_pool, 3, 64)
        assert found(m) == []
        for spare in pool.elements:  # in one there may still be an address, from when it was free
            m.memory.write(spare, b"x" * 64)
        element = on_cpu(m, pool.alloc)
        assert found(m) == [element]
        on_cpu(m, pool.free, element)
        assert found(m) == []


# -- colours


def test_not_leak_also_saves_what_the_block_leads_to() -> None:
    """Grey: no leak, and scanned."""
    with leak_machine() as m:
        root, child = kmalloc(m), kmalloc(m)
        m.memory.write_u64(root, child)
        detector(m).not_leak(root)
        assert found(m) == []


def test_ignore_does_not() -> None:
    """Black: no leak, and not scanned."""
    with leak_machine() as m:
        root, child = kmalloc(m), kmalloc(m)
        m.memory.write_u64(root, child)
        detector(m).ignore(root)
        assert found(m) == [child]


def test_no_scan() -> None:
    """A block without references in it, for example of text."""
    with leak_machine() as m:
        root, child = kmalloc(m), kmalloc(m)
        m.data()[0] = root
        m.memory.write_u64(root, child)
        detector(m).no_scan(root)
        assert found(m) == [child]


def test_scan_areas() -> None:
    """With areas, only they are scanned."""
    with leak_machine() as m:
        root, seen, unseen = kmalloc(m, 128), kmalloc(m), kmalloc(m)
        m.data()[0] = root
        m.memory.write_u64(root + 64, seen)
        m.memory.write_u64(root + 8, unseen)
        detector(m).scan_area(root + 56, 16)
        assert found(m) == [unseen]
        detector(m).scan_area(root, 16)
        assert found(m) == []
        on_cpu(m, m.kfree, root)
        on_cpu(m, m.rcu.rcu_barrier)
        areas = m.slab.find("kmemleak_scan_area")
        on_cpu(m, areas.flush_all)
        assert areas.statistics().active_objects == 0


def test_a_scan_area_that_does_not_fit_is_refused() -> None:
    """In the log, as everything that is told of blocks that are not known."""
    with leak_machine() as m:
        address = kmalloc(m)
        detector(m).scan_area(address + 32, 33)
        detector(m).scan_area(0x1234, 8)
        detector(m).not_leak(address + 8)
        detector(m).ignore(0x1234)
        detector(m).no_scan(0x1234)
        log = m.log.read()
        assert f"kmemleak: Scan area larger than object {address + 32:#x}" in log
        assert "kmemleak: Adding scan area to unknown object at 0x00001234" in log
        assert f"kmemleak: Found object by alias at {address + 8:#x}" in log
        assert f"kmemleak: Trying to color unknown object at {address + 8:#x} as Grey" in log
        assert "kmemleak: Trying to color unknown object at 0x00001234 as Black" in log
        assert "kmemleak: Not scanning unknown object at 0x00001234" in log
        assert found(m) == [address]


@pytest.mark.parametrize(
    ("start", "size", "rests"),
    [(0, 64, []), (0, 16, [(16, 48)]), (48, 16, [(0, 48)]), (16, 16, [(0, 16), (32, 32)])],
)
def test_free_part(start: int, size: int, rests: list[tuple[int, int]]) -> None:
    """What is left before and behind are blocks; an address in the part that is gone refers to nothing."""
    with leak_machine() as m:
        page = on_cpu(m, m.alloc_pages)
        base = m.page_address(page)
        m.memory.write(base, b"x" * 64)
        kmemleak = detector(m)
        kmemleak.alloc(base, 64)
        kmemleak.free_part(base + start, size)
        assert found(m) == [base + offset for offset, _ in rests]
        assert sorted(leak.size for leak in kmemleak.leaks()) == sorted(size for _, size in rests)
        slot = m.data()
        slot[0] = base + start
        assert len(found(m)) == len(rests)
        for offset, _ in rests:
            kmemleak.free(base + offset)
        assert kmemleak.leaks() == []
        m.verify()


def test_a_block_with_min_count_2_needs_two_references() -> None:
    """As areas of vmalloc do, of which one is that of their ``vm_struct``."""
    with leak_machine() as m:
        base = m.page_address(on_cpu(m, m.alloc_pages))
        m.memory.write(base, b"x" * 64)
        detector(m).alloc(base, 64, min_count=2)
        slots = m.data(2)
        slots[0] = base
        assert found(m) == [base]
        slots[1] = base + 8
        assert found(m) == []


def test_erase_and_update_trace() -> None:
    """An address of no use is overwritten; another caller is named."""
    with leak_machine() as m:
        slot = m.data()
        address = slot[0] = kmalloc(m)
        detector(m).erase(slot.address)

        def adopts_it() -> None:
            detector(m).update_trace(address)

        on_cpu(m, adopts_it)
        assert found(m) == [address]
        assert "adopts_it" in the_leak(m).callers[0]


# -- when


def test_a_block_that_has_changed_is_not_reported() -> None:
    """Only when its contents are as at the scan before; the first scan knows none."""
    with leak_machine() as m:
        kmemleak = detector(m)
        address = kmalloc(m)
        assert kmemleak.scan() == 0
        for number in range(3):
            m.memory.write(address + 60, bytes([number]))
            assert kmemleak.scan() == 0
        assert kmemleak.scan() == 1


def test_what_a_changed_block_leads_to_is_not_reported_either() -> None:
    """It is scanned as if it were referred to."""
    with leak_machine() as m:
        owner, owned = kmalloc(m), kmalloc(m)
        m.memory.write_u64(owner, owned)
        assert found(m) == sorted([owner, owned])
        m.memory.write(owner + 60, b"?")
        detector(m).scan()
        assert detector(m).leaks() == []


def test_a_young_block_is_not_reported() -> None:
    """Unless it is old enough at the beginning of the scan: 5 seconds, at first."""
    with Machine(cpus=1, memory="16M", kmemleak=True) as m:
        assert m.kmemleak.msecs_min_age == 5000
        m.kmemleak.msecs_min_age = 10**9
        address = kmalloc(m)
        assert found(m) == []
        m.kmemleak.msecs_min_age = 0
        assert found(m) == [address]


def test_a_leak_is_new_once() -> None:
    """Later scans do not count it again, though it stays in the report, for as long as it is one."""
    with leak_machine() as m:
        slot = m.data()
        address = kmalloc(m)
        assert [detector(m).scan() for _ in range(4)] == [0, 1, 0, 0]
        assert m.log.read().count("kmemleak: 1 new suspected memory leaks") == 1
        slot[0] = address
        assert found(m) == []
        slot[0] = None
        assert found(m) == [address]
        assert m.log.read().count("new suspected memory leaks") == 1


# -- commands


def test_clear() -> None:
    """What was reported so far is grey from then on; what comes later is not."""
    with leak_machine() as m:
        first = kmalloc(m)
        assert found(m) == [first]
        detector(m).write("clear\n")
        second = kmalloc(m)
        assert found(m) == [second]


def test_dump() -> None:
    """What is known of a block goes to the log, found by any address in it."""
    with leak_machine() as m:
        address = kmalloc(m, 96)
        detector(m).write(f"dump={address + 17:#x}")
        lines = [line.partition("] ")[2] for line in m.log.read().splitlines()]
        start = lines.index(f"kmemleak: Object {address:#x} (size 96):")
        assert lines[start + 1].startswith('kmemleak:   comm "cpu0", pid 0, jiffies ')
        assert lines[start + 2 : start + 6] == [
            "kmemleak:   min_count = 1",
            "kmemleak:   count = 0",
            "kmemleak:   flags = 0x1",
            "kmemleak:   checksum = 0",
        ]
        assert lines[start + 6] == "kmemleak:   backtrace:"
        assert any("kmalloc+0x" in line for line in lines[start + 7 :])
        with pytest.raises(BadArgument, match="no object is known at 0x10"):
            detector(m).write("dump=16")
        assert "kmemleak: Unknown object at 0x00000010" in m.log.read()


@pytest.mark.parametrize(
    "command", ["", "scan=", "scan=-1", "scan=x", "stack=", "dump=", "dump=_1", "on", "scan =on"]
)
def test_a_wrong_command_is_refused(command: str) -> None:
    """And nothing else happens."""
    with leak_machine(cpus=1) as m:
        scans = detector(m).statistics().nr_scans
        with pytest.raises(BadArgument):
            detector(m).write(command)
        assert detector(m).statistics().nr_scans == scans


def test_off() -> None:
    """Nothing is followed any more, and frees are none of its business; what was found stays until `clear`."""
    with leak_machine() as m:
        leaked, other = kmalloc(m), kmalloc(m)
        m.data()[0] = other
        assert found(m) == [leaked]
        detector(m).write("off")
        on_cpu(m, m.workqueue.drain)
        assert "kmemleak: Kernel memory leak detector disabled" in m.log.read()
        assert "Kmemleak disabled without freeing internal data" in m.log.read()
        known = detector(m).statistics().nr_objects
        later = kmalloc(m)
        on_cpu(m, m.kfree, other)
        assert detector(m).statistics().nr_objects == known
        assert [leak.address for leak in detector(m).leaks()] == [leaked]
        for command in ("scan", "off", "stack=on"):
            with pytest.raises(BadArgument, match="off"):
                detector(m).write(command)
        detector(m).write("clear")
        assert detector(m).statistics().nr_objects == 0
        assert detector(m).leaks() == []
        on_cpu(m, m.kfree, later)
        m.verify()


def test_off_without_a_leak_forgets_everything() -> None:
    """There is nothing that anybody could want to look at."""
    with leak_machine() as m:
        m.data()[0] = kmalloc(m)
        detector(m).write("off")
        on_cpu(m, m.workqueue.drain)
        assert detector(m).statistics().nr_objects == 0


def test_automatic_scans() -> None:
    """``scan=on`` scans at once, on the detector's own thread; ``scan=off`` has it wait."""
    with leak_machine() as m:
        address = kmalloc(m)
        # A command waits for the scan that is under way.
        for _ in range(3):
            detector(m).write("scan=on")
            while True:
                scans = detector(m).statistics().nr_scans
                if scans:
                    break
                on_cpu(m, m.runtime.cond_resched)
        detector(m).write("scan=off")
        assert found(m) == [address]


# -- bad arguments, and no detector


def test_bad_arguments() -> None:
    """Each is refused by name; nothing is known afterwards that was not before."""
    with leak_machine(cpus=1) as m:
        kmemleak = detector(m)
        base = m.page_address(on_cpu(m, m.alloc_pages))
        known = kmemleak.statistics().nr_objects
        for wrong in (
            lambda: kmemleak.alloc(base, 0),
            lambda: kmemleak.alloc(base, "1"),  # type: ignore[arg-type]
            lambda: kmemleak.alloc("here", 8),  # type: ignore[arg-type]
            lambda: kmemleak.alloc(base, 8, -2),
            lambda: kmemleak.alloc(base, 8, True),
            lambda: kmemleak.alloc(0x1000, 8),
            lambda: kmemleak.free(1.5),  # type: ignore[arg-type]
            lambda: kmemleak.scan_area(base, -1),
            lambda: kmemleak.write(b"scan"),  # type: ignore[arg-type]
        ):
            with pytest.raises(BadArgument):
                wrong()
        for wrong_age in (-1, 0.5, True):
            with pytest.raises(BadArgument):
                kmemleak.msecs_min_age = wrong_age  # type: ignore[assignment]
        assert kmemleak.statistics().nr_objects == known
        kmemleak.alloc(None, 8)
        kmemleak.free(None)
        kmemleak.not_leak(0)
        assert kmemleak.statistics().nr_objects == known


def test_overlapping_blocks_switch_it_off() -> None:
    """Two owners of the same bytes: nothing that it knows can be trusted."""
    with leak_machine(cpus=1) as m:
        base = m.page_address(on_cpu(m, m.alloc_pages))
        detector(m).alloc(base, 64)
        detector(m).alloc(base + 32, 64)
        log = m.log.read()
        assert (
            f"Cannot insert {base + 32:#x} into the object search tree (overlaps existing)" in log
        )
        assert "Kernel memory leak detector disabled" in log
        assert not detector(m).statistics().enabled


def test_a_machine_without_a_detector_refuses_to_look() -> None:
    """And what helps the detector does nothing there."""
    with Machine(cpus=1, memory="16M") as m:
        address = on_cpu(m, m.kmalloc, 64)
        m.kmemleak.not_leak(address)
        m.kmemleak.scan_area(address + WORD, WORD)
        for look in (m.kmemleak.scan, m.kmemleak.leaks, m.kmemleak.report):
            with pytest.raises(BadArgument, match="kmemleak=True"):
                look()
        assert m.statistics().kmemleak is None
        assert not any("kmemleak" in name for name in m.procfs.names())


def test_a_machine_without_a_detector_is_made_of_the_classes_themselves() -> None:
    """Nothing is in the way of an allocation."""
    with Machine(cpus=1, memory="16M") as m, leak_machine(cpus=1) as other:
        for parts in (
            [machine.vm_areas, machine.slab, machine.kernel.kmalloc] for machine in (m, other)
        ):
            tracked = ["debug" in type(part).__module__ for part in parts]
            assert all(tracked) if parts[0] is other.vm_areas else not any(tracked)
        fast_path = "concmem.mm.slub_fast_path"
        assert {s.alloc.__module__ for s in m.slab.caches()} == {fast_path}
        assert {s.free.__module__ for s in m.slab.caches()} == {fast_path}


def test_kmemleak_must_be_a_flag() -> None:
    """No other value."""
    with pytest.raises(BadArgument, match="kmemleak"):
        Machine(cpus=1, memory="16M", kmemleak=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"slab_debug": "FZPU"},
        {"kasan": True},
        {"failslab": True, "slab_debug": "FZPU,kmalloc-64"},
        {"kasan": True, "slab_debug": "FZPU", "page_owner": True, "page_poison": True},
    ],
    ids=lambda arguments: "+".join(arguments),
)
def test_with_other_debugging(arguments: dict[str, Any]) -> None:
    """Each does its own: blocks are found, freed ones are not, and nothing else is wrong."""
    with leak_machine(**arguments) as m:
        lost = [kmalloc(m, size) for size in (13, 64, 200, 9000)]
        assert found(m) == sorted(lost)
        for address in lost:
            on_cpu(m, m.kfree, address)
        assert found(m) == []
        assert not m.debug_reports
        m.verify()
