"""
The pytest plugin: controlled programs and machines as tests.

* A test with ``@pytest.mark.concmem`` that takes ``rt`` and returns a `concmem.explore.Program` is run under many
  schedules. The marker's arguments are those of :func:`concmem.explore.check`.
* The fixture ``controlled`` is :func:`concmem.explore.check`, except that what it finds fails the test.
* The fixture ``machine`` is a running `concmem.Machine`, verified and closed at the end.

pytest loads this in every test run. So it imports nothing else of concmem until a test uses it.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import shlex
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

if TYPE_CHECKING:
    from concmem.explore import Outcome
    from concmem.machine import Machine

MARKER: Final = "concmem"

EXECUTIONS: Final = 1000
"""Of each program, unless a test or the command line says otherwise."""

ARGUMENTS: Final = frozenset(
    (
        "scheduler",
        "executions",
        "seed",
        "seconds",
        "cpus",
        "max_steps",
        "early_timeouts",
        "spurious_wakeups",
        "detectors",
        "shrink",
    )
)
"""Of the marker, and of ``controlled``; see `concmem.explore.check`."""

_REPLAY_ONLY: Final = (
    "cpus",
    "max_steps",
    "early_timeouts",
    "spurious_wakeups",
    "detectors",
    "verify_every",
)

_stderr_key: Final = pytest.StashKey[int]()
_failed_key: Final = pytest.StashKey[bool]()
_calls_key: Final = pytest.StashKey[int]()


# -- options


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return value


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line."""
    group = parser.getgroup("concmem", "programs under many schedules (concmem)")
    add = group.addoption
    add("--concmem-executions", type=_positive, metavar="N",
        help="run each program under at most so many schedules, whatever the test says")  # fmt: skip
    add("--concmem-scheduler", metavar="NAME",
        help="who decides: random pct pos urw surw pb db dfs dpor rr")  # fmt: skip
    add("--concmem-seed", type=int, metavar="N", help="of all random decisions")
    add("--concmem-replay", metavar="SCHEDULE",
        help="run the selected test once, under this schedule; a failure prints the whole line")  # fmt: skip
    parser.addini(
        "concmem_hang_timeout",
        "seconds after which a test with the fixture 'machine' is taken to hang: the stacks of all threads "
        "are printed, and the machine is shut down. 0: never",
        default="60",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; look at the options."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}({', '.join(sorted(ARGUMENTS))}): the test takes `rt` and returns a concmem.explore.Program, "
        "which is run under many schedules; all arguments may be left out",
    )
    _hang_timeout(config)
    # Output is not captured yet: what a watchdog says is for people, not for a captured section.
    config.stash[_stderr_key] = os.dup(2)
    scheduler = config.getoption("concmem_scheduler")
    schedule = config.getoption("concmem_replay")
    if scheduler is None and schedule is None:
        return
    from concmem.errors import BadArgument
    from concmem.explore.schedulers import make_scheduler

    try:
        option = "--concmem-scheduler"
        if scheduler is not None:
            make_scheduler(scheduler)
        option = "--concmem-replay"
        if schedule is not None:
            _parse_replay(schedule)
    except BadArgument as error:
        raise pytest.UsageError(f"{option}: {error}") from None


def _hang_timeout(config: pytest.Config) -> float:
    text = config.getini("concmem_hang_timeout")
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < threading.TIMEOUT_MAX:
        raise pytest.UsageError(f"concmem_hang_timeout: expected seconds, got {text!r}")
    return value


def _parse_replay(text: str) -> tuple[int, str]:
    """``v1:3.0`` is for the first program of a test, ``2/v1:3.0`` for the second."""
    from concmem.errors import BadArgument
    from concmem.explore import Schedule

    number, slash, schedule = text.rpartition("/")
    if slash and not (number.isdecimal() and int(number) > 0):
        raise BadArgument(f"schedule: expected the number of a program before '/', got {number!r}")
    return int(number or 1), str(Schedule.parse(schedule))


def pytest_collection_finish(session: pytest.Session) -> None:
    """A schedule belongs to one test."""
    config = session.config
    if config.getoption("concmem_replay") is None:
        return
    if hasattr(config, "workerinput") or config.getoption("dist", "no") != "no":
        return  # under xdist nobody knows all tests
    tests = [item for item in session.items if _is_marked(item) or _uses_controlled(item)]
    if len(tests) != 1:
        raise pytest.UsageError(
            f"--concmem-replay: a schedule belongs to one test, but {len(tests)} that run programs "
            "are selected"
        )


def _is_marked(item: pytest.Item) -> bool:
    """Whether *item* is a test that returns a program."""
    return item.get_closest_marker(MARKER) is not None and "rt" in _argument_names(item)


def _uses_controlled(item: pytest.Item) -> bool:
    return "controlled" in getattr(item, "fixturenames", ())


def _argument_names(item: pytest.Item) -> tuple[str, ...]:
    info = getattr(item, "_fixtureinfo", None)
    return tuple(info.argnames) if info is not None else ()


# -- tests that return a program


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a test that returns a program under many schedules."""
    if pyfuncitem.get_closest_marker(MARKER) is None:
        return None
    names = _argument_names(pyfuncitem)
    if "rt" not in names:
        if not {"controlled", "machine"} & set(pyfuncitem.fixturenames):
            _fail(
                f"@pytest.mark.{MARKER}: the test takes none of rt, controlled and machine, so there "
                "is nothing for the marker to do"
            )
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in names if name != "rt"}
    function = pyfuncitem.obj
    _check(pyfuncitem, lambda rt: function(rt=rt, **arguments), {})
    return True


class _NoRuntime:
    """Stands where each execution's own runtime will be."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"rt.{name}: there is a new runtime in each execution, so only the test function itself can "
            "use it, not a fixture"
        )


@pytest.fixture
def rt(request: pytest.FixtureRequest) -> object:
    """The runtime of an execution, for the test function of ``@pytest.mark.concmem``."""
    if request.node.get_closest_marker(MARKER) is None:
        _fail(
            f"rt: is for tests with @pytest.mark.{MARKER}, which return a concmem.explore.Program"
        )
    return _NoRuntime()


@pytest.fixture
def controlled(request: pytest.FixtureRequest) -> Callable[..., Outcome]:
    """
    ``controlled(program, ...)``: `concmem.explore.check`, and the test fails with what that finds.

    The command line comes before the call's arguments, and these before the marker's.
    """

    def run(program: Callable[[Any], Any], /, scheduler: Any = None, **options: Any) -> Outcome:
        if scheduler is not None:
            options["scheduler"] = scheduler
        return _check(request.node, program, options)

    return run


def _options(item: pytest.Item, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments for `explore.check`: of the command line, the call, the marker, in this order."""
    options: dict[str, Any] = {"executions": EXECUTIONS} | _marked(item) | given
    unknown = set(given) - ARGUMENTS
    if unknown:
        _fail(f"controlled: unknown {_names(unknown)}; there are {_names(ARGUMENTS)}")
    for name in ("executions", "scheduler", "seed"):
        value = item.config.getoption(f"concmem_{name}")
        if value is not None:
            options[name] = value
    return options


def _marked(item: pytest.Item) -> dict[str, Any]:
    """The arguments of the test's markers; the closest one's count."""
    options: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers(MARKER))):
        if marker.args:
            _fail(f"@pytest.mark.{MARKER}: its arguments have names, such as executions=100")
        unknown = set(marker.kwargs) - ARGUMENTS
        if unknown:
            _fail(
                f"@pytest.mark.{MARKER}: unknown {_names(unknown)}; there are {_names(ARGUMENTS)}"
            )
        options |= marker.kwargs
    return options


def _names(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _fail(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)


def _check(item: pytest.Item, program: Callable[[Any], Any], given: dict[str, Any]) -> Outcome:
    """Run *program* as the test and the command line say; fail the test with what was found."""
    __tracebackhide__ = True
    from concmem import explore

    options = _options(item, given)
    number = item.stash[_calls_key] = item.stash.get(_calls_key, 0) + 1
    replay = item.config.getoption("concmem_replay")
    wanted, schedule = _parse_replay(replay) if replay is not None else (0, "")
    if wanted == number:
        same = {name: options[name] for name in _REPLAY_ONLY if name in options}
        try:
            outcome = explore.replay(program, schedule, **same)
        except explore.ReplayDiverged as error:
            _fail(f"--concmem-replay: the program has changed: {error}")
    else:
        outcome = explore.check(program, **options)
    if outcome.interrupted:
        raise KeyboardInterrupt
    failure = outcome.failure
    if failure is None:
        item.add_report_section("call", "concmem", str(outcome))
        return outcome
    failure.command = _replay_command(item)
    text = str(outcome)
    if number > 1:
        text = text.replace(f"'{failure.schedule}'", f"'{number}/{failure.schedule}'")
    headline = str(failure.error).partition("\n")[0] or type(failure.error).__name__
    pytest.fail(f"{failure.kind}: {headline}\n\n{text}", pytrace=False)


def _replay_command(item: pytest.Item) -> str:
    """What runs just this test, up to the schedule."""
    _, colons, name = item.nodeid.partition("::")
    directory = item.config.invocation_params.dir
    path = os.path.relpath(item.path, directory)
    if path.startswith(".."):
        path = str(Path(item.path))
    return f"pytest {shlex.quote(path + colons + name)} --concmem-replay"


# -- machines


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """
    A running machine on real threads: 2 CPUs, or as many as the marker says, and 64M of memory.

    It is verified at the end, if the test has passed until then, and closed. Its mode is the one that finds
    most here: ``jitter`` with a GIL, else ``free``.
    """
    from concmem.machine import Machine

    options = _options(request.node, {})
    m = Machine(
        cpus=options.get("cpus", 2), memory="64M", seed=options.get("seed", 0), runtime="auto"
    )
    dog = _Watchdog(request.config, request.node.nodeid, m)
    try:
        yield m
        if not request.node.stash.get(_failed_key, False) and not dog.has_barked:
            m.verify()
    finally:
        dog.stop()
        m.close()
    if dog.has_barked:
        _fail(
            f"machine: the test took more than {dog.seconds:g} s; see stderr for where its threads were"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test itself has failed."""
    report = yield
    if report.when == "call":
        item.stash[_failed_key] = not report.passed
    return report


class _Watchdog:
    """Shows where all threads are, and ends the machine, when a test takes too long."""

    def __init__(self, config: pytest.Config, name: str, machine: Machine) -> None:
        self.seconds = _hang_timeout(config)
        self.has_barked = False
        self._name = name
        self._machine = machine
        self._stderr = config.stash.get(_stderr_key, 2)
        self._timer = threading.Timer(self.seconds, self._bark)
        self._timer.daemon = True
        if self.seconds:
            self._timer.start()

    def _bark(self) -> None:
        self.has_barked = True
        text = f"\nconcmem: {self._name} has not ended after {self.seconds:g} s. Its threads:\n"
        os.write(self._stderr, text.encode())
        faulthandler.dump_traceback(self._stderr, all_threads=True)
        self._machine.close()

    def stop(self) -> None:
        """The test has ended, by itself or not."""
        self._timer.cancel()
        if self.has_barked:
            self._timer.join()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give the copy of stderr back."""
    stderr = config.stash.get(_stderr_key, None)
    if stderr is not None:
        del config.stash[_stderr_key]
        os.close(stderr)
