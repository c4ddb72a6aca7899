"""What drawn programs share, and what each operation does to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from concmem.explore import ControlledRuntime
from concmem.explore.watch import watch
from concmem.runtime.api import THIS_CPU, lockless_reads

from .spec import Op, Spec


class Planned(AssertionError):
    """A failure that says which one it is."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.failure_place = place


class Record:
    """Plain fields; one has a guard."""

    __guarded_by__ = {
        "guarded": "lock",
        "open": "",
        "marked": lockless_reads("lock"),
        "own": THIS_CPU,
    }

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.guarded = self.open = self.marked = self.own = 0

    def values(self) -> tuple[int, ...]:
        """Without a note of anything, by who looks from outside."""
        return self.guarded, self.open, self.marked, self.own


class World:
    """What the bodies of one execution share."""

    def __init__(self, rt: ControlledRuntime, spec: Spec) -> None:
        self.rt = rt
        self.cells = [rt.cell(0, f"x{i}") for i in range(3)]
        self.atomics = [rt.atomic(0, f"a{i}") for i in range(2)]
        self.pair = rt.pair(0, 0, "pair")
        self.count = rt.refcount("count")
        self.locks = [
            rt.spinlock("spin"),
            rt.spinlock("irqsave", irqsave=True),
            rt.spinlock("irqsave2", irqsave=True),
            rt.mutex("mutex"),
        ]
        self.sem = rt.rwsem("sem")
        self.queues = [rt.waitqueue(self.locks[i], f"queue{i}") for i in (0, 1, 3)]
        self.ready = [0, 0, 0]
        self.records = [watch(rt.crew, Record(self.locks[i])) for i in (0, 1)]
        # Plain data. What is written here by tasks of one CPU, or under one lock, is in the one order that
        # they had: so every order that matters shows in the final state.
        self.by_cpu: list[list[str]] = [[] for _ in rt.cpus]
        self.by_lock: list[list[str]] = [[] for _ in self.locks]
        self.by_sem: list[str] = []
        self.memory = memoryview(bytearray(32)).cast("Q")
        self.words = rt.watch_words(self.memory, "memory")
        self.results: defaultdict[str, list[Any]] = defaultdict(list)
        self.futures: dict[str, Any] = {}

    def state(self) -> Any:
        """What is left at the end."""
        return (
            tuple(cell.now for cell in self.cells),
            tuple(atomic.now for atomic in self.atomics),
            self.pair.now,
            self.count.now,
            tuple(self.ready),
            tuple(map(tuple, self.by_cpu)),
            tuple(map(tuple, self.by_lock)),
            tuple(self.by_sem),
            tuple(record.values() for record in self.records),
            tuple(self.memory),
            tuple(sorted((name, tuple(values)) for name, values in self.results.items())),
        )

    def runner(self, name: str, ops: list[Op]) -> Callable[[], None]:
        """A function that does *ops*; what it sees is noted under *name*."""

        def run() -> None:
            for number, one in enumerate(ops):
                self.do(name, f"{name}.{number}", one)

        return run

    def do_all(self, name: str, where: str, ops: list[Op]) -> None:
        for number, one in enumerate(ops):
            self.do(name, f"{where}.{number}", one)

    def do(self, name: str, where: str, one: Op) -> None:
        self.by_cpu[self.rt.smp_processor_id()].append(where)
        getattr(self, "do_" + one[0])(name, where, *one[1:])

    def note(self, name: str, value: Any) -> None:
        # Handlers of the same name run on several CPUs at once.
        self.results[f"{name}@{self.rt.smp_processor_id()}"].append(value)

    # -- operations

    def do_read(self, name: str, _where: str, i: int) -> None:
        self.note(name, self.cells[i].value)

    def do_write(self, _name: str, _where: str, i: int, value: int) -> None:
        self.cells[i].value = value

    def do_copy(self, _name: str, _where: str, i: int, j: int) -> None:
        self.cells[j].value = self.cells[i].value + 1

    def do_inc(self, _name: str, _where: str, i: int) -> None:
        self.atomics[i].inc()

    def do_add_return(self, name: str, _where: str, i: int) -> None:
        self.note(name, self.atomics[i].add_return(2))

    def do_get(self, name: str, _where: str, i: int) -> None:
        self.note(name, self.atomics[i].value)

    def do_cmpxchg(self, name: str, _where: str, i: int, old: int, new: int) -> None:
        self.note(name, self.atomics[i].cmpxchg(old, new))

    def do_pair(self, name: str, _where: str, new: int) -> None:
        first = self.pair.first
        self.note(name, self.pair.try_cmpxchg(first, 0, new, 0))

    def do_ref(self, name: str, _where: str) -> None:
        self.note(name, self.count.inc_not_zero())

    def do_ref_first(self, _name: str, _where: str) -> None:
        self.count.add(True)

    def do_lock(self, name: str, where: str, i: int, ops: list[Op]) -> None:
        with self.locks[i]:
            self.by_lock[i].append(where)
            self.do_all(name, where, ops)

    def do_trylock(self, name: str, where: str, i: int, ops: list[Op]) -> None:
        got = self.locks[i].trylock()
        self.note(name, got)
        if got:
            self.by_lock[i].append(where)
            self.do_all(name, where, ops)
            self.locks[i].release()

    def do_locked(self, name: str, _where: str, i: int) -> None:
        self.note(name, self.locks[i].locked())

    def do_irqs_off(self, name: str, where: str, ops: list[Op]) -> None:
        flags = self.rt.local_irq_save()
        self.do_all(name, where, ops)
        self.rt.local_irq_restore(flags)

    def do_down_read(self, name: str, where: str, ops: list[Op]) -> None:
        with self.sem.read():
            self.note(name, len(self.by_sem))
            self.do_all(name, where, ops)

    def do_down_write(self, name: str, where: str, ops: list[Op]) -> None:
        with self.sem.write():
            self.by_sem.append(where)
            self.do_all(name, where, ops)

    def do_downgrade(self, name: str, where: str, ops: list[Op]) -> None:
        with self.sem.write():
            self.by_sem.append(where)
            self.sem.downgrade()
            self.note(name, len(self.by_sem))
            self.do_all(name, where, ops)

    def do_if(self, name: str, where: str, i: int, ops: list[Op], others: list[Op]) -> None:
        self.do_all(name, where, ops if self.cells[i].value else others)

    def do_get_word(self, name: str, _where: str, i: int) -> None:
        self.note(name, self.words[i])

    def do_set_word(self, _name: str, _where: str, i: int, value: int) -> None:
        self.words[i] = value

    def do_wait_for(self, name: str, _where: str, i: int, timeout: float | None) -> None:
        queue = self.queues[i]
        with queue.lock:
            if queue.wait_for(lambda: self.ready[i] > 0, timeout):
                self.ready[i] -= 1
                self.note(name, "woken")
            else:
                self.note(name, "timed out")

    def do_wait(self, name: str, _where: str, i: int, timeout: float | None) -> None:
        queue = self.queues[i]
        with queue.lock:
            self.note(name, queue.wait(timeout))

    def do_wake(self, name: str, _where: str, i: int, nr: int) -> None:
        queue = self.queues[i]
        with queue.lock:
            self.ready[i] += 1
            self.note(name, queue.wake_up(nr))

    def do_wake_unlocked(self, name: str, _where: str, i: int) -> None:
        self.note(name, self.queues[i].wake_up())

    def do_spin(self, _name: str, _where: str, i: int) -> None:
        times = 0
        while not self.cells[i].value:
            times += 1
            self.rt.cpu_relax()
        self.note(_name, times)

    def do_relax(self, _name: str, _where: str) -> None:
        self.rt.cpu_relax()

    def do_resched(self, _name: str, _where: str) -> None:
        self.rt.cond_resched()

    def do_send(self, name: str, where: str, cpu: int, ops: list[Op]) -> None:
        self.rt.call_on(cpu, lambda: self.do_all(name, where, ops))

    def do_post(self, name: str, where: str, cpu: int, ops: list[Op]) -> None:
        self.rt.call_on(cpu, self.runner(f"{where}!", ops), wait=False)

    def do_everywhere(self, _name: str, where: str, ops: list[Op]) -> None:
        self.rt.on_each_cpu(lambda: self.do_all(f"{where}!", where, ops), wait=len(ops) != 1)

    def do_submit(self, name: str, where: str, cpu: int, ops: list[Op]) -> None:
        future = self.rt.submit(cpu, self.runner(f"{where}+", ops))
        if cpu != self.rt.smp_processor_id():  # else it would wait for itself
            future.result()

    def do_start(self, _name: str, where: str, cpu: int, ops: list[Op]) -> None:
        self.futures[where] = self.rt.submit(cpu, self.runner(f"{where}+", ops))

    def do_is_done(self, name: str, _where: str) -> None:
        mine = [future for where, future in self.futures.items() if where.startswith(name)]
        self.note(name, tuple(future.done() for future in mine))

    def do_load(self, name: str, _where: str, i: int, which: str) -> None:
        self.note(name, getattr(self.records[i], which))

    def do_store(self, _name: str, _where: str, i: int, which: str, value: int) -> None:
        setattr(self.records[i], which, value)

    def do_fail_if(self, _name: str, where: str, i: int, value: int) -> None:
        if self.cells[i].value == value:
            raise Planned(f"{where}: x{i} is {value}")

    def do_stop(self, name: str, where: str, ops: list[Op]) -> None:
        self.rt.stop_machine(lambda: self.do_all(name, where, ops))

    def do_clock(self, name: str, _where: str) -> None:
        self.note(name, self.rt.clock_ns())

    def worker(self) -> None:
        """A kernel thread that takes what is ready on the first queue."""
        queue = self.queues[0]
        while True:
            with queue.lock:
                queue.wait_for(lambda: self.ready[0] > 0)
                self.ready[0] -= 1
            self.atomics[0].inc()
