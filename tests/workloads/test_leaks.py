"""Stress runs with the leak detector: no workload leaks, and what leaks is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.workloads import WORKLOADS, Phase, Scenario, Worker, Workload, register, run_stress

pytestmark = pytest.mark.timeout(120)


def scenario(*names: str, **values: object) -> Scenario:
    known: dict[str, object] = {"cpus": 2, "memory": "32M", "ops": 600, "runtime": "free"}
    phases = tuple(Phase(name) for name in names)
    return Scenario(phases, **{**known, **values})  # type: ignore[arg-type]


@pytest.fixture
def losing_workload() -> Iterator[None]:
    """A workload that loses some of what it has; forgotten after the test."""

    @register("losing")
    @dataclass
    class Losing(Workload):
        """Each CPU forgets one object in its owner's table, and one that never was in it."""

        def body(self, worker: Worker) -> None:
            if worker.cpu:
                return
            machine = self._machine
            self.lost_by_the_workload(machine)
            for _ in range(3):
                worker.objects.own(self._source, machine.kmalloc(100), 100)
                self.lost_by_an_owner(worker)

        def start(self, machine: Machine, workers: object) -> None:
            from concmem.workloads.object_owner import FunctionSource

            self._machine = machine
            self._source = FunctionSource(machine, "kfree")

        def lost_by_the_workload(self, machine: Machine) -> None:
            address = machine.kmalloc(2000)
            assert address is not None
            machine.memory.write(address, b"lost")

        def lost_by_an_owner(self, worker: Worker) -> None:
            worker.objects.own(self._source, self._machine.kmalloc(100), 100)

    yield
    del WORKLOADS["losing"]


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_no_workload_leaks(name: str) -> None:
    """Nothing is left, nothing was reported, and the detector's own memory is given back, too."""
    plan = scenario(name)
    with plan.boot(kmemleak=True) as machine:
        known = machine.statistics().kmemleak
        result = run_stress(machine, plan)
        assert result.errors == []
        assert result.leaks == ()
        now = machine.statistics().kmemleak
        assert known is not None
        assert now is not None
        assert now.nr_objects == known.nr_objects
        assert now.nr_scans >= 2


class Impatient(Kmemleak):
    """Nobody is too young to be reported."""

    def start(self, *args: object) -> None:
        super().start(*args)  # type: ignore[arg-type]
        self.msecs_min_age = 20


@pytest.mark.parametrize("name", ["slab-storm", "slab-producer-consumer", "vmalloc-churn"])
def test_scans_meanwhile_report_nothing(name: str) -> None:
    """What workloads have counts as referred to, in lists and on its way, while they run under jitter."""
    plan = scenario(name, cpus=4, runtime="jitter", ops=400)
    with plan.boot(kmemleak=True, classes={Kmemleak: Impatient}) as machine:
        machine.kmemleak.write("scan=on")
        result = run_stress(machine, plan, on_progress=lambda _: machine.kmemleak.scan() and None)
        assert result.errors == []
        assert result.leaks == ()
        assert "new suspected memory leaks" not in machine.log.read()


@pytest.mark.usefixtures("losing_workload")
def test_what_is_lost_is_found() -> None:
    """Each object, with its place and its size; the run is not clean."""
    plan = scenario("local", "losing")
    with plan.boot(kmemleak=True) as machine:
        mine = machine.submit(0, machine.kmalloc, 64).result()
        result = run_stress(machine, plan)
        assert result.leaks is not None
        assert sorted(leak.size for leak in result.leaks) == [128] * 6 + [2048]
        assert mine not in [leak.address for leak in result.leaks]
        assert {leak.cpu for leak in result.leaks} == {0}
        (large,) = [leak for leak in result.leaks if leak.size == 2048]
        assert "lost_by_the_workload" in large.backtrace[0]
        assert result.verdict == "broken"
        assert result.errors[0].type == "MemoryLeak"
        assert "7 object(s)" in result.errors[0].message
        assert result.to_json()["leaks"][0]["size"] in (128, 2048)


def test_without_a_detector_nobody_looks() -> None:
    """The result says so."""
    plan = scenario("slab-churn")
    with plan.boot() as machine:
        assert run_stress(machine, plan).leaks is None
