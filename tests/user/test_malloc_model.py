"""malloc against a naive model: a dict of live chunks with their contents."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from concmem.errors import HeapCorruption
from concmem.runtime.free import FreeRuntime
from concmem.user.params import M_ARENA_MAX, M_MMAP_THRESHOLD, M_MXFAST, M_TRIM_THRESHOLD

from .flat import Fault
from .helpers import World

SIZES = st.one_of(
    st.integers(0, 130),
    st.integers(0, 1100),
    st.integers(900, 5000),
    st.sampled_from([20_000, 65_536, 100_000, 131_048, 131_072, 300_000]),
)
CPUS = st.sampled_from([0, 0, 1, 2])


class MallocModel(RuleBasedStateMachine):
    """All calls on three CPUs; two of them may have to share an arena."""

    def __init__(self) -> None:
        super().__init__()
        self.rt = FreeRuntime(3)
        self.w = World(self.rt, size=32 << 20, heap=8 << 20)
        self.m = self.w.m
        self.m.mallopt(M_ARENA_MAX, 2)
        self.live: dict[int, bytes] = {}
        self.gone: set[int] = set()
        self.stamps = 0

    def _fill(self, nr_bytes: int) -> bytes:
        self.stamps += 1
        stamp = self.stamps.to_bytes(4, "little")
        return (stamp * (nr_bytes // 4 + 1))[:nr_bytes]

    def _add(self, address: int | None, size: int, keep: bytes = b"") -> None:
        """Aligned, large enough, apart from all others; every usable byte is written."""
        if address is None:
            return
        usable = self.w.on(self.m.malloc_usable_size, address)
        assert address % 16 == 0
        assert usable >= size
        end = address + usable
        for other, contents in self.live.items():
            assert end <= other or other + len(contents) <= address
        assert self.w.p.read(address, len(keep)) == keep
        self.live[address] = self._fill(usable)
        self.w.p.write(address, self.live[address])
        self.gone.discard(address)

    @rule(size=SIZES, cpu=CPUS)
    def malloc(self, size: int, cpu: int) -> None:
        self._add(self.w.on(self.m.malloc, size, cpu=cpu), size)

    @rule(size=st.integers(1, 200), cpu=CPUS, nr=st.integers(1, 12))
    def many(self, size: int, cpu: int, nr: int) -> None:
        for _ in range(nr):
            self.malloc(size, cpu)

    @rule(n=st.integers(0, 20), size=SIZES, cpu=CPUS)
    def calloc(self, n: int, size: int, cpu: int) -> None:
        address = self.w.on(self.m.calloc, n, size % 20_000, cpu=cpu)
        self._add(address, n * (size % 20_000), bytes(n * (size % 20_000)))

    @rule(shift=st.integers(0, 13), size=SIZES, cpu=CPUS)
    def memalign(self, shift: int, size: int, cpu: int) -> None:
        address = self.w.on(self.m.memalign, 1 << shift, size, cpu=cpu)
        assert address is None or address % (1 << shift) == 0
        self._add(address, size)

    def _take(self, index: int) -> int:
        address = sorted(self.live)[index % len(self.live)]
        contents = self.live.pop(address)
        assert self.w.p.read(address, len(contents)) == contents
        return address

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1000), cpu=CPUS)
    def free(self, index: int, cpu: int) -> None:
        address = self._take(index)
        self.w.free(address, cpu=cpu)
        self.gone.add(address)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1000), cpu=CPUS, nr=st.integers(2, 20))
    def free_many(self, index: int, cpu: int, nr: int) -> None:
        for _ in range(min(nr, len(self.live))):
            self.free(index, cpu)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1000), size=SIZES, cpu=CPUS)
    def realloc(self, index: int, size: int, cpu: int) -> None:
        address = sorted(self.live)[index % len(self.live)]
        contents = self.live[address]
        new = self.w.on(self.m.realloc, address, size, cpu=cpu)
        if size == 0:
            assert new is None
            del self.live[address]
        elif new is not None:
            del self.live[address]
            self._add(new, size, contents[: min(size, len(contents))])

    @precondition(lambda self: self.gone)
    @rule(index=st.integers(0, 1000), cpu=CPUS)
    def free_twice(self, index: int, cpu: int) -> None:
        """Where the chunk is still known as one; elsewhere the address may be unmapped."""
        address = sorted(self.gone)[index % len(self.gone)]
        if self.w.p.peek(address) is None or self.w.p.peek(address - 8) is None:
            return
        try:
            self.w.free(address, cpu=cpu)
        except (HeapCorruption, Fault):  # a fault while it looks around
            return
        raise AssertionError("a second free was not noticed")

    @rule(pad=st.sampled_from([0, 10_000]), cpu=CPUS)
    def malloc_trim(self, pad: int, cpu: int) -> None:
        self.w.on(self.m.malloc_trim, pad, cpu=cpu)

    @rule(cpu=CPUS)
    def thread_exit(self, cpu: int) -> None:
        self.w.on(self.m.thread_exit, cpu=cpu)

    @rule(
        param=st.sampled_from([M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_MXFAST]),
        value=st.sampled_from([0, 64, 5000, 200_000]),
    )
    def mallopt(self, param: int, value: int) -> None:
        self.m.mallopt(param, value)

    @rule(nr_bytes=st.sampled_from([16, 5000]))
    def foreign_sbrk(self, nr_bytes: int) -> None:
        self.w.p.sbrk(nr_bytes)

    @invariant()
    def check(self) -> None:
        self.w.check()
        assert self.m.memory.live() == sorted(self.live)

    def teardown(self) -> None:
        try:
            while self.live:
                self.free(0, 0)
            for cpu in range(3):
                self.w.on(self.m.thread_exit, cpu=cpu)
            self.w.check()
            self.w.on(self.m.malloc_trim, 0)
            self.w.check()
            self.w.on(self.m.thread_exit)
            # Everything is free: what is left in fastbins merges, and each region is one chunk.
            for arena in self.m.arenas.ring():
                if arena.address:
                    self.w.on(self._consolidate, arena)
            self.w.check()
            assert self.m.params.n_mmaps.value == 0
        finally:
            self.rt.shutdown()

    def _consolidate(self, arena: Any) -> None:
        self.m.thread()
        with arena.mutex:
            self.m.int_free.malloc_consolidate(arena)
        self.m.thread_exit()


TestMallocModel: Any = MallocModel.TestCase
TestMallocModel.settings = settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
