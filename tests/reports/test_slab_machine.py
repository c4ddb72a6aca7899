"""The slab files of a running machine, against what the test itself has allocated."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from concmem import Machine
from concmem.mm.slab_flags import SLAB_NO_MERGE, SLAB_RECLAIM_ACCOUNT
from concmem.reports import slabinfo


def number(text: str) -> int:
    """What a sysfs file begins with."""
    return int(text.split()[0].partition("(")[0])


def meminfo(text: str) -> dict[str, int]:
    """Name and number of each line."""
    return {line.partition(":")[0]: int(line.split()[1]) for line in text.splitlines()}


def row(m: Machine, name: str) -> slabinfo.SlabinfoRow:
    """The line of one cache."""
    (found,) = (row for row in slabinfo.parse(m.procfs.read("slabinfo")) if row.name == name)
    return found


def test_a_cache_by_hand() -> None:
    """1000 objects, 20 in a page, need 50 pages; flushed, only live objects are active."""
    with Machine(cpus=1, memory="32M") as m:

        def body() -> None:
            cache = m.kmem_cache_create("request", 200, flags=SLAB_NO_MERGE | SLAB_RECLAIM_ACCOUNT)
            objects = [cache.alloc() for _ in range(1000)]
            found = row(m, "request")
            assert found == ("request", 1000, 1000, 200, 20, 1, 50, 50)
            memory = meminfo(m.procfs.read("meminfo"))
            assert memory["SReclaimable"] == memory["KReclaimable"] == 50 * 4
            for address in objects[::2]:
                assert address is not None
                cache.free(address)
            cache.flush_all()
            found = row(m, "request")
            assert (found.active_objs, found.num_objs, found.num_slabs) == (500, 1000, 50)
            directory = "sys/kernel/slab/request"
            assert m.procfs.read(f"{directory}/objects") == "500 N0=500\n"
            assert m.procfs.read(f"{directory}/objects_partial") == "500 N0=500\n"
            assert m.procfs.read(f"{directory}/partial") == "50 N0=50\n"
            assert m.procfs.read(f"{directory}/cpu_slabs") == "0\n"
            allocated = [
                m.procfs.read(f"{directory}/alloc_{path}path") for path in ("fast", "slow")
            ]
            assert sum(map(number, allocated)) == 1000
            for address in objects[1::2]:
                assert address is not None
                cache.free(address)
            cache.shrink()
            assert row(m, "request")[1:3] == (0, 0)
            assert meminfo(m.procfs.read("meminfo"))["SReclaimable"] == 0

        m.run([body])


@pytest.mark.parametrize("seed", range(3))
def test_what_all_files_agree_on(tmp_path: Path, seed: int) -> None:
    """After any load: pages, objects and slabs are the same in every file that has them."""
    with Machine(cpus=3, memory="64M", nodes=2, seed=seed) as m:

        def body() -> None:
            rng = Random(seed * 10 + m.smp_processor_id())
            live: list[int] = []
            for _ in range(600):
                if live and rng.random() < 0.4:
                    m.kfree(live.pop(rng.randrange(len(live))))
                else:
                    address = m.kmalloc(rng.choice((8, 64, 100, 500, 2000, 8000)))
                    assert address is not None
                    live.append(address)

        m.run([body] * 3)
        m.procfs.export(tmp_path)
    rows = slabinfo.parse((tmp_path / "slabinfo").read_text())
    pages = sum(row.num_slabs * row.pagesperslab for row in rows)
    memory = meminfo((tmp_path / "meminfo").read_text())
    assert memory["Slab"] == memory["SReclaimable"] + memory["SUnreclaim"] == 4 * pages > 0
    vmstat = dict(line.split() for line in (tmp_path / "vmstat").read_text().splitlines())
    assert int(vmstat["nr_slab_unreclaimable"]) == pages
    zoneinfo = (tmp_path / "zoneinfo").read_text()
    by_node = [int(n) for n in re.findall(r"^      nr_slab_unreclaimable (\d+)$", zoneinfo, re.M)]
    assert len(by_node) == 2
    assert sum(by_node) == pages
    for found in rows:
        assert 0 <= found.active_objs <= found.num_objs == found.num_slabs * found.objperslab
        numbers = {
            name: number((tmp_path / "sys/kernel/slab" / found.name / name).read_text())
            for name in ("total_objects", "objects", "slabs")
        }
        assert numbers == {
            "total_objects": found.num_objs,
            "objects": found.active_objs,
            "slabs": found.num_slabs,
        }


def test_aliases_are_links(tmp_path: Path) -> None:
    """Two caches that were merged have one line, one directory, and two names for it."""
    with Machine(cpus=1, memory="32M") as m:
        m.run([lambda: (m.kmem_cache_create("cred", 176), m.kmem_cache_create("pid", 176))])
        assert m.procfs.read("sys/kernel/slab/pid/aliases") == "1\n"
        assert [line.split()[0] for line in m.procfs.read("slabinfo").splitlines()].count(
            "pid"
        ) == 0
        m.procfs.export(tmp_path)
        slab = tmp_path / "sys" / "kernel" / "slab"
        assert (slab / "pid").readlink() == (slab / "cred").readlink() == Path(":0000176")
        assert (slab / "pid" / "slab_size").read_text() == "176\n"
        assert not (slab / "kmalloc-64").is_symlink()
        assert (slab / "kmalloc-64" / "order").read_text() == "0\n"
