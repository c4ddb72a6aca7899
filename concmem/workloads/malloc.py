"""``malloc`` and ``free`` of processes: small chunks and large ones, kept for a while and in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.workloads.base import Workload, option, register
from concmem.workloads.object_owner import ObjectOwnershipError

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.worker import Worker

MAPPED: Final = 128 << 10
"""Bytes from which on ``malloc`` maps, at first."""


class _Chunk(NamedTuple):
    process: Any
    address: int
    size: int
    tag: int

    def ends(self) -> tuple[int, int]:
        return self.address, self.address + self.size - 8

    def write(self) -> None:
        for address in self.ends():
            self.process.write_u64(address, self.tag)

    def free(self) -> None:
        """Raise `ObjectOwnershipError` if somebody else has written there."""
        for address in self.ends():
            found = self.process.read_u64(address)
            if found != self.tag:
                raise ObjectOwnershipError(
                    f"{self.process}: the chunk of {self.size} bytes at {self.address:#x} should hold "
                    f"{self.tag:#x} at {address:#x} and holds {found:#x}"
                )
        self.process.free(self.address)


@register("malloc")
@dataclass
class Malloc(Workload):
    """Allocate and free in a process of each CPU and in one of all, from 16 bytes to mappings."""

    held: int = option(150, 1, 100_000)
    """Chunks that a CPU keeps at most."""
    mapped: int = option(4, 0, 100)
    """Per cent of them of 128 KiB and more. The first of each CPU is one, unless there are none."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        nr_cpus = machine.runtime.nr_cpus
        self._own: list[Any] = [machine.process(f"malloc-{cpu}") for cpu in range(nr_cpus)]
        self._shared: Any = machine.process("malloc-shared")

    def body(self, worker: Worker) -> None:
        rng = worker.rng
        chunks: list[_Chunk] = []
        mapped = self.mapped > 0
        while worker.running():
            worker.progress.operations += 1
            if chunks and (len(chunks) >= self.held or rng.random() < 0.3):
                chunks.pop(rng.randrange(len(chunks))).free()
                continue
            chunk = self._malloc(worker, mapped)
            mapped = rng.random() < self.mapped / 100
            if chunk is None:
                worker.progress.failed += 1
            else:
                chunks.append(chunk)
        # All of it, so that the tops of the heaps go back to the kernel.
        for chunk in chunks:
            chunk.free()

    def _malloc(self, worker: Worker, mapped: bool) -> _Chunk | None:
        rng = worker.rng
        process = self._own[worker.cpu] if mapped or rng.random() < 0.7 else self._shared
        if mapped:
            size = MAPPED + rng.randint(0, 1 << 12)
        else:
            size = rng.randint(16, 16 << rng.randint(0, 12))  # so that the two words do not overlap
        address = process.malloc(size)
        if address is None:
            return None
        chunk = _Chunk(process, address, size, (worker.cpu + 1 << 48) + rng.getrandbits(40))
        chunk.write()
        return chunk

    def end(self, machine: Machine) -> None:
        """Every CPU has left its body: on one of them, all processes end."""

        def exit_all() -> None:
            for process in (*self._own, self._shared):
                process.exit()

        machine.submit(0, exit_all).result()
