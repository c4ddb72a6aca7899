"""
Scenarios: a machine, a limit and a list of phases, as small TOML files.

::

    description = "What this shows, in a sentence."
    cpus = 4                    # 1 to 256
    memory = "256M"             # bytes, or text with K, M, G
    seconds = 10                # of the whole run; or: ops = 100000, for each CPU
    [[phase]]
    name = "local"              # a workload
    weight = 2                  # its share of the run, 1 unless given
    held = 64                   # options of the workload

The scenarios that come with the package are known by name; others are given as a path.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from concmem.config import MachineConfig
from concmem.errors import BadArgument, ScenarioError
from concmem.machine import Machine
from concmem.units import parse_size
from concmem.workloads.base import Workload, make_workload

RUNTIMES: Final = ("auto", "free", "jitter")

MAX_SECONDS: Final = 30 * 24 * 3600.0
MAX_OPS: Final = 10**12


@dataclass(frozen=True)
class Phase:
    """One workload on all CPUs, for a share of the run."""

    name: str
    weight: float = 1.0
    """Its share of the operations or seconds, relative to the other phases."""
    options: dict[str, Any] = field(default_factory=dict)

    def workload(self) -> Workload:
        """A new workload object. Raises `BadArgument` when it cannot be."""
        return make_workload(self.name, self.options)


@dataclass(frozen=True)
class Scenario:
    """What to run on which machine. Checked when it is made: raises `BadArgument`."""

    phases: tuple[Phase, ...]
    name: str = "scenario"
    description: str = ""
    cpus: int = 4
    memory: int | str = "256M"
    """Bytes, or text."""
    nodes: int = 1
    cma: int | str = 0
    """Bytes, or text."""
    seed: int = 0
    ops: int | None = None
    """Allocator calls of each CPU in the whole run; ``None``: no limit."""
    seconds: float | None = None
    """Host seconds of the whole run; ``None``: no limit. With `ops`, whatever comes first."""
    runtime: str = "auto"
    verify_every: float = 1.0
    """Host seconds between two verifications; 0: only at the end."""
    lockdep: bool = False
    """Whether the order of locks is validated."""

    def __post_init__(self) -> None:
        MachineConfig.check(
            cpus=self.cpus,
            memory=self.memory,
            nodes=self.nodes,
            cma=self.cma,
            min_free_kbytes=None,
            pagesets=True,
            classes=None,
        )
        if parse_size(self.cma, "cma") >= parse_size(self.memory, "memory"):
            raise BadArgument(f"cma: must be less than memory, got {self.cma} of {self.memory}")
        _check_number("seed", self.seed, -(2**63), 2**63, int)
        if self.ops is None and self.seconds is None:
            raise BadArgument("ops: one of ops and seconds must be given")
        if self.ops is not None:
            _check_number("ops", self.ops, 1, MAX_OPS, int)
        if self.seconds is not None:
            _check_number("seconds", self.seconds, 0.001, MAX_SECONDS)
        _check_number("verify_every", self.verify_every, 0, MAX_SECONDS)
        if self.runtime not in RUNTIMES:
            raise BadArgument(
                f"runtime: expected one of {', '.join(RUNTIMES)}; got {self.runtime!r}"
            )
        if not isinstance(self.lockdep, bool):
            raise BadArgument(f"lockdep: expected true or false, got {self.lockdep!r}")
        if not isinstance(self.description, str):
            raise BadArgument(f"description: expected text, got {self.description!r}")
        if not self.phases:
            raise BadArgument("phase: there must be at least one [[phase]]")
        for phase in self.phases:
            _check_number("weight", phase.weight, 1e-6, 1e6)
            phase.workload()

    def share(self, phase: Phase) -> float:
        """The part of the run that *phase* is for, 0 to 1."""
        return phase.weight / sum(p.weight for p in self.phases)

    def boot(self, *, lockstat: bool = True, **arguments: Any) -> Machine:
        """A machine as this scenario wants it; *arguments* are passed on to `Machine`."""
        return Machine(
            cpus=self.cpus,
            memory=self.memory,
            seed=self.seed,
            nodes=self.nodes,
            runtime=self.runtime,
            cma=self.cma,
            lockstat=lockstat,
            lockdep=self.lockdep,
            **arguments,
        )

    def changed(self, **values: Any) -> Scenario:
        """
        This scenario with other values; those that are ``None`` stay as they are.

        A new limit replaces both old ones: ``changed(ops=1000)`` of a run of 10 seconds ends after
        1000 operations, however long they take.
        """
        values = {key: value for key, value in values.items() if value is not None}
        if "ops" in values or "seconds" in values:
            values = {"ops": None, "seconds": None, **values}
        return replace(self, **values)


def _check_number(
    name: str, value: object, low: float, high: float, kind: type | tuple[type, ...] = (int, float)
) -> None:
    what = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, kind):
        raise BadArgument(f"{name}: expected {what}, got {value!r}")
    assert isinstance(value, int | float)
    if not low <= value <= high:  # also false for not-a-number
        raise BadArgument(f"{name}: must be {what} from {low:g} to {high:g}, got {value}")


# -- files

KEYS: Final = (*(f.name for f in fields(Scenario) if f.name not in ("name", "phases")), "phase")
"""The keys of a scenario file."""


def parse_scenario(text: str, name: str, where: str) -> Scenario:
    """
    A scenario from TOML.

    Args:
        where: the file, for messages.

    Raises:
        ScenarioError: the text is no TOML, or has an unknown key or a value that cannot be.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{where}: {error}") from None
    for key in table:
        if key not in KEYS:
            raise ScenarioError(f"{where}: unknown key {key!r}; there are {', '.join(KEYS)}")
    tables = table.pop("phase", [])
    if not isinstance(tables, list) or not all(isinstance(phase, dict) for phase in tables):
        raise ScenarioError(f"{where}: phase: expected [[phase]] tables, got {tables!r}")
    phases = tuple(_phase(phase, number, where) for number, phase in enumerate(tables, 1))
    try:
        return Scenario(phases, name, **table)
    except BadArgument as error:
        raise ScenarioError(f"{where}: {error}") from None


def _phase(table: dict[str, Any], number: int, where: str) -> Phase:
    options = dict(table)
    here = f"{where}: phase {number}"
    if "name" not in options:
        raise ScenarioError(f"{here}: name: each [[phase]] needs the name of a workload")
    name = options.pop("name")
    weight = options.pop("weight", 1.0)
    try:
        _check_number("weight", weight, 1e-6, 1e6)
        make_workload(name, options)
    except BadArgument as error:
        raise ScenarioError(f"{here}: {error}") from None
    return Phase(name, weight, options)


def find_scenarios() -> dict[str, Traversable]:
    """The scenarios of the package by name: from the wheel, or else from its source tree."""
    package = files("concmem")
    folders: list[Traversable] = [package / "_scenarios"]
    if isinstance(package, Path):
        folders.append(package.parent / "stress")
    for folder in folders:
        if folder.is_dir():
            found = {
                entry.name.removesuffix(".toml"): entry
                for entry in folder.iterdir()
                if entry.name.endswith(".toml")
            }
            if found:
                return dict(sorted(found.items()))
    return {}


def load_scenario(name: str) -> Scenario:
    """
    The scenario of that name, or from the file at that path.

    Raises:
        ScenarioError: there is none, or it cannot be read, or it is wrong.
    """
    known = find_scenarios()
    source: Traversable = known[name] if name in known else Path(name)
    if name not in known and not source.is_file():
        raise ScenarioError(
            f"{name}: no such scenario file, and none of the names {', '.join(known)}"
        )
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{name}: cannot be read: {error}") from None
    return parse_scenario(text, Path(name).stem, str(source) if name not in known else name)
