"""The pytest plugin, in throw-away projects: what passes, fails, replays, hangs, and what cannot be."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .conftest import Run

COUNTERS = """
    import pytest
    from concmem import explore

    def counter(rt, locked):
        lock, x = rt.spinlock("lock"), rt.cell(0, "x")

        def careful():
            with lock:
                x.value = x.value + 1

        def careless():
            x.value = x.value + 1

        def after():
            assert x.value == 2

        return explore.Program([careful if locked else careless] * 2, after)
"""

BROKEN = (
    COUNTERS
    + """
    @pytest.mark.concmem
    def test_counter(rt):
        return counter(rt, locked=False)
"""
)


def make(pytester: pytest.Pytester, source: str, name: str = "test_it") -> None:
    """A test file with *source*."""
    pytester.makepyfile(**{name: source})


def replay_line(result: pytest.RunResult) -> list[str]:
    """The arguments of the pytest line that a failure has printed."""
    (line,) = {line for line in result.outlines if line.startswith("pytest ")}
    return shlex.split(line)[1:]


def test_a_correct_program_passes(pytester: pytest.Pytester, run: Run) -> None:
    """The marker's arguments are used, and -rP shows what the pass means."""
    make(
        pytester,
        COUNTERS
        + """
    @pytest.mark.concmem(scheduler="dpor", executions=50, cpus=2, seed=3)
    def test_counter(rt):
        return counter(rt, locked=True)
    """,
    )
    result = run("-rP")
    result.assert_outcomes(passed=1)
    words = " ".join(result.stdout.str().split())  # its lines are broken where they are too long
    assert "scheduler dpor, seed 3." in words
    assert "Exhausted: no schedule fails." in words


def test_a_race_fails_and_replays(pytester: pytest.Pytester, run: Run) -> None:
    """The failure shows the table and a line, which shows the same failure again."""
    make(pytester, BROKEN)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*cpu0*cpu1*source*",
            "*read x -> 0*",
            "*is preempted*",
            "pytest test_it.py::test_counter --concmem-replay 'v1:*'",
        ]
    )
    again = run(*replay_line(result))
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*is preempted*", "FAILED * assertion: *"])
    assert replay_line(again) == replay_line(result)


def test_the_line_works_from_another_directory(pytester: pytest.Pytester, run: Run) -> None:
    """Paths in it are as seen from where pytest was started; parameters are quoted for a shell."""
    pytester.makeini("[pytest]")
    tests = pytester.mkdir("tests")
    source = (
        COUNTERS
        + """
    @pytest.mark.parametrize("locked", [False], ids=["not locked"])
    @pytest.mark.concmem
    def test_counter(rt, locked):
        return counter(rt, locked)
    """
    )
    path = pytester.makepyfile(source)
    path.rename(tests / "test_it.py")
    inside = pytester.mkdir("inside")
    pytester.chdir()
    for directory, start in ((pytester.path, "tests/"), (tests, ""), (inside, str(tests) + "/")):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(directory)
            result = run("--rootdir", str(pytester.path), str(tests / "test_it.py"))
            line = replay_line(result)
            assert line[0] == f"{start}test_it.py::test_counter[not locked]"
            run("--rootdir", str(pytester.path), *line).assert_outcomes(failed=1)


def test_a_mended_program_replays_as_a_pass(pytester: pytest.Pytester, run: Run) -> None:
    """Once the bug is gone the schedule shows nothing; where the steps are others, that is said."""
    make(pytester, BROKEN)
    line = replay_line(run())
    make(pytester, BROKEN.replace("x.value == 2", "x.value in (1, 2)"))
    run(*line).assert_outcomes(passed=1)
    changed = BROKEN.replace("x.value = x.value + 1", "pass").replace("x.value == 2", "True")
    make(pytester, changed)
    diverged = run(*line)
    diverged.assert_outcomes(failed=1)
    diverged.stdout.fnmatch_lines(["--concmem-replay: the program has changed: step 1*"])


def test_a_deadlock_fails(pytester: pytest.Pytester, run: Run) -> None:
    """A deadlock is a failure with the circle, not a hang."""
    make(
        pytester,
        """
    import pytest
    from concmem import explore

    @pytest.mark.concmem(executions=100)
    def test_transfer(rt):
        a, b = rt.spinlock("a"), rt.spinlock("b")

        def transfer(first, second):
            with first, second:
                pass

        return explore.Program([lambda: transfer(a, b), lambda: transfer(b, a)])
    """,
    )
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*waits for b, held by cpu1*", "*deadlock*"])
    run(*replay_line(result)).assert_outcomes(failed=1)


def test_the_fixture_controlled(pytester: pytest.Pytester, run: Run) -> None:
    """It gives the outcome of a pass; the line for the second program of a test replays that one."""
    make(
        pytester,
        COUNTERS
        + """
    def test_both(controlled):
        outcome = controlled(lambda rt: counter(rt, True), executions=7)
        assert outcome.executions == 7
        assert outcome.scheduler == "pct"
        assert controlled(lambda rt: counter(rt, True), scheduler="dfs").exhausted
        controlled(lambda rt: counter(rt, False))
    """,
    )
    result = run()
    result.assert_outcomes(failed=1)
    line = replay_line(result)
    assert line[-1].startswith("3/v1:")
    again = run(*line)
    again.assert_outcomes(failed=1)
    assert replay_line(again) == line


def test_the_command_line_comes_first(pytester: pytest.Pytester, run: Run) -> None:
    """Options of the command line replace those of markers and calls."""
    make(
        pytester,
        COUNTERS
        + """
    @pytest.mark.concmem(executions=3, scheduler="random", seed=1)
    def test_counter(controlled):
        outcome = controlled(lambda rt: counter(rt, True), executions=4)
        assert (outcome.executions, outcome.scheduler, outcome.seed) == (9, "pos", 5)
    """,
    )
    options = ["--concmem-executions=9", "--concmem-scheduler=pos", "--concmem-seed=5"]
    run(*options).assert_outcomes(passed=1)


def test_fixtures_and_methods(pytester: pytest.Pytester, run: Run) -> None:
    """A marked test may be a method and take fixtures; a class's marker is overridden by the test's."""
    make(
        pytester,
        """
    import pytest
    from concmem import explore

    @pytest.fixture
    def number():
        return 5

    @pytest.mark.concmem(executions=5, scheduler="random")
    class TestIt:
        @pytest.mark.concmem(scheduler="rr")
        def test_it(self, number, rt, seen=[]):
            x = rt.cell(number, "x")

            def after():
                assert x.value == 5

            return explore.Program([lambda: x.value] * 2, after)
    """,
    )
    result = run("-rP")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*scheduler rr*"])


def test_the_fixture_machine(pytester: pytest.Pytester, run: Run) -> None:
    """It runs; what is broken at the end, and only then, is an error; a failed test is not verified."""
    make(
        pytester,
        """
    import pytest

    def test_good(machine):
        machine.run([lambda: machine.kfree(machine.kmalloc(100))] * 2)

    @pytest.mark.concmem(cpus=3, seed=9)
    def test_marked(machine):
        assert (machine.runtime.nr_cpus, machine.seed) == (3, 9)

    def damage(machine):
        machine.zones[0].free_area[0].nr_free += 1

    def test_broken(machine):
        damage(machine)

    def test_broken_and_failed(machine):
        damage(machine)
        assert False

    def test_no_thread_is_left():
        import threading
        assert threading.active_count() == 1
    """,
    )
    result = run()
    result.assert_outcomes(passed=4, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*PageCountError*"])


def test_a_free_machine_that_hangs(pytester: pytest.Pytester, run: Run) -> None:
    """The stacks of all threads are printed, the machine ends, and so does the test."""
    pytester.makeini("[pytest]\nconcmem_hang_timeout = 1.5")
    make(
        pytester,
        """
    def test_circle(machine):
        a, b = machine.runtime.mutex("a"), machine.runtime.mutex("b")
        reached = [machine.runtime.cell(False, "a"), machine.runtime.cell(False, "b")]

        def transfer(number, first, second):
            with first:
                reached[number].value = True
                while not reached[1 - number].value:
                    machine.runtime.cpu_relax()
                with second:
                    pass

        machine.run([lambda: transfer(0, a, b), lambda: transfer(1, b, a)])
    """,
    )
    result = run(process=True)
    assert result.ret == 1
    result.stderr.fnmatch_lines(["concmem: test_it.py::test_circle has not ended after 1.5 s*"])
    assert str(result.stderr).count("in transfer") == 2
    result.stdout.fnmatch_lines(["*took more than 1.5 s*"])


@pytest.mark.timeout(600)
def test_xdist(pytester: pytest.Pytester, run: Run) -> None:
    """Under xdist the same tests pass and fail, with the same lines to replay."""
    make(pytester, BROKEN)
    make(
        pytester,
        COUNTERS
        + """
    @pytest.mark.parametrize("n", range(6))
    @pytest.mark.concmem(executions=5)
    def test_counter(rt, n):
        return counter(rt, locked=True)

    def test_machine(machine):
        machine.run([lambda: machine.kfree(machine.kmalloc(100))] * 2)
    """,
        "test_more",
    )
    result = run("-n", "2", process=True)
    result.assert_outcomes(passed=7, failed=1)
    assert replay_line(result)[0] == "test_it.py::test_counter"
    run("-n", "2", *replay_line(result), process=True).assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--concmem-executions=0", "expected a positive whole number, got '0'"),
        ("--concmem-executions=many", "expected a positive whole number, got 'many'"),
        ("--concmem-seed=x", "invalid int value: 'x'"),
        ("--concmem-scheduler=magic", "--concmem-scheduler: *magic*"),
        ("--concmem-replay=3.0", "--concmem-replay: schedule: '3.0' is no schedule*"),
        ("--concmem-replay=0/v1:", "--concmem-replay: *number of a program*"),
        ("--concmem-replay=v1:1.0", "*belongs to one test, but 2 that run programs are selected"),
    ],
)
def test_bad_options(pytester: pytest.Pytester, run: Run, option: str, message: str) -> None:
    """A bad value is a usage error that says what is wrong, before any test runs."""
    make(pytester, BROKEN)
    make(pytester, BROKEN, "test_more")
    result = run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])
    assert "Traceback" not in str(result.stderr)


def test_a_bad_ini_value(pytester: pytest.Pytester, run: Run) -> None:
    """So is one in the configuration."""
    pytester.makeini("[pytest]\nconcmem_hang_timeout = soon")
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*concmem_hang_timeout: expected seconds, got 'soon'*"])


@pytest.mark.parametrize(
    ("marker", "arguments", "message"),
    [
        ("(100)", "rt", "*its arguments have names*"),
        ("(runs=100)", "rt", "*unknown runs; there are *executions*"),
        ("(executions=0)", "rt", "*executions: must be at least 1, got 0*"),
        ("(scheduler='magic')", "rt", "*magic*"),
        ("", "", "*takes none of rt, controlled and machine*"),
    ],
)
def test_bad_markers(
    pytester: pytest.Pytester, run: Run, marker: str, arguments: str, message: str
) -> None:
    """A marker that cannot be fails its test, and says why."""
    make(
        pytester,
        f"""
    import pytest
    from concmem import explore

    @pytest.mark.concmem{marker}
    def test_it({arguments}):
        return explore.Program([])
    """,
    )
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


def test_rt_where_it_cannot_be(pytester: pytest.Pytester, run: Run) -> None:
    """Without the marker, in a fixture, or in a test that returns nothing, the message says what to do."""
    make(
        pytester,
        """
    import pytest

    def test_unmarked(rt):
        pass

    @pytest.fixture
    def lock(rt):
        return rt.spinlock("lock")

    @pytest.mark.concmem
    def test_fixture(rt, lock):
        pass

    @pytest.mark.concmem
    def test_nothing(rt):
        pass
    """,
    )
    result = run()
    result.assert_outcomes(failed=1, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "*rt: is for tests with @pytest.mark.concmem*",
            "*rt.spinlock: there is a new runtime in each execution*",
            "*expected it to return a Program, got None*",
        ]
    )


def test_a_run_that_does_not_use_it_loads_nothing(pytester: pytest.Pytester, run: Run) -> None:
    """The plugin costs others nothing: neither the machine nor the explorer is imported."""
    make(
        pytester,
        """
    import sys

    def test_modules():
        loaded = {name for name in sys.modules if name.split(".")[0] == "concmem"}
        assert "concmem.testing.pytest_plugin" in loaded
        assert loaded <= {"concmem", "concmem.errors", "concmem.units", "concmem.testing",
                          "concmem.testing.pytest_plugin"}
        assert not {"hypothesis", "rich", "psutil"} & set(sys.modules)
    """,
    )
    run("-p", "no:hypothesispytest", process=True).assert_outcomes(passed=1)


def test_concmem_does_not_import_the_tests() -> None:
    """Neither the package nor what it is made of knows its test helpers."""
    code = (
        "import sys, concmem, concmem.explore, concmem.machine\n"
        "sys.exit(any(name.startswith('concmem.testing') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode == 0


def test_the_entry_point() -> None:
    """pytest finds the plugin by itself once the package is installed."""
    path = Path(__file__).parents[2] / "pyproject.toml"
    points = tomllib.loads(path.read_text())["project"]["entry-points"]["pytest11"]
    assert points == {"concmem": "concmem.testing.pytest_plugin"}


def test_help_and_markers(run: Run) -> None:
    """Options and the marker are in pytest's own lists."""
    text = str(run("--help").stdout)
    for option in ("executions N", "scheduler NAME", "seed N", "replay SCHEDULE"):
        name, value = option.split()
        assert re.search(rf"--concmem-{name}[ =]{value}", text)
    run("--markers").stdout.fnmatch_lines(["@pytest.mark.concmem(*executions*"])


def test_the_page_about_it(pytester: pytest.Pytester, run: Run) -> None:
    """The tests in the documentation are tests, and pass."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "use-it-from-pytest.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    make(pytester, "\n".join(blocks), "test_page")
    run("--concmem-executions=50").assert_outcomes(passed=5)
