"""``concmem hunt``, ``replay`` and ``bugs``: exit statuses, output, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from concmem.bugs import all_bugs
from concmem.cli.main import main

Capture = pytest.CaptureFixture[str]

PROGRAM = '''
from concmem import explore

def program(rt):
    x = rt.cell(0, "x")
    def body():
        x.value = x.value + 1
    def after():
        assert x.value == 2
    return explore.Program([body, body], after)

def correct(rt):
    x = rt.atomic(0, "x")
    return explore.Program([x.inc, x.inc])

def between(rt):
    """Wrong only between two steps."""
    x = rt.cell(0, "x")
    def body():
        x.value = 1
        x.value = 0
    def verify():
        assert x.value == 0
    return explore.Program([body], verify=verify)

def asleep(rt):
    """Fails only if its time-out fires although it is woken in time."""
    lock = rt.spinlock("lock")
    queue = rt.waitqueue(lock, "queue")
    def sleeper():
        with lock:
            assert queue.wait(1.0)
    def waker():
        with lock:
            queue.wake_up()
        rt.cpu_relax()
    return explore.Program([sleeper, waker])

number = 3
'''


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Importable as the name returned."""
    name = f"programs_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def replay_of(out: str) -> list[str]:
    """The arguments of the line that replays."""
    line = next(line for line in out.splitlines() if line.startswith("concmem replay"))
    return shlex.split(line)[1:]


def test_found_and_replayed(programs: str, capsys: Capture) -> None:
    assert main(["hunt", f"{programs}:program", "--no-progress"]) == 1
    out = capsys.readouterr().out
    assert "assertion: AssertionError" in out
    again = replay_of(out)
    assert again == ["replay", f"{programs}:program", "v1:1.0"]
    assert main(again) == 1
    assert "assertion: AssertionError" in capsys.readouterr().out


def test_nothing_found(programs: str, capsys: Capture) -> None:
    assert main(["hunt", f"{programs}:correct", "--scheduler", "dpor", "--no-progress"]) == 0
    assert "Exhausted" in capsys.readouterr().out
    assert main(["replay", f"{programs}:correct", "v1:"]) == 0


def test_the_line_has_what_an_execution_depends_on(programs: str, capsys: Capture) -> None:
    """Otherwise it would not show the failure again."""
    target = f"{programs}:between"
    assert main(["hunt", target, "--executions", "5", "--no-progress"]) == 0
    options = ["--verify-every", "1", "--cpus", "3", "--max-steps", "50", "--detectors", ""]
    capsys.readouterr()
    assert main(["hunt", target, *options, "--executions", "5", "--no-progress"]) == 1
    again = replay_of(capsys.readouterr().out)
    assert again[2:-1] == [
        *("--cpus", "3", "--max-steps", "50", "--detectors", "", "--verify-every", "1"),
    ]
    assert main(again) == 1


def test_early_timeouts(programs: str, capsys: Capture) -> None:
    """A choice of the scheduler only when asked for; the line to replay asks for it again."""
    target = f"{programs}:asleep"
    command = ["hunt", target, "--scheduler", "dfs", "--no-progress"]
    assert main([*command, "--early-timeouts", "1"]) == 1
    again = replay_of(capsys.readouterr().out)
    assert "--early-timeouts" in again
    assert main(again) == 1


def test_files(programs: str, tmp_path: Path, capsys: Capture) -> None:
    paths = {name: tmp_path / f"found.{name}" for name in ("json", "html", "trace-events")}
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    assert main(["hunt", f"{programs}:program", *options, "--no-progress"]) == 1
    found = json.loads(paths["json"].read_text())
    assert found["found"]
    assert found["failure"]["schedule"] == "v1:1.0"
    assert found["failure"]["preemptions"] == 1
    assert paths["html"].read_text().startswith("<!DOCTYPE html>")
    assert json.loads(paths["trace-events"].read_text())["traceEvents"]
    capsys.readouterr()
    assert main(["hunt", f"{programs}:correct", "--executions", "3", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["failure"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hunt"], "one of the arguments TARGET --bug is required"),
        (["hunt", "MODULE:program", "--bug", "B04"], "not allowed with"),
        (["hunt", "nonesuch"], "'nonesuch' is neither"),
        (["hunt", "nonesuch:program"], "'nonesuch' cannot be imported"),
        (["hunt", "MODULE:nonesuch"], "has no function 'nonesuch'"),
        (["hunt", "MODULE:number"], "has no function 'number'"),
        (["hunt", "MODULE:program", "--ops", "3"], "ops: is for workloads"),
        (["hunt", "MODULE:program", "--executions", "0"], "executions: must be at least 1"),
        (["hunt", "MODULE:program", "--seconds", "-1"], "seconds: must be positive"),
        (["hunt", "MODULE:program", "--cpus", "0"], "cpus: must be 1 to 256"),
        (["hunt", "MODULE:program", "--cpus", "1"], "cpus: the program has 2 bodies"),
        (["hunt", "MODULE:program", "--depth", "2", "--scheduler", "pos"], "depth: is for"),
        (["hunt", "MODULE:program", "--detectors", "luck"], "detectors: unknown"),
        (["hunt", "MODULE:program", "--verify-every", "-1"], "verify_every: must be at least 0"),
        (["hunt", "MODULE:between", "--verify-every", "1", "--scheduler", "dpor"], "not with dpor"),
        (["hunt", "--bug", "B99"], "'B99' is neither"),
        (["hunt", "MODULE:program", "--html", "no/such/place.html"], "--html"),
        (["replay", "MODULE:program", "3.0"], "schedule"),
        (["replay", "MODULE:program", "v1:90.0"], "the replay diverged"),
        (["bugs", "B99"], "there is no 'B99'"),
        (["bugs", "--all", "--seconds", "0"], "--seconds: must be positive"),
        (["bugs", "--all", "--jobs", "0"], "--jobs: must be at least 1"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, programs: str, capsys: Capture) -> None:
    """Status 2, one line that names the argument, and no traceback."""
    assert main([word.replace("MODULE", programs) for word in arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


# -- planted bugs


def test_list_of_bugs(capsys: Capture) -> None:
    assert main(["bugs"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()[1:-1]] == [
        [bug.number, bug.name] for bug in all_bugs()
    ]
    assert main(["bugs", "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)["bugs"]
    assert {bug["name"]: bug["depth"] for bug in listed} == {
        bug.name: bug.depth for bug in all_bugs()
    }


def test_a_bug_is_described_hunted_and_replayed(capsys: Capture) -> None:
    assert main(["bugs", "B04"]) == 0
    out = capsys.readouterr().out
    assert "interrupt on CPU 0" in out
    assert "concmem hunt --bug cpu-partial-unlocked" in out
    assert main(["hunt", "--bug", "B04", "--no-progress"]) == 1
    again = replay_of(capsys.readouterr().out)
    assert again == ["replay", "cpu-partial-unlocked", "v1:10.0"]
    assert main(again) == 1


def test_table_of_hunts(tmp_path: Path, capsys: Capture) -> None:
    """In this process, and in others: the same numbers."""
    options = ["--scheduler", "pb", "--scheduler", "dpor", "--seconds", "60", "--executions", "50"]
    tables = []
    for jobs in ("1", "2"):
        path = tmp_path / f"table{jobs}.json"
        command = ["bugs", "B04", "--all", *options, "--jobs", jobs, "--json", str(path)]
        assert main(command) == 0
        assert "1 of 1 found" in capsys.readouterr().out
        hunts = json.loads(path.read_text())["hunts"]
        for hunt in hunts:
            del hunt["seconds"]
        tables.append(sorted(hunts, key=lambda hunt: str(hunt["scheduler"])))
    assert tables[0] == tables[1]
    dpor, pb = tables[0]
    assert (dpor["found"], pb["found"]) == (1, 1)
    assert pb["executions"] == 9
    assert pb["schedule"] == "v1:10.0"


def test_a_bug_that_is_not_found(capsys: Capture) -> None:
    """One execution without a preemption does not show it: said so, and status 1."""
    options = ["--scheduler", "pb", "--executions", "1", "--jobs", "1"]
    assert main(["bugs", "B04", "--all", *options]) == 1
    assert "0 of 1 found; not: cpu-partial-unlocked" in capsys.readouterr().out
