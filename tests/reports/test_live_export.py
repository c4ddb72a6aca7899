"""A tree that follows a machine: there at once, renewed, there at the end, and no trouble to the run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from concmem.errors import BadArgument
from concmem.mm.statistics import MachineStatistics
from concmem.reports.live_export import LiveExport
from concmem.reports.procfs import ProcFs

from .samples import make_machine, make_slab, make_zone

pytestmark = pytest.mark.timeout(60)


class Changing:
    """Statistics that are others each time, and tell when they were taken for the n-th time."""

    def __init__(self) -> None:
        self.taken = 0
        self._changed = threading.Condition()

    def __call__(self) -> Any:
        with self._changed:
            self.taken += 1
            self._changed.notify_all()
            return make_machine(make_zone(nr_free_pages=self.taken))

    def wait_for(self, nr: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.taken >= nr, 30)


def number(tree: Path) -> int:
    return int((tree / "vmstat").read_text().split()[1])


def test_it_is_there_from_the_beginning_to_the_end(tmp_path: Path) -> None:
    """Before the body, and once more after it."""
    statistics = Changing()
    with LiveExport(ProcFs(statistics), tmp_path) as export:
        assert number(tmp_path) == 1
    assert export.error == ""
    assert number(tmp_path) == statistics.taken == 2


def test_slabs_are_written_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between the tree of caches stays, and the table of them is renewed."""
    monkeypatch.setattr("concmem.reports.live_export.EXPORT_EVERY", 0.001)
    statistics = Changing()

    def slabs() -> MachineStatistics:
        return statistics()._replace(slabs=(make_slab("a", usersize=1, order=statistics.taken),))

    order = tmp_path / "sys/kernel/slab/a/order"
    with LiveExport(ProcFs(slabs), tmp_path):
        statistics.wait_for(5)
        assert order.read_text() == "1\n"
    assert order.read_text() == f"{statistics.taken}\n"


def test_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, while the body runs."""
    monkeypatch.setattr("concmem.reports.live_export.EXPORT_EVERY", 0.001)
    statistics = Changing()
    with LiveExport(ProcFs(statistics), tmp_path):
        statistics.wait_for(5)
    assert number(tmp_path) == statistics.taken


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Refused on entry; no thread is left."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(BadArgument, match="is a file"), LiveExport(ProcFs(Changing()), file):
        pytest.fail("entered")
    (tmp_path / "tree" / "vmstat").mkdir(parents=True)
    with (
        pytest.raises(BadArgument, match="cannot be written"),
        LiveExport(ProcFs(Changing()), tmp_path / "tree"),
    ):
        pytest.fail("entered")


def test_a_failure_is_kept_and_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body goes on."""
    monkeypatch.setattr("concmem.reports.live_export.EXPORT_EVERY", 0.001)
    failed = threading.Event()
    calls = []

    class Failing(ProcFs):
        def export(self, directory: Any, skip: Any = ()) -> list[Path]:
            calls.append(directory)
            if len(calls) > 1:
                failed.set()
                raise OSError(28, "No space left on device")
            return super().export(directory, skip)

    with LiveExport(Failing(Changing()), tmp_path) as export:
        assert failed.wait(30)
    assert export.error.startswith("OSError: [Errno 28]")
    assert len(calls) == 2


def test_an_export_that_hangs_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a machine that hangs."""
    monkeypatch.setattr("concmem.reports.live_export.EXPORT_EVERY", 0.001)
    monkeypatch.setattr("concmem.reports.live_export.STOP_SECONDS", 0.01)
    entered, release = threading.Event(), threading.Event()
    calls = []

    class Hanging(ProcFs):
        def export(self, directory: Any, skip: Any = ()) -> list[Path]:
            calls.append(directory)
            if len(calls) > 1:
                entered.set()
                release.wait(60)
            return []

    with LiveExport(Hanging(Changing()), tmp_path) as export:
        assert entered.wait(30)
    assert export.error == "the last export did not come to its end"
    release.set()
