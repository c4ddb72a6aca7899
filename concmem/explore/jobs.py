"""What a CPU has to run, and who waits for its end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from concmem.errors import MachineClosed
from concmem.explore import operation as op

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import ControlledCpu, Task

T = TypeVar("T")


class Job:
    """One body in a CPU's run queue."""

    __slots__ = ("args", "counts", "cpu", "done", "error", "fn", "future", "result", "waiters")

    def __init__(
        self, cpu: ControlledCpu, fn: Callable[..., Any], args: tuple[Any, ...], counts: bool
    ) -> None:
        self.cpu = cpu
        self.fn = fn
        self.args = args
        self.counts = counts
        """Whether an execution is over only when this is."""
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.waiters: list[Task] = []
        self.future: JobFuture[Any] | None = None

    @property
    def name(self) -> str:
        return f"the end of the body on {self.cpu.name}"

    def holder_to_wait_for(self) -> Task:
        """For the circle of those who wait for each other."""
        main: Task = self.cpu.main
        return main

    def finish(self) -> None:
        """Tell the future, if there is one."""
        if self.future is None:
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)

    def cancel(self) -> None:
        """It will never end."""
        if not self.done:
            self.done = True
            self.error = MachineClosed(f"{self.cpu.name} was shut down")
            self.finish()


class JobFuture(Future[T]):
    """
    The result of a job; waiting for it lets the CPUs run.

    On a CPU, waiting is a scheduling point.
    """

    def __init__(self, ex: Execution, job: Job) -> None:
        super().__init__()
        self._ex = ex
        self._job = job
        job.future = self

    def _wait(self) -> None:
        ex, job = self._ex, self._job
        me = ex.current
        if me is None:
            if not job.done:
                ex.drive(lambda: job.done)
            return
        me.kind, me.object = op.RESUME, job
        if job.done:
            ex.point(me)
        else:
            job.waiters.append(me)
            ex.block(me, job)
            ex.cycle(me)
            ex.wait(me)

    def done(self) -> bool:
        self._ex.look(op.PEEK, self._job)
        return super().done()

    def result(self, timeout: float | None = None) -> T:
        self._wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._wait()
        return super().exception(timeout)


class Call:
    """An interrupt that somebody waits for."""

    __slots__ = ("caller", "cpu", "done", "error", "ex", "fn", "result", "running")

    def __init__(
        self, ex: Execution, cpu: ControlledCpu, fn: Callable[[], Any], caller: Task | None
    ) -> None:
        self.ex = ex
        self.cpu = cpu
        self.fn = fn
        self.caller = caller
        self.running = self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def name(self) -> str:
        return f"an interrupt on {self.cpu.name}"

    def holder_to_wait_for(self) -> Task | None:
        """Its handler, or who keeps the CPU from taking it."""
        if self.running:
            irq: Task = self.cpu.irq
            return irq
        main: Task = self.cpu.main
        deaf = not self.cpu.irqs_enabled or getattr(main.blocked, "irqsave", False)
        return main if deaf else None

    def __call__(self) -> None:
        self.running = True
        try:
            self.result = self.fn()
        except Exception as error:
            self.error = error
        self.done = True
        ex = self.ex
        ex.trace += (ex.current, op.DONE, self)
        if self.caller is not None:
            ex.unblock(self.caller)

    def outcome(self) -> Any:
        """Its result, or raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.result
