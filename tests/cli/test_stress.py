"""``concmem stress``: exit statuses, JSON, messages, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import concmem
from concmem.cli.main import main
from concmem.mm.page_alloc import PageAllocator
from concmem.workloads import WORKLOADS, Scenario
from concmem.workloads.local import Local

pytestmark = pytest.mark.timeout(60)

FAST = ["--cpus", "2", "--memory", "16M", "--ops", "200", "--runtime", "free", "--no-progress"]

Capture = pytest.CaptureFixture[str]


def test_a_clean_run_ends_with_its_verdict(capsys: Capture) -> None:
    """Status 0; tables, then one line with the command to run it again."""
    assert main(["stress", "churn", *FAST, "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "cross-CPU frees" in out
    assert "Node 0, zone" in out
    last = out.splitlines()[-1]
    assert last.startswith("clean: ")
    again = last.partition("again with: ")[2]
    assert again == (
        "concmem stress churn --cpus 2 --memory 16M --nodes 1 --ops 200 --seed 5 "
        "--runtime free --verify-every 5"
    )
    assert main([*again.split()[1:], "--no-progress"]) == 0


def test_json_has_the_result(tmp_path: Path, capsys: Capture) -> None:
    """An older file is replaced; nothing else is left in the directory."""
    path = tmp_path / "result.json"
    path.write_text("old")
    assert main(["stress", "smoke", *FAST, "--json", str(path)]) == 0
    data = json.loads(path.read_text())
    assert data["verdict"] == "clean"
    assert data["interrupted"] is False
    assert data["concmem"] == concmem.__version__
    assert data["command"].startswith("concmem stress smoke ")
    assert len(data["cpus"]) == 2
    assert len(data["phases"]) == 17
    assert list(tmp_path.iterdir()) == [path]


def test_slabs_and_vmalloc_are_shown(tmp_path: Path, capsys: Capture) -> None:
    """Objects by CPU, the busiest caches, a line on vmalloc; nothing of that where there was none."""
    path = tmp_path / "result.json"
    assert main(["stress", "smoke", *FAST, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "most active caches" in out
    assert "slow path" in out
    assert "\nvmalloc: " in out
    data = json.loads(path.read_text())
    assert data["objects_allocated"] == sum(cpu["objects_allocated"] for cpu in data["cpus"])
    assert data["objects_freed"] == data["objects_allocated"] > 0
    assert data["vmalloc"]["areas_allocated"] == data["vmalloc"]["areas_freed"] > 0
    assert data["cross_cpu_object_frees"] <= data["objects_freed"]
    operations = [slab["operations"] for slab in data["slabs"]]
    assert operations == sorted(operations, reverse=True)
    assert {"alloc_hit_rate", "free_hit_rate", "free_slowpath"} <= set(data["slabs"][0])
    assert main(["stress", "churn", *FAST]) == 0
    out = capsys.readouterr().out
    assert "most active caches" not in out
    assert "vmalloc: " not in out


def test_json_on_standard_output_is_alone_there(capsys: Capture) -> None:
    """The tables go to standard error."""
    assert main(["stress", "drain", *FAST, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"] == "clean"
    assert "clean: " in captured.err


def test_json_follows_links_and_leaves_devices_alone(tmp_path: Path, capsys: Capture) -> None:
    """The link stays a link, and /dev/null stays what it is."""
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert main(["stress", "churn", *FAST, "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["verdict"] == "clean"
    assert main(["stress", "churn", *FAST, "--json", "/dev/null"]) == 0
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "none of the names churn"),
        (["smoke", "--cpus", "0"], "cpus: must be 1 to 256, got 0"),
        (["smoke", "--cpus", "many"], "invalid int value"),
        (["smoke", "--memory", "1Q"], "memory: expected a size"),
        (["smoke", "--memory", "4K"], "memory: needs at least 2M"),
        (["smoke", "--nodes", "99"], "nodes: must be 1 to 64"),
        (["smoke", "--seconds", "0"], "seconds: must be"),
        (["smoke", "--ops", "-5"], "ops: must be"),
        (["smoke", "--runtime", "fast"], "invalid choice"),
        (["smoke", "--nope"], "unrecognized arguments"),
        (["smoke", "--json", "/nonexistent/result.json"], "--json: '/nonexistent/result.json'"),
        (["smoke", "--json", "/"], "--json: '/' cannot be written"),
        (["smoke", "--json", ""], "--json: '' cannot be written"),
    ],
)
def test_bad_usage_is_one_clear_line(capsys: Capture, arguments: list[str], words: str) -> None:
    """Status 2, nothing on standard output, no traceback."""
    assert main(["stress", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_a_broken_rule_is_status_1(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report names the rule; the verdict is BROKEN."""

    class LosesPages(PageAllocator):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            correct, frees = self.free_pages, count(1)

            def free_pages(page: concmem.Page, order: int = 0) -> None:
                if next(frees) != 7:
                    correct(page, order)

            self.free_pages = free_pages

    boot = Scenario.boot
    monkeypatch.setattr(
        Scenario, "boot", lambda self, **kw: boot(self, classes={PageAllocator: LosesPages}, **kw)
    )
    assert main(["stress", "churn", *FAST]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("PageCountError: ") for line in lines)
    assert lines[-1].startswith("BROKEN: PageCountError after ")


def test_an_order_of_locks_that_could_deadlock_is_status_1(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --lockdep, whether it came to a deadlock or not; without, nobody notices."""

    class TwoOrders(Local):
        def start(self, machine: concmem.Machine, workers: Any) -> None:
            a, b = machine.runtime.spinlock("a"), machine.runtime.spinlock("b")
            with a, b:
                pass
            self.locks = b, a

        def body(self, worker: Any) -> None:
            if worker.cpu == 0:
                with self.locks[0], self.locks[1]:
                    pass
            super().body(worker)

    monkeypatch.setitem(WORKLOADS, "local", TwoOrders)
    assert main(["stress", "churn", *FAST]) == 0
    assert "lockdep" not in capsys.readouterr().out
    assert main(["stress", "churn", *FAST, "--lockdep"]) == 1
    out = capsys.readouterr().out
    assert "possible circular locking dependency detected: b -> a -> b" in out
    last = out.splitlines()[-1]
    assert last.startswith("BROKEN: LockdepError after ")
    assert last.endswith(" --verify-every 5 --lockdep")


def test_a_host_without_memory_is_said_in_a_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a rule of the model: status 2."""

    def boot(self: Scenario, **arguments: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Scenario, "boot", boot)
    assert main(["stress", "churn", *FAST]) == 2
    assert "Cannot allocate memory" in capsys.readouterr().err


def test_list_names_scenarios_and_workloads(capsys: Capture) -> None:
    """With their descriptions."""
    assert main(["stress", "--list"]) == 0
    out = capsys.readouterr().out
    assert "smoke" in out
    assert "producer-consumer" in out


def test_help_teaches(capsys: Capture) -> None:
    """Examples, exit statuses, and what is not modelled."""
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for words in ("examples:", "exit status:", "130", "not modelled", "swap", "memory hotplug"):
        assert words in out
    assert main(["stress", "--help"]) == 0
    assert "examples:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert concmem.__version__ in capsys.readouterr().out


def test_no_command_is_bad_usage(capsys: Capture) -> None:
    """The help goes to standard error."""
    assert main([]) == 2
    assert "usage: concmem" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scenario", "workload"), [("cross-cpu", "producer-consumer"), ("slab-churn", "slab-churn")]
)
def test_ctrl_c_ends_a_run_with_a_clean_partial_result(
    tmp_path: Path, scenario: str, workload: str
) -> None:
    """A real SIGINT while the run is on: status 130, JSON and verdict all the same."""
    path = tmp_path / "result.json"
    arguments = ["stress", scenario, "--seconds", "1000", "--cpus", "3", "--json", str(path)]
    code = (
        # Whoever runs the tests may ignore SIGINT, and children inherit that.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from concmem.cli.main import main; sys.exit(main({arguments!r}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert workload in process.stderr.readline()  # the first line of progress
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert out.splitlines()[-1].startswith("clean, but interrupted: ")
    data = json.loads(path.read_text())
    assert data["interrupted"] is True
    assert data["verdict"] == "clean"
    assert data["memory"]["allocated"] == 0
    assert data["verifications"] >= 1


def test_the_package_runs_as_a_module() -> None:
    """``python -m concmem``."""
    done = subprocess.run(
        [sys.executable, "-m", "concmem", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("concmem ")
