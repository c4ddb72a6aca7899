"""Who freed what others had allocated: by CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concmem.reports.run import Run


class FreeAnalysis(NamedTuple):
    """The frees of one CPU, or of all."""

    cpu: int
    """-1: all."""
    pages: int
    """Frees of pages."""
    remote_pages: int
    """Of what another CPU had allocated."""
    objects: int
    remote_objects: int

    @property
    def freed(self) -> int:
        return self.pages + self.objects

    @property
    def remote(self) -> int:
        return self.remote_pages + self.remote_objects


def free_analysis(run: Run) -> tuple[FreeAnalysis, ...]:
    """One row for each CPU, then one for all of them."""
    rows = [
        FreeAnalysis(
            cpu.cpu, cpu.freed, cpu.cross_cpu_frees, cpu.objects_freed, cpu.cross_cpu_object_frees
        )
        for cpu in run.cpus
    ]
    columns = list(zip(*(row[1:] for row in rows), strict=True))
    total = FreeAnalysis(-1, *map(sum, columns)) if columns else FreeAnalysis(-1, 0, 0, 0, 0)
    return (*rows, total)
