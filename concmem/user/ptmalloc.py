"""What the parts of malloc share: the runtime, the process's memory, parameters, and how they complain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import HeapCorruption
from concmem.user.chunk import SIZE_BITS
from concmem.user.params import MallocParams
from concmem.user.thread import Thread
from concmem.user.user_memory import UserMemory

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime
    from concmem.user.system import System


class Ptmalloc:
    """The state of malloc in one process, besides its arenas."""

    def __init__(self, rt: Runtime, system: System) -> None:
        self.rt = rt
        self.system = system
        self.params = MallocParams(rt)
        key = rt.rng("tcache_key").getrandbits(64) | 1
        self.threads = rt.percpu(lambda: Thread(key), "malloc thread")
        self.memory = UserMemory(rt, system, self.threads)
        self.load = self.memory.load
        self.store = self.memory.store

    def chunksize(self, chunk: int) -> int:
        """Bytes of *chunk*, without the flags."""
        return self.load(chunk + 8) & ~SIZE_BITS

    def set_size_of_free(self, chunk: int, size: int) -> None:
        """Head and foot of a free chunk; the one before it is in use."""
        self.store(chunk + 8, size | 1)
        self.store(chunk + size, size)

    def corrupt(self, text: str, address: int) -> HeapCorruption:
        """The error for *text*, as glibc words it (``malloc_printerr``). The caller raises it."""
        return HeapCorruption(f"{text}: {address:#x} on cpu{self.rt.smp_processor_id()}")
