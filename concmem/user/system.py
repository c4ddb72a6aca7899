"""What malloc asks of the process that it runs in: system calls, and the bytes of its memory."""

from __future__ import annotations

from typing import Protocol

from concmem.runtime.api import Words


class System(Protocol):
    """
    A process, as far as malloc sees it. All calls on a CPU; all may sleep.

    `read` and `write` raise `KernelBug` (a segmentation fault) where nothing is mapped.
    """

    def sbrk(self, increment: int, /) -> int | None:
        """Move the break by *increment* bytes; where it was, or ``None`` if it cannot move."""

    def mmap(self, length: int, prot: int, flags: int, addr: int = 0, /) -> int | None:
        """Map *length* bytes; the address, or ``None``."""

    def munmap(self, addr: int, length: int, /) -> bool:
        """Unmap a range; whether the system let it."""

    def mprotect(self, addr: int, length: int, prot: int, /) -> bool:
        """Change a range's protection; whether there was memory for it."""

    def read(self, address: int, nr_bytes: int, /) -> bytes:
        """Bytes of memory."""

    def write(self, address: int, data: bytes, /) -> None:
        """Store bytes."""

    def words(self) -> Words:
        """All memory as 8-byte words, for the calling CPU to keep. See `map_page`."""

    def map_page(self, address: int, /) -> int:
        """
        Fault the page of *address* in, for writing.

        Returns:
            The index of the page's first word in `words`, which is valid until the page is unmapped
            or its protection changes.

        Raises:
            KernelBug: nothing that can be written is mapped there, or there is no memory for it.
        """

    def peek(self, address: int, /) -> int | None:
        """The word at *address*, a multiple of 8; ``None`` if nothing is there. From any thread."""

    def count(self, event: str, /) -> None:
        """Count an event of the flowcharts on this CPU."""
