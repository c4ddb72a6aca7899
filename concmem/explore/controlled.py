"""
The controlled mode: CPUs are OS threads as ever, but a scheduler owns every switch.

A :class:`ControlledRuntime` by itself behaves like any other runtime, with a scheduler for a host: CPUs run
while somebody waits for them (`run`, ``future.result()``, `call_on`, `stop_machine`), one at a time. The
runner of :func:`concmem.explore.check` makes a fresh one for each execution, on threads that it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from random import Random
from typing import Any, TypeVar, cast

from concmem.errors import (
    BadArgument,
    BadArgumentType,
    Deadlock,
    InterruptFailed,
    MachineClosed,
    SleepInAtomic,
)
from concmem.explore import operation as op
from concmem.explore.crew import Crew
from concmem.explore.execution import Execution
from concmem.explore.jobs import Call, Job, JobFuture
from concmem.explore.locks import (
    ControlledIrqLock,
    ControlledLock,
    ControlledMutex,
    assert_may_sleep,
)
from concmem.explore.rwsem import ControlledRwSem
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers.random_walk import RandomWalk
from concmem.explore.stop import Stops
from concmem.explore.task import ControlledCpu, Task
from concmem.explore.variables import (
    ControlledAtomic,
    ControlledCell,
    ControlledPair,
    ControlledRefcount,
    ControlledWords,
)
from concmem.explore.waitqueue import ControlledWaitQueue
from concmem.explore.watch import watch
from concmem.runtime import api
from concmem.runtime.guarded import check_guards
from concmem.runtime.lockdep import Lockdep
from concmem.runtime.percpu import FreePerCpu, NoArea
from concmem.units import MAX_NR_CPUS

T = TypeVar("T")

_FIRST_OFFSET = api.HOT_FREE + 1


class ControlledRuntime(api.Runtime):
    """
    CPUs under the control of a scheduler.

    Args:
        nr_cpus: 1 to 256.
        seed: of `rng`, and of the scheduler if none is given.
        scheduler: who decides; by default a random walk.
        crew: the threads to use; by default its own, which end with it.
        execution: the state to use; by default a new one with *scheduler*.
        elastic: *nr_cpus* is a guess; `want_cpus` may ask for others.
    """

    name = "controlled"
    lockstat = None

    def __init__(
        self,
        nr_cpus: int = 2,
        *,
        seed: int = 0,
        scheduler: Scheduler | None = None,
        crew: Crew | None = None,
        execution: Execution | None = None,
        elastic: bool = False,
    ) -> None:
        if isinstance(nr_cpus, bool) or not isinstance(nr_cpus, int):
            raise BadArgumentType(f"cpus: expected a whole number, got {nr_cpus!r}")
        if not 1 <= nr_cpus <= MAX_NR_CPUS:
            raise BadArgument(f"cpus: must be 1 to {MAX_NR_CPUS}, got {nr_cpus}")
        self.nr_cpus = nr_cpus
        self.elastic = elastic
        self.seed = seed
        self._own_crew = crew is None
        self.crew = crew if crew is not None else Crew(pin=False)
        if execution is None:
            if scheduler is None:
                scheduler = RandomWalk()
            scheduler.reset(seed)
            execution = Execution(scheduler, self.crew.gate)
            scheduler.begin(execution)
        self.execution = self.crew.execution = execution
        self.cpus: list[ControlledCpu] = execution.cpus
        self.areas: list[list[Any]] = []
        self._factories: list[Callable[[], Any]] = []
        self._failures: list[BaseException] = []
        self._jobs: list[Job] = []
        self._words: dict[int, dict[int, Any]] = {}
        self._owner: Any = None
        self._closed = False
        self._stops = execution.stops = Stops(execution)
        execution.on_body_failure = self._on_body_failure
        self._bind_hot_paths(execution)
        for number in range(nr_cpus):
            self._add_cpu(f"cpu{number}")

    def _bind_hot_paths(self, ex: Execution) -> None:
        nowhere = NoArea()

        def area() -> list[Any]:
            me = ex.current
            return me.area if me is not None else nowhere

        def smp_processor_id() -> int:
            me = ex.current
            return cast(int, (me.area if me is not None else nowhere)[1].number)

        self.area = area
        self.smp_processor_id = smp_processor_id
        self.cond_resched = self._stops.cond_resched

    @property
    def lockdep(self) -> Lockdep | None:
        validator = self.execution.lockdep
        return validator.dep if validator is not None else None

    def claim(self, owner: Any) -> None:
        """One machine for each runtime. Raises `BadArgument` if another has it already."""
        if self._owner is not None:
            raise BadArgument(f"runtime: is used by {self._owner!r} already")
        self._owner = owner

    # -- CPUs

    def want_cpus(self, nr_cpus: int) -> None:
        """
        Somebody needs *nr_cpus* CPUs.

        Raises:
            OtherCpus: to be called again with that number; only if the number is a guess.
        """
        if self.elastic and nr_cpus != self.nr_cpus:
            raise OtherCpus(nr_cpus)

    def _add_cpu(self, name: str) -> ControlledCpu:
        if self._closed:
            raise MachineClosed(f"{name}: the machine has been shut down")
        cpu = self.crew.cpu(len(self.cpus), name, self.nr_cpus)
        if self._factories:
            cpu.area += [factory() for factory in self._factories]
        self.cpus.append(cpu)
        self.areas.append(cpu.area)
        return cpu

    def allocate_percpu(self, factory: Callable[[], Any]) -> int:
        """Add a variable to every area; its offset."""
        if self._closed:
            raise MachineClosed("per-CPU data: the machine has been shut down")
        for area in self.areas:
            area.append(factory())
        self._factories.append(factory)
        return len(self._factories) - 1 + _FIRST_OFFSET

    def free_percpu(self, variable: api.PerCpu[Any], poison: object) -> None:
        self._factories[variable.offset - _FIRST_OFFSET] = lambda: poison
        for area in self.areas:
            area[variable.offset] = poison

    def check_cpu(self, cpu: int) -> ControlledCpu:
        """The CPU of that number, or `BadArgument`."""
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise BadArgumentType(f"cpu: expected a CPU number, got {cpu!r}")
        if not 0 <= cpu < self.nr_cpus:
            raise BadArgument(f"cpu: there is no CPU {cpu}, only 0 to {self.nr_cpus - 1}")
        return self.cpus[cpu]

    def queue_job(self, cpu: ControlledCpu, fn: Callable[..., Any], args: tuple[Any, ...]) -> Job:
        """
        Put a body into the run queue of *cpu*.

        An idle CPU begins at once, and runs on to the first point of the body, which is no decision.
        """
        if self._closed:
            raise MachineClosed(f"{cpu.name} has been shut down")
        ex = self.execution
        job = Job(cpu, fn, args, counts=not cpu.is_kthread)
        ex.unfinished += job.counts
        self._jobs.append(job)
        cpu.run_queue.append(job)
        main = cpu.main
        if main.kind is None:
            main.kind = op.STARTED
            main.object = cpu
            if not cpu.in_interrupt:  # else as soon as that has ended
                ex.start([main])
            ex.update(main)
        return job

    def submit(self, cpu: int, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        target = self.check_cpu(cpu)
        ex = self.execution
        me = ex.current
        if me is not None:
            me.kind, me.object = op.SPAWN, target
            ex.point(me)
        job = self.queue_job(target, fn, args)
        future: JobFuture[T] = JobFuture(ex, job)
        if me is not None:
            ex.begin_started(me)
        return future

    def run(self, bodies: Sequence[Callable[[], T] | None]) -> list[T | None]:
        if not isinstance(bodies, Sequence) or not all(
            body is None or callable(body) for body in bodies
        ):
            raise BadArgumentType(f"bodies: expected a list of functions or None, got {bodies!r}")
        if len(bodies) > self.nr_cpus:
            raise BadArgument(f"bodies: {len(bodies)} of them, but only {self.nr_cpus} CPUs")
        if self.execution.current is not None:
            raise SleepInAtomic("run() waits for all CPUs: call it from a thread that is no CPU")
        if self._closed:
            raise MachineClosed("the machine has been shut down")
        jobs = [
            None if body is None else self.queue_job(cpu, body, ())
            for cpu, body in zip(self.cpus, bodies, strict=False)
        ]
        mine = [job for job in jobs if job is not None]
        posted = self.cpus[: self.nr_cpus]
        self.execution.drive(
            lambda: (
                all(job.done for job in mine)
                and not any(cpu.interrupts or cpu.in_interrupt for cpu in posted)
            )
        )
        failures: list[BaseException] = []
        for number, job in enumerate(jobs):
            if job is not None and job.error is not None:
                job.error.add_note(f"raised by the body on cpu{number}")
                failures.append(job.error)
        failures += self._failures
        self._failures.clear()
        self._jobs = [job for job in self._jobs if not job.done]
        if failures:
            raise BaseExceptionGroup(f"{len(failures)} failure(s) on the CPUs", failures)
        return [None if job is None else job.result for job in jobs]

    def _on_body_failure(self, task: Task, error: BaseException) -> None:
        """A body or handler has raised."""
        ex = self.execution
        if ex.stop_on_failure:
            ex.fail(kind_of(error), error, task)
        if task.is_irq:
            failure = InterruptFailed(f"an interrupt handler on {task.cpu.name} raised {error!r}")
            failure.__cause__ = error
            self._failures.append(failure)
        elif task.cpu.is_kthread:
            error.add_note(f"raised in kernel thread {task.cpu.name}")
            self._failures.append(error)

    def report_failure(self, error: Exception) -> None:
        ex = self.execution
        if ex.stop_on_failure and ex.current is not None:
            ex.fail(kind_of(error), error, ex.current)
        self._failures.append(error)

    def take_failures(self) -> list[BaseException]:
        """What was reported and not raised so far."""
        failures, self._failures = self._failures, []
        return failures

    def kthread_run(self, fn: Callable[[], None], name: str) -> int:
        ex = self.execution
        cpu = self._add_cpu(name)
        self.queue_job(cpu, fn, ())
        if ex.current is None:
            ex.boot(cpu.main)
        else:
            ex.begin_started(ex.current)
        return cpu.number

    def at_task_exit(self, fn: Callable[[], None]) -> None:
        self.execution.task_exits.append(fn)

    # -- interrupts

    def in_interrupt(self) -> bool:
        me = self.execution.current
        return me is not None and me.cpu.in_interrupt

    def might_sleep(self) -> None:
        me = self.execution.current
        if me is not None:
            assert_may_sleep(self.execution, me)

    def cpu_relax(self) -> None:
        me = self.execution.current
        if me is None:
            self.smp_processor_id()  # raises NotACpu
            return
        self.execution.relax(me)

    def local_irq_save(self) -> bool:
        ex = self.execution
        me = ex.current
        if me is None:
            return False  # a thread that is no CPU gets no interrupts
        me.kind, me.object = op.IRQ_OFF, me.cpu
        ex.point(me)
        cpu = me.cpu
        enabled: bool = cpu.irqs_enabled
        cpu.irqs_enabled = False
        if cpu.interrupts:
            ex.update_irq(cpu)
        return enabled

    def local_irq_restore(self, flags: bool) -> None:
        ex = self.execution
        me = ex.current
        if me is None:
            return
        me.kind, me.object = op.IRQ_ON, me.cpu
        ex.point(me)
        if flags:
            cpu = me.cpu
            cpu.irqs_enabled = True
            if ex.lockdep is not None:
                ex.lockdep.irqs_on(cpu)
            if cpu.interrupts:
                ex.take_due_interrupts(cpu)
                ex.update_irq(cpu)

    def post_interrupt(self, cpu: ControlledCpu, handler: Callable[[], Any]) -> None:
        """Have *handler* come to *cpu* at some later point."""
        if self._closed:
            raise MachineClosed(f"{cpu.name} has been shut down")
        cpu.interrupts.append(handler)
        if not cpu.irqs_enabled:
            cpu.nr_due = len(cpu.interrupts)
        self.execution.update_irq(cpu)

    def call_on(self, cpu: int, fn: Callable[[], Any], wait: bool = True) -> Any:
        return self._call(self.check_cpu(cpu), fn, wait)

    def call_on_any(self, number: int, fn: Callable[[], Any]) -> Any:
        return self._call(self.cpus[number], fn, wait=True)

    def _call(self, target: ControlledCpu, fn: Callable[[], Any], wait: bool) -> Any:
        ex = self.execution
        me = ex.current
        call = Call(ex, target, fn, me if wait else None)
        if me is None:
            self.post_interrupt(target, call if wait else fn)
            if wait:
                ex.drive(lambda: call.done)
            return call.outcome() if wait else None
        me.kind, me.object = op.SEND, target
        ex.point(me)
        if target is me.cpu:
            call.caller = None
            ex.run_handler(target, call if wait else fn)
            return call.outcome() if wait else None
        if wait:
            assert_may_sleep(ex, me)
        self.post_interrupt(target, call if wait else fn)
        return self._wait_for_call(call) if wait else None

    def _wait_for_call(self, call: Call) -> Any:
        ex = self.execution
        me = ex.current
        if me is None:
            ex.drive(lambda: call.done)
            return call.outcome()
        me.kind, me.object = op.RESUME, call
        if call.done:
            ex.point(me)
        else:
            call.caller = me
            ex.block(me, call)
            ex.cycle(me)
            ex.wait(me)
        return call.outcome()

    def on_each_cpu(self, fn: Callable[[], Any], wait: bool = True) -> None:
        ex = self.execution
        me = ex.current
        if me is not None:
            if wait:
                assert_may_sleep(ex, me)
            me.kind, me.object = op.SEND, self
            ex.point(me)
        here = me.cpu if me is not None else None
        calls = [Call(ex, cpu, fn, None) for cpu in self.cpus[: self.nr_cpus] if cpu is not here]
        for call in calls:
            self.post_interrupt(call.cpu, call if wait else fn)
        failures: list[Exception] = []
        if here is not None and not here.is_kthread:
            call = Call(ex, here, fn, None)
            ex.run_handler(here, call if wait else fn)
            calls.insert(0, call)
        if not wait:
            return
        for call in calls:
            try:
                self._wait_for_call(call)
            except (MachineClosed, Deadlock):
                raise
            except Exception as error:
                failures.append(error)
        if failures:
            raise ExceptionGroup("on_each_cpu: handlers raised", failures)

    # -- primitives

    def spinlock(self, name: str, irqsave: bool = False) -> api.Lock:
        return (ControlledIrqLock if irqsave else ControlledLock)(self.execution, name)

    def mutex(self, name: str) -> api.Lock:
        return ControlledMutex(self.execution, name)

    def rwsem(self, name: str) -> api.RwSem:
        return ControlledRwSem(self.execution, name)

    def waitqueue(self, lock: api.Lock, name: str) -> api.WaitQueue:
        return ControlledWaitQueue(self.execution, lock, name)

    def cell(self, value: T, name: str) -> api.Cell[T]:
        return ControlledCell(self.execution, value, name)

    def atomic(self, value: int, name: str) -> api.Atomic:
        return ControlledAtomic(self.execution, value, name)

    def refcount(self, name: str) -> api.Refcount:
        return ControlledRefcount(self.execution, name)

    def percpu(self, factory: Callable[[], T], name: str) -> api.PerCpu[T]:
        return FreePerCpu(cast(Any, self), factory, name)

    def pair(self, first: int, second: int, name: str) -> api.Pair:
        return ControlledPair(self.execution, first, second, name)

    def this_cpu_pair(self, first: int, second: int, name: str) -> api.Pair:
        return ControlledPair(self.execution, first, second, name)

    def watch_words(self, words: memoryview, name: str) -> api.Words:
        shared = self._words.setdefault(id(words.obj), {})
        return ControlledWords(self.execution, words, shared, name)

    def watch(self, obj: T) -> T:
        if type(obj) not in self.crew.checked:
            check_guards(obj)
            self.crew.checked.add(type(obj))
        return watch(self.crew, obj)

    # -- time

    @property
    def jiffies(self) -> int:
        self.execution.look(op.CLOCK, None)
        return self.execution.jiffies

    def clock_ns(self) -> int:
        self.execution.look(op.CLOCK, None)
        return self.execution.now_ns

    def rng(self, stream: object) -> Random:
        return Random(f"{self.seed}/{stream}")

    # -- stopping

    def stop_machine(self, fn: Callable[[], T]) -> T:
        if self._closed:
            raise MachineClosed("stop_machine: the machine has been shut down")
        return self._stops.stop_machine(fn)

    def shutdown(self) -> None:
        ex = self.execution
        if ex.current is not None:
            raise SleepInAtomic("shutdown() ends all CPUs: call it from a thread that is no CPU")
        if self._closed:
            return
        self._closed = True
        ex.abort()
        for job in self._jobs:
            job.cancel()
        self._jobs.clear()
        if self._own_crew:
            self.crew.dismiss()
        owner, self._owner = self._owner, None
        close = getattr(owner, "close", None)
        if close is not None:
            with suppress(BufferError):  # somebody outside still looks at its memory
                close()


class OtherCpus(BaseException):
    """The program needs another number of CPUs than the runtime has."""

    def __init__(self, nr_cpus: int) -> None:
        super().__init__(nr_cpus)
        self.nr_cpus = nr_cpus


def kind_of(error: BaseException) -> str:
    """What kind of failure *error* is."""
    kind = getattr(error, "failure_kind", None)
    if kind is not None:
        return str(kind)
    return "assertion" if isinstance(error, AssertionError) else "exception"
