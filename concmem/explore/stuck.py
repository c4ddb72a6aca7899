"""
When nothing goes on: deadlocks, partial ones too, lost wake-ups, livelocks, and executions without end.

*Deadlock*: nobody can go on and some body has not ended; or some tasks wait for each other in a circle, which
is told at once, while others still run. *Lost wake-up*: somebody sleeps although what it waits for is true,
and nobody is left to wake it; a time-out that would save it does not hide that. *Livelock*: everybody spins
(``cpu_relax``) and nothing that any of them could see has changed for long.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from concmem.errors import ExecutionAborted
from concmem.explore import operation as op

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.races import Race
    from concmem.explore.task import Task
    from concmem.explore.waitqueue import Waiter


class Finding(NamedTuple):
    """What is wrong with an execution."""

    kind: str
    error: BaseException | str
    """What was raised, or what a detector has to say."""
    task: Task | None
    """Who did it; ``None`` for checks afterwards."""
    step: int
    subject: str = ""
    """What it is about, without who and when."""
    race: Race | None = None
    """The two accesses of a data race."""


def nobody_left(ex: Execution) -> None:
    """Nobody can go on, and that is not the end. Returns if the driver of a free run is to be told."""
    lost = _lost(ex)
    stuck = stuck_tasks(ex)
    text = "; ".join(describe_wait(task) for task in stuck) or "nobody can go on"
    if not ex.stop_on_failure:
        ex.finding = Finding("lost-wakeup" if lost else "deadlock", text, None, ex.step)
        return
    first = stuck[0] if stuck else None
    kind, why = ("lost-wakeup", lost) if lost else ("deadlock", "nobody can go on")
    ex.fail(kind, f"{why}: {text}", first, subject_of(stuck))


def subject_of(tasks: Sequence[Task]) -> str:
    """What they wait for: the same for every order in which they came to that."""
    return ", ".join(
        sorted({op.name_of(task.blocked) for task in tasks if task.blocked is not None})
    )


def stuck_tasks(ex: Execution) -> list[Task]:
    """Tasks in the middle of something that wait; kernel threads without work are none."""
    tasks = [task for cpu in ex.cpus for task in (cpu.main, cpu.irq)]
    return [
        task
        for task in tasks
        if (task.blocked is not None or task.suspended)
        and not (task.cpu.is_kthread and _is_idle_sleep(task))
    ]


def _is_idle_sleep(task: Task) -> bool:
    return getattr(task.blocked, "queue", None) is not None and not task.held


def describe_wait(task: Task) -> str:
    """What *task* waits for and holds."""
    waits = "is interrupted" if task.suspended else f"waits for {describe(task.blocked)}"
    holds = f" and holds {', '.join(lock.name for lock in task.held)}" if task.held else ""
    return f"{task.name} {waits}{holds}"


def describe(blocked: Any) -> str:
    """What somebody waits for."""
    if hasattr(blocked, "describe"):
        return str(blocked.describe())
    owner = getattr(blocked, "owner", None)
    return op.name_of(blocked) + (f", which {owner.name} holds" if owner is not None else "")


# -- circles


def find_cycle(me: Task) -> list[Task]:
    """*me* was just blocked. The circle of tasks that wait for each other, if that closed one."""
    path = [me]
    task = _waits_for(me)
    while task is not None and task not in path:
        path.append(task)
        task = _waits_for(task)
    return path if task is me else []


def _waits_for(task: Task) -> Task | None:
    """Who alone can let *task* go on, if it waits at all."""
    if task.suspended:
        irq: Task = task.cpu.irq
        return irq if task.cpu.in_interrupt else None
    blocked = task.blocked
    if blocked is None:
        return None
    find = getattr(blocked, "holder_to_wait_for", None)
    found: Task | None = find() if find is not None else None
    return found


# -- lost wake-ups and time-outs


def lost_wakeup(ex: Execution) -> None:
    """Nobody can go on without a time-out: does somebody sleep who should not?"""
    lost = _lost(ex)
    if lost and ex.stop_on_failure:
        stuck = stuck_tasks(ex)
        text = "; ".join(describe_wait(task) for task in stuck)
        ex.fail("lost-wakeup", f"{lost}: {text}", stuck[0] if stuck else None, subject_of(stuck))


def _lost(ex: Execution) -> str:
    for cpu in ex.cpus:
        waiter = cpu.main.blocked
        if getattr(waiter, "queue", None) is None:
            continue
        if waiter.condition is not None:
            if _holds(ex, waiter):
                return (
                    f"{cpu.main.name} sleeps on {waiter.queue.name} although its condition holds, "
                    "and nobody is left to wake it"
                )
        elif waiter.deadline is None and waiter.queue.missed and not cpu.is_kthread:
            return f"{cpu.main.name} sleeps on {waiter.queue.name}, whose wake-up came when nobody slept"
    return ""


def _holds(ex: Execution, waiter: Waiter) -> bool:
    """Whether its condition is true now; looking is no step."""
    current, ex.current = ex.current, None
    try:
        return bool(waiter.condition())  # type: ignore[misc]
    except Exception:
        return False  # it cannot be told from outside
    finally:
        ex.current = current


def fire_earliest(ex: Execution) -> None:
    """Nobody can go on: time passes until the next time-out."""
    waiter = min(ex.timers, key=lambda each: each.deadline or 0)
    ex.pass_time_until(waiter.deadline or 0)
    waiter.fire(ex)


# -- without end


def check_livelock(ex: Execution, since: int) -> int:
    """Fail if nothing has changed in the trace from *since* on; else where to look from next time."""
    kinds = ex.trace[since + 1 :: 3]
    if ex.stop_on_failure and kinds and op.CHANGING.isdisjoint(kinds):
        spinning = ", ".join(dict.fromkeys(task.name for task in ex.trace[since::3]))
        ex.fail(
            "livelock",
            f"{spinning}: spin, and nothing has changed for {len(kinds)} steps",
            ex.current,
        )
    return len(ex.trace)


def too_long(ex: Execution) -> None:
    """The execution has more steps than it may."""
    kinds = ex.trace[len(ex.trace) // 6 * 3 + 1 :: 3]
    if op.CHANGING.isdisjoint(kinds) and op.RELAX in kinds:
        ex.fail("livelock", f"CPUs spin, and nothing changes, until step {ex.step}", ex.current)
    ex.fail("step-limit", f"not at its end after {ex.max_steps} steps", ex.current)


# -- a CPU that never comes to a point


def hang(ex: Execution) -> None:
    """On the driver: the running CPU has not come to a point for long. Report it, and break it off."""
    task = ex.current
    if task is None:
        return
    thread = task.cpu.thread
    frame = sys._current_frames().get(thread.ident)
    stack = "".join(traceback.format_stack(frame)[-6:]) if frame is not None else ""
    ex.finding = Finding(
        "hang", f"{task.name} has run for long without a scheduling point. It is here:\n{stack}",
        task, ex.step, "hang",
    )  # fmt: skip
    ex.aborting = True
    # The only way to stop a thread that runs Python code; one that waits for the host does not notice.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(ExecutionAborted)
    )
    if ex.driver.gate.is_open(1.0):
        ex.driver.gate.wait()
    else:
        ex.hung = True
