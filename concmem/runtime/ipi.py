"""Interrupts that one CPU sends to others, and how the sender waits for them (``kernel/smp.c``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from concmem.errors import MachineClosed
from concmem.runtime.cpu import Cpu
from concmem.runtime.sleeper import Call, Sleeper


def call(sleeper: Sleeper, target: Cpu, fn: Callable[[], Any], wait: bool) -> Any:
    """*sleeper* has *fn* run on *target*; its result with *wait*."""
    if sleeper is target:
        return _call_here(target, fn, wait)
    if not wait:
        target.post_interrupt(fn)
        return None
    sleeper.assert_may_sleep()  # else two CPUs that call each other wait for ever
    handler = Call(fn, sleeper)
    target.post_interrupt(handler)
    return handler.wait()


def call_each(sleeper: Sleeper, cpus: Sequence[Cpu], fn: Callable[[], Any], wait: bool) -> None:
    """*sleeper*, who may be one of *cpus*, has *fn* run on all of them at the same time."""
    others = [cpu for cpu in cpus if cpu is not sleeper]
    if wait:
        sleeper.assert_may_sleep()
    calls = [Call(fn, sleeper) for _ in others] if wait else []
    handlers: Sequence[Callable[[], Any]] = calls or [fn] * len(others)
    for cpu, handler in zip(others, handlers, strict=True):
        cpu.post_interrupt(handler)
    failures: list[Exception] = []
    if isinstance(sleeper, Cpu) and sleeper in cpus:
        _collect(lambda: _call_here(sleeper, fn, wait), failures)
    for each in calls:
        _collect(each.wait, failures)
    if failures:
        raise ExceptionGroup("on_each_cpu: handlers raised", failures)


def _call_here(cpu: Cpu, fn: Callable[[], Any], wait: bool) -> Any:
    if not wait:
        cpu.run_handler(fn)
        return None
    handler = Call(fn, cpu)
    cpu.run_handler(handler)
    if handler.error is not None:
        raise handler.error
    return handler.result


def _collect(fn: Callable[[], Any], failures: list[Exception]) -> None:
    try:
        fn()
    except MachineClosed:
        raise  # no failure of a handler
    except Exception as error:
        failures.append(error)
