"""Where a CPU must not sleep, and what runs with interrupts disabled."""

from __future__ import annotations

import pytest

import concmem
from concmem.errors import BadArgument, SleepInAtomic


def test_sleeping_under_a_spinlock_is_found_by_jitter() -> None:
    """A mutex taken while a spinlock is held is reported, although nobody contends for either."""
    rt = concmem.JitterRuntime(1)
    spinlock, mutex = rt.spinlock("spin"), rt.mutex("sleep")

    def body() -> None:
        with spinlock, mutex:
            pass

    try:
        with pytest.raises(ExceptionGroup) as caught:
            rt.run([body])
        assert isinstance(caught.value.exceptions[0], SleepInAtomic)
        assert "spinlock" in str(caught.value.exceptions[0])
        assert rt.run([rt.smp_processor_id]) == [0]
    finally:
        rt.shutdown()


def test_stop_machine_runs_with_interrupts_disabled() -> None:
    """An interrupt posted while a CPU has stopped the machine waits until it goes on."""
    rt = concmem.JitterRuntime(1, hesitation=0.0)
    order: list[str] = []

    def stopped() -> None:
        rt.cpus[0].post_interrupt(lambda: order.append("interrupt"))
        rt.atomic(0, "point").inc()  # a point, where an enabled CPU would take it
        order.append("stopped")

    try:
        rt.run([lambda: rt.stop_machine(stopped)])
        assert order == ["stopped", "interrupt"]
    finally:
        rt.shutdown()


def test_a_guard_that_is_no_lock_is_named() -> None:
    """A typo in __guarded_by__ is found when the object is watched, in every runtime."""

    class Box:
        __guarded_by__ = {"value": "lokc"}

        def __init__(self, rt: concmem.Runtime) -> None:
            self.lock = rt.spinlock("box")
            self.value = 0

    for runtime_class in (concmem.FreeRuntime, concmem.JitterRuntime):
        rt = runtime_class(1)
        try:
            with pytest.raises(BadArgument, match="'value' is guarded by 'lokc'"):
                rt.watch(Box(rt))
        finally:
            rt.shutdown()


def test_one_runtime_carries_one_machine() -> None:
    """A second machine on the same runtime is refused: their hot data would mix."""
    rt = concmem.FreeRuntime(1)
    with (
        concmem.Machine(memory="4M", runtime=rt),
        pytest.raises(BadArgument, match="runtime: is used by"),
    ):
        concmem.Machine(memory="4M", runtime=rt)


def test_what_is_no_list_of_bodies_is_refused() -> None:
    """run() names its argument, and runs nothing."""
    rt = concmem.FreeRuntime(2)
    try:
        for bodies in (lambda: 1, [5], ["body"]):
            with pytest.raises(BadArgument, match="bodies"):
                rt.run(bodies)  # type: ignore[arg-type]
    finally:
        rt.shutdown()


def test_a_failure_says_which_cpu() -> None:
    """The exception of a body carries a note with its CPU."""
    rt = concmem.FreeRuntime(2)

    def fail() -> None:
        raise KeyError("x")

    try:
        with pytest.raises(ExceptionGroup) as caught:
            rt.run([None, fail])
        assert caught.value.exceptions[0].__notes__ == ["raised by the body on cpu1"]
    finally:
        rt.shutdown()
