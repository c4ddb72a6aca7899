"""NUMA: objects of a node that is asked for, freed by the CPUs of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import THISNODE
from concmem.mm.memory import virt_to_pfn
from concmem.workloads.base import Workload, option, register
from concmem.workloads.mailbox import Mailbox
from concmem.workloads.object_owner import ObjectOwnershipError
from concmem.workloads.slab_sources import PATIENT, KmallocSource, destroy, make_mixed_caches

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.object_owner import OwnedObject
    from concmem.workloads.worker import Worker


@register("slab-numa")
@dataclass
class SlabNuma(Workload):
    """Allocate on a node that is asked for; CPUs of other nodes free."""

    held: int = option(100, 1, 100_000)
    """Objects that a CPU keeps at most, and as many may wait for it to free them."""
    thisnode: int = option(30, 0, 100)
    """Per cent of allocations that take no other node than the one asked for."""
    remote: int = option(60, 0, 100)
    """Per cent of frees that are left to a CPU of another node."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        rt = machine.runtime
        self._caches = make_mixed_caches(machine, "stress-numa")
        self._kmalloc = KmallocSource(machine)
        self._kmalloc_on = machine.kmalloc
        self._nr_nodes = len(machine.nodes)
        self._spans = [
            (zone.zone_start_pfn, zone.zone_start_pfn + zone.spanned_pages, node.node_id)
            for node in machine.nodes
            for zone in node.node_zones
        ]
        self._mailboxes: list[Mailbox[OwnedObject]] = [
            Mailbox(rt, self.held) for _ in range(rt.nr_cpus)
        ]
        node_of = {cpu: node.node_id for node in machine.nodes for cpu in node.cpus}
        everybody = range(rt.nr_cpus)
        self._others = [
            # On a machine of one node, the other CPUs will do; on one CPU, itself.
            [cpu for cpu in everybody if node_of[cpu] != node_of[here]]
            or [cpu for cpu in everybody if cpu != here]
            or [here]
            for here in everybody
        ]

    def cleanup(self, machine: Machine) -> None:
        destroy(self._caches)

    def body(self, worker: Worker) -> None:
        random, objects = worker.rng.random, worker.objects
        held, mine = objects.held, self._mailboxes[worker.cpu]
        while worker.running():
            if held and (len(held) >= self.held or random() < 0.5):
                self._part_with(worker, objects.take_any())
            elif not objects.hold(self._alloc(worker)):
                objects.drop_half()
            owned = mine.take()
            if owned is not None:
                objects.free(owned)

    def leftovers(self, worker: Worker) -> None:
        for mailbox in self._mailboxes:
            while (owned := mailbox.take()) is not None:
                worker.objects.held.append(owned)

    def _alloc(self, worker: Worker) -> OwnedObject | None:
        rng, objects = worker.rng, worker.objects
        node = rng.randrange(self._nr_nodes)
        strict = rng.random() * 100 < self.thisnode
        gfp = PATIENT | THISNODE if strict else PATIENT
        if rng.random() < 0.2:
            size = self._kmalloc.random_size(rng, 0.05)
            owned = objects.own(self._kmalloc, self._kmalloc_on(size, gfp, node), size)
        else:
            owned = objects.alloc(rng.choice(self._caches), gfp, node)
        if strict and owned is not None:
            self._check_node(owned, node)
        return owned

    def _check_node(self, owned: OwnedObject, node: int) -> None:
        pfn = virt_to_pfn(owned.address)
        found = next(number for start, end, number in self._spans if start <= pfn < end)
        if found != node:
            raise ObjectOwnershipError(
                f"{owned.source.name} object {owned.address:#x}: asked for node {node} with "
                f"__GFP_THISNODE, but it is on node {found}"
            )

    def _part_with(self, worker: Worker, owned: OwnedObject) -> None:
        rng = worker.rng
        if rng.random() * 100 < self.remote:
            other = rng.choice(self._others[worker.cpu])
            if self._mailboxes[other].post(owned):
                return
        worker.objects.free(owned)
