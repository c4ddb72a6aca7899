"""
One execution: who runs, who could, and the hand-over from one to the other.

One task runs at a time; its thread has the *baton*, and everything here belongs to it. At a scheduling
point (:meth:`Execution.point`) the running thread itself asks the scheduler. If that picks somebody else,
it opens the gate of that task's thread and waits at its own; if it picks the same task, nothing happens at
all. There is no scheduler thread and nothing polls. While no task runs, ``current`` is ``None`` and the
baton is the *driver's*: the thread that made the execution, for boot and for checks.

Before the first decision every body has run to its first point, in the order of the CPUs: what it does
until then is nobody else's business.

The rest of the state of a CPU, a lock or a queue is in those; ``enabled`` is kept in line with it by
:meth:`Execution.update`, whenever something changes that decides whether a task's operation would block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from concmem.errors import Deadlock, ExecutionAborted
from concmem.explore import operation as op
from concmem.explore.stuck import (
    Finding,
    check_livelock,
    describe_wait,
    find_cycle,
    fire_earliest,
    hang,
    lost_wakeup,
    nobody_left,
    subject_of,
    too_long,
)
from concmem.explore.task import ControlledCpu, Task
from concmem.units import HZ

if TYPE_CHECKING:
    from concmem.explore.crew import Gate
    from concmem.explore.lockdep import Validator
    from concmem.explore.locks import ControlledLock
    from concmem.explore.scheduler import Scheduler
    from concmem.explore.waitqueue import Waiter
    from concmem.explore.watch import Field

STEP_NS: Final = 1000
"""Nanoseconds of model time that a step takes."""

BOOT_STEPS: Final = 1000
"""A kernel thread that is started at boot runs at once, until it waits or for so many steps."""

PATIENCE: Final = 10.0

LOOKS: Final = 10
"""Times that the driver looks for a step within its patience. It shares the host CPU with what it looks at, so
a host that stands still for a while, which a virtual machine does, costs one look and not all patience."""

LAST_LOOKS: Final = 30
"""Times a tenth of a second that an impatient Ctrl-C waits for a CPU that may hang."""

LIVELOCK_CHECK: Final = 1000
"""Calls of ``cpu_relax`` between two looks whether anything has changed."""


class Execution:
    """
    The state of one execution.

    Args:
        scheduler: who decides.
        gate: where the driver waits.
        max_steps: more is reported as livelock or step limit.
        stop_on_failure: end everything when a body fails; else the others go on.
        early_timeouts: how many time-outs may fire while others could still run; all others fire only
            when nobody can.
        spurious_wakeups: how many waiters may wake without a reason.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        gate: Gate,
        *,
        max_steps: int = 1 << 62,
        stop_on_failure: bool = False,
        early_timeouts: int = 0,
        spurious_wakeups: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.max_steps = max_steps
        self.stop_on_failure = stop_on_failure
        self.early_timeouts = early_timeouts
        self.spurious_wakeups = spurious_wakeups
        self.patience = PATIENCE
        """Seconds without a step after which the running CPU is taken to hang."""
        self.interrupted = False
        """Whether it was broken off by Ctrl-C."""
        self.hung = False
        """Whether a CPU hangs that could not be made to give the baton back."""
        self.enabled: list[Task] = []
        """Tasks whose pending operation would not block, by `Task.index`."""
        self.version = 0
        """Changes whenever `enabled` does."""
        self.current: Task | None = None
        """Who runs, or took the last step; ``None``: the driver."""
        self.step = 0
        """Steps taken."""
        self.unchosen = 0
        """Of these, steps that the scheduler did not choose, so that somebody could look in between."""
        self.unoffered = 0
        """Sleeps that could have ended spuriously, too, but were only offered their time-out."""
        self.trace: list[Any] = []
        """Task, kind, object of each step, and of notes (`operation.NOTES`); flat."""
        self.looks: list[tuple[str, Any]] = []
        """
        What the running task has seen of the harness besides its operations: kind, object. No points, but
        their place among the steps of others may matter. Who reads them empties the list.
        """
        self.fired: Waiter | None = None
        """Whose time-out came last because nobody could go on."""
        self.deviations: list[tuple[int, int]] = []
        """The schedule so far, see `Schedule`."""
        self.cpus: list[ControlledCpu] = []
        self.finding: Finding | None = None
        """What is wrong, once something is."""
        self.scheduler_error: BaseException | None = None
        """What the scheduler has raised."""
        self.aborting = False
        self.unfinished = 0
        """Bodies that have not ended; kernel threads are not counted."""
        self.driver = Task(None, -1, "driver", False)
        self.driver.gate = gate
        self.timers: list[Waiter] = []
        self.early_sleepers: list[Waiter] = []
        """Of all sleepers, those that the scheduler may wake by a time-out, or for no reason."""
        self.resting: list[Task] = []
        """Tasks that have yielded (``cpu_relax``) and let others run first."""
        self.fields: dict[tuple[int, str], Field] = {}
        """Watched fields that were accessed."""
        self.lockdep: Validator | None = None
        """The lock validator, if it is on."""
        self.task_exits: list[Callable[[], None]] = []
        self.on_body_failure: Callable[[Task, BaseException], None] = lambda _task, _error: None
        self.on_stop: Callable[[], None] = lambda: None
        """Called when nobody is to take another step, and nothing is unwound yet."""
        self._goal: Callable[[], bool] | None = None
        self._paused = self.driver
        self._waiting_ns = 0
        self._relaxed = 0
        self._checked_at = 0
        self._to_start: deque[Task] = deque()
        self._announcing = False
        self._choose: Callable[[Sequence[Task], Task], Task] = scheduler.choose
        self.stops: Any = None
        """The machine's `Stops`; asked when nobody is enabled."""

    # -- the scheduling point

    def point(self, me: Task) -> None:
        """*me*, which is enabled, has announced its operation; on return it may do it."""
        try:
            chosen = self._choose(self.enabled, me)
        except BaseException as error:
            self.broken(error)
        if chosen is not me:
            self._leave(me, chosen)
        self.step = step = self.step + 1
        if step > self.max_steps:
            too_long(self)
        self.trace += (me, me.kind, me.object)
        if self.resting:
            self._has_run(me)

    def wait(self, me: Task) -> None:
        """The same for a task that is not enabled: on return it is, and may go on."""
        self._leave(me, self._pick())
        self.step = step = self.step + 1
        if step > self.max_steps:
            too_long(self)
        self.trace += (me, me.kind, me.object)
        if self.resting:
            self._has_run(me)

    def _pick(self) -> Task:
        """Who goes on, where perhaps nobody is enabled."""
        while not self._announcing and not self.enabled:
            if self.finding is not None or self.aborting or self.scheduler_error is not None:
                raise ExecutionAborted
            if self.interrupted:
                return self.driver
            if self.resting:
                for task in list(self.resting):
                    self._stop_resting(task)
            elif self.stops is not None and self.stops.look():
                continue
            elif self._is_over():
                self._stopped()
                return self.driver
            elif self.timers:
                lost_wakeup(self)
                fire_earliest(self)
            else:
                nobody_left(self)
                return self.driver
        assert self.current is not None
        try:
            return self._choose(self.enabled, self.current)
        except BaseException as error:
            self.broken(error)

    def _is_over(self) -> bool:
        return self.unfinished == 0 if self._goal is None else self._goal()

    def _leave(self, me: Task, chosen: Task) -> None:
        """Hand over to *chosen*; return when it is *me*'s turn."""
        while True:
            self._switch_to(chosen)
            if chosen.gate is not me.gate:
                chosen.gate.open()
                # From here on others run. Nothing of the execution may be touched.
                me.gate.wait()
                if self.aborting:
                    raise ExecutionAborted
                chosen = self.current  # type: ignore[assignment]
            if chosen is me:
                return
            self._take_interrupt(me.cpu)
            chosen = self._pick()

    def _switch_to(self, chosen: Task) -> None:
        """Make *chosen* the current task, and note it if that was not the default."""
        current = self.current
        if chosen is self.driver:
            self.current = None
            return
        if not self._announcing and current is not None and chosen is not current:
            enabled = self.enabled
            k = enabled.index(chosen)
            if current.enabled:
                self.deviations.append((self.step, k - (current.index < chosen.index)))
            elif k:
                self.deviations.append((self.step, k - 1))
        self.current = chosen

    # -- who is enabled

    def update(self, task: Task) -> None:
        """Bring `enabled` in line with the state of *task*."""
        ready = (
            task.kind is not None
            and task.blocked is None
            and not task.suspended
            and task.resting is None
        )
        if ready == task.enabled:
            return
        if ready and task.kind is op.ACQUIRE and task.object.owner is not None:
            # It was interrupted, or rested, when somebody else took the lock that it is about to take.
            task.object.blocked.append(task)
            self.block(task, task.object)
            return
        task.enabled = ready
        self.version += 1
        enabled = self.enabled
        if ready:
            at = len(enabled)
            while at and enabled[at - 1].index > task.index:
                at -= 1
            enabled.insert(at, task)
        else:
            enabled.remove(task)
            if self.resting:
                self._has_run(task)

    def update_irq(self, cpu: ControlledCpu) -> None:
        """Offer the interrupts of *cpu* to the scheduler, if it could take one now."""
        irq = cpu.irq
        if cpu.in_interrupt:
            return
        spins_deaf = getattr(cpu.main.blocked, "irqsave", False)
        if cpu.interrupts and cpu.irqs_enabled and not spins_deaf:
            irq.kind, irq.object = op.IRQ, cpu
        else:
            irq.kind = None
        self.update(irq)

    def block(self, task: Task, on: Any) -> None:
        """*task* cannot do its pending operation because of *on*."""
        task.blocked = on
        self.update(task)
        if task.cpu.interrupts:
            self.update_irq(task.cpu)

    def unblock(self, task: Task) -> None:
        """*task* can go on."""
        task.blocked = None
        self.update(task)
        if task.cpu.interrupts:
            self.update_irq(task.cpu)

    def disable_rivals(self, lock: ControlledLock, me: Task) -> None:
        """
        *me* has taken *lock*, which other enabled tasks have announced to take.

        As `block` for each, but for the cost: locks are taken and given up all the time.
        """
        rivals = [
            task
            for task in self.enabled
            if task.object is lock and task is not me and task.kind is op.ACQUIRE
        ]
        self.version += 1
        for task in rivals:
            task.blocked = lock
            task.enabled = False
            self.enabled.remove(task)
            lock.blocked.append(task)
            if self.resting:
                self._has_run(task)
            if task.cpu.interrupts:
                self.update_irq(task.cpu)

    def enable_rivals(self, tasks: list[Task]) -> None:
        """The lock that all of *tasks*, which are cleared, waited for is free. As `unblock` for each."""
        enabled = self.enabled
        self.version += 1
        for task in tasks:
            task.blocked = None
            if task.suspended or task.resting is not None:
                continue
            task.enabled = True
            at = len(enabled)
            while at and enabled[at - 1].index > task.index:
                at -= 1
            enabled.insert(at, task)
            if task.cpu.interrupts:
                self.update_irq(task.cpu)
        tasks.clear()

    # -- yielding

    def relax(self, me: Task) -> None:
        """*me* waits for another CPU without sleeping: let every other task run first."""
        me.kind, me.object = op.RELAX, None
        self.point(me)
        others = {task for task in self.enabled if task is not me}
        if others:
            me.resting = others
            self.resting.append(me)
            self.update(me)
        self._relaxed += 1
        if self._relaxed % LIVELOCK_CHECK == 0:
            self._checked_at = check_livelock(self, self._checked_at)

    def _has_run(self, task: Task) -> None:
        """*task* took a step, or cannot: who rested until then may be chosen again."""
        for rester in list(self.resting):
            if rester.resting is not None:
                rester.resting.discard(task)
                if not rester.resting:
                    self._stop_resting(rester)

    def _stop_resting(self, task: Task) -> None:
        self.resting.remove(task)
        task.resting = None
        self.update(task)

    # -- interrupts and bodies, on their CPU's thread

    def _take_interrupt(self, cpu: ControlledCpu) -> None:
        """Run the first of the interrupts that wait, with interrupts disabled."""
        irq, main = cpu.irq, cpu.main
        self.step += 1
        self.trace += (irq, op.IRQ, cpu)
        if self.resting:
            self._has_run(irq)
        cpu.nr_due = max(0, cpu.nr_due - 1)
        self.run_handler(cpu, cpu.interrupts.popleft())
        irq.kind = None
        self.update(irq)
        self.update_irq(cpu)
        self.current = main

    def take_due_interrupts(self, cpu: ControlledCpu) -> None:
        """Interrupts have just been enabled: take those that came meanwhile, as hardware does."""
        while cpu.nr_due and not cpu.in_interrupt:
            self._take_interrupt(cpu)

    def run_handler(self, cpu: ControlledCpu, handler: Callable[[], Any]) -> None:
        """Run *handler* here and now, as the CPU's interrupt."""
        enabled, nested, main = cpu.irqs_enabled, cpu.in_interrupt, cpu.main
        before = self.current
        cpu.irqs_enabled = False
        cpu.in_interrupt = True
        cpu.nr_interrupts += 1
        main.suspended = True
        self.update(main)
        self.current = cpu.irq
        cpu.irq.kind, cpu.irq.object = op.IRQ, cpu
        self.update(cpu.irq)
        try:
            handler()
        except ExecutionAborted:
            raise
        except BaseException as error:
            self.on_body_failure(cpu.irq, error)
        cpu.in_interrupt = nested
        cpu.irqs_enabled = enabled
        if not nested:
            if cpu.irq.held:
                self.leaked(cpu.irq)
            cpu.irq.kind = None
            self.update(cpu.irq)
            main.suspended = False
            self.update(main)
            self.update_irq(cpu)
        self.current = before

    def work(self, cpu: ControlledCpu) -> None:
        """On the CPU's thread, which was idle: somebody has picked one of its tasks."""
        cpu.active = True
        try:
            while True:
                if self.current is cpu.irq:
                    self._take_interrupt(cpu)
                # Perhaps an interrupt has queued one; or the one before ended the execution, and is enabled.
                self._run_bodies(cpu)
                chosen = self._pick()
                self._switch_to(chosen)
                if chosen.gate is not cpu.main.gate:
                    break
        except ExecutionAborted:
            self.current = None
            chosen = self.driver
        cpu.active = False
        chosen.gate.open()

    def _run_bodies(self, cpu: ControlledCpu) -> None:
        main = cpu.main
        while cpu.run_queue:
            job = cpu.run_queue.popleft()
            self.trace += (main, op.STARTED, cpu)
            self._run_body(main, job)
            if main.held:
                self.leaked(main)
            cpu.irqs_enabled = True
            if cpu.interrupts:
                self.update_irq(cpu)
        main.kind = None
        self.update(main)

    def _run_body(self, main: Task, job: Any) -> None:
        try:
            try:
                job.result = job.fn(*job.args)
            finally:
                for task_exit in self.task_exits:
                    task_exit()
        except ExecutionAborted:
            raise
        except BaseException as error:
            job.error = error
        job.done = True
        self.trace += (main, op.DONE, job)
        if job.counts:
            self.unfinished -= 1
        for waiter in job.waiters:
            self.unblock(waiter)
        job.waiters.clear()
        if job.error is not None:
            self.on_body_failure(main, job.error)
        job.finish()

    def leaked(self, task: Task) -> None:
        """*task* has ended and holds locks: nobody else will ever get them."""
        locks = ", ".join(lock.name for lock in task.held)
        task.held.clear()
        if self.stop_on_failure:
            self.fail("lock-leak", f"{task.name} ended while it held {locks}", task, locks)

    # -- findings

    def fail(
        self, kind: str, error: BaseException | str, task: Task | None, subject: str = ""
    ) -> NoReturn:
        """Something is wrong: end the execution. Does not return."""
        if self.finding is None:
            self.finding = Finding(kind, error, task, self.step, subject)
            self._stopped()
        self._choose = _abort
        raise ExecutionAborted

    def _stopped(self) -> None:
        """Nobody takes another step, unless for a check."""
        if self._goal is None:
            self.on_stop()

    def broken(self, error: BaseException) -> NoReturn:
        """The scheduler raised *error*, which is none of the running body's business."""
        if not isinstance(error, ExecutionAborted) and self.scheduler_error is None:
            self.scheduler_error = error
            self._stopped()
        self._choose = _abort
        raise ExecutionAborted

    def cycle(self, me: Task) -> None:
        """*me* has just been blocked: does it wait for itself? Reported while others still run."""
        circle = find_cycle(me)
        if circle:
            text = "a circle: " + "; ".join(map(describe_wait, circle))
            self.fail("deadlock", text, me, subject_of(circle))

    def look(self, kind: str, obj: object) -> None:
        """The running task, if there is one, looks at *obj*."""
        if self.current is not None:
            self.looks.append((kind, obj))

    def nr_tasks(self) -> int:
        """Tasks that have taken a step."""
        return len(set(self.trace[::3]))

    # -- time

    @property
    def now_ns(self) -> int:
        """Model time: a microsecond a step, and what time-outs have waited for."""
        return self._waiting_ns + self.step * STEP_NS

    def pass_time_until(self, ns: int) -> None:
        self._waiting_ns += max(0, ns - self.now_ns)

    @property
    def jiffies(self) -> int:
        return self.now_ns * HZ // 1_000_000_000

    # -- the driver

    def start(self, tasks: Sequence[Task]) -> None:
        """Bodies have been queued for *tasks*, which were idle: they begin when CPUs run next."""
        self._to_start.extend(tasks)

    def begin_started(self, me: Task) -> None:
        """On a CPU: have tasks that *me* has started announce their first operations, then go on."""
        if not self._to_start or self._announcing:
            return
        choose, self._announcing = self._choose, True

        def announce(_enabled: Sequence[Task], _current: Task) -> Task:
            if self._to_start:
                return self._to_start.popleft()
            self._announcing = False
            self._choose = choose
            self.current = me
            return me

        self._choose = announce
        self._leave(me, self._pick())

    def drive(self, goal: Callable[[], bool] | None = None) -> None:
        """
        On the driver: let CPUs run until *goal*, looked at before each step; without one until every body
        has ended and nobody can go on.
        """
        if goal is None:
            self._run(self.scheduler.choose)
            return
        if goal():
            return
        deviations = len(self.deviations)
        self._goal = goal
        self._run(self._choose_until(goal))
        self._goal = None
        if self.stop_on_failure:
            del self.deviations[deviations:]
        if self.finding is not None:
            finding, self.finding = self.finding, None
            error = finding.error
            raise error if isinstance(error, BaseException) else Deadlock(error)

    def drive_steps(self, nr: int) -> bool:
        """As `drive`, but pause between two operations once *nr* steps were taken; whether all is over."""
        stop, choose = self.step + nr, self.scheduler.choose
        paused = False

        def choose_until(enabled: Sequence[Task], current: Task) -> Task:
            nonlocal paused
            if self.step < stop:
                return choose(enabled, current)
            paused, self._paused = True, current
            return self.driver

        self._run(choose_until)
        return not paused

    def boot(self, task: Task) -> None:
        """On the driver: run a kernel thread that has just been made until it waits."""
        left = BOOT_STEPS

        def stay(enabled: Sequence[Task], current: Task) -> Task:
            nonlocal left
            left -= 1
            if left < 0:
                return self.driver
            return current if current.enabled or not enabled else enabled[0]

        trace, step = len(self.trace), self.step
        self._to_start.append(task)
        others = [each for each in self.enabled if each is not task]
        for each in others:  # they have their turn when CPUs run
            each.suspended = True
            self.update(each)
        self._goal = lambda: True  # as soon as it waits
        self._run(stay)
        self._goal = None
        for each in others:
            each.suspended = False
            self.update(each)
        del self.trace[trace:]
        self.step = step
        self.deviations.clear()

    def _run(self, choose: Callable[[Sequence[Task], Task], Task]) -> None:
        """Give the baton away, and wait until it comes back."""
        driver = self.driver
        self.current = driver
        if self._goal is None:
            # After a pause the default is whom it has interrupted, as if there had been none.
            self.current, self._paused = self._paused, driver
        if self._to_start:
            self._announcing = True

            def announce(_enabled: Sequence[Task], _current: Task) -> Task:
                if self._to_start:
                    return self._to_start.popleft()
                self._announcing = False
                self.current = driver
                self._choose = choose
                chosen = self._pick()
                self._switch_to(chosen)
                return chosen

            self._choose = announce
        else:
            self._choose = choose
        try:
            chosen = self._pick()
        except ExecutionAborted:
            self.current = None
            return
        self._switch_to(chosen)
        if chosen is not driver:
            chosen.gate.open()
            self._wait_for_baton()

    def _wait_for_baton(self) -> None:
        gate = self.driver.gate
        try:
            step, looks = -1, 0
            while not gate.is_open(self.patience / LOOKS):
                if self.step != step:
                    step, looks = self.step, 0
                elif looks == LOOKS:
                    hang(self)
                    return
                looks += 1
            gate.wait()
        except BaseException:  # Ctrl-C: have the baton back before anything else
            self._choose = lambda _enabled, _current: self.driver
            # It may have come back just before the signal: then the gate is closed again already.
            for _ in range(LAST_LOOKS):
                if gate.is_open(0.1):
                    gate.wait()
                    break
                if self.current is None:
                    break
            else:
                self.hung = True
            raise

    def interrupt(self) -> None:
        """Ctrl-C, while CPUs run: have the baton back at the next point. Called on the driver's thread."""
        self.interrupted = True
        self._choose = lambda _enabled, _current: self.driver

    def _choose_until(self, goal: Callable[[], bool]) -> Callable[[Sequence[Task], Task], Task]:
        # What the driver asks for in a check is not part of the schedule.
        choose = _default if self.stop_on_failure else self.scheduler.choose

        def choose_until(enabled: Sequence[Task], current: Task) -> Task:
            task, self.current = self.current, None  # the goal is no step
            reached = goal()
            self.current = task
            return self.driver if reached else choose(enabled, current)

        return choose_until

    def abort(self) -> None:
        """On the driver: unwind whatever the CPUs are in the middle of."""
        self.aborting = True
        self._choose = _abort
        for cpu in self.cpus:
            while cpu.active:
                self.current = cpu.main
                cpu.main.gate.open()
                self.driver.gate.wait()
        self.current = None


def _default(enabled: Sequence[Task], current: Task) -> Task:
    """Stay on the current task, else the lowest enabled one."""
    return current if current.enabled else enabled[0]


def _abort(_enabled: Sequence[Task], _current: Task) -> Task:
    raise ExecutionAborted
