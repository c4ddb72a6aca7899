"""
Mapping: ``mmap``.

Follows ``do_mmap``, ``arch_get_unmapped_area_topdown`` of x86 and ``mmap_region`` of Linux 6.12.
"""

from __future__ import annotations

from concmem.errors import BadArgument, BadArgumentType, BusError, OutOfMemory, SegmentationFault
from concmem.mm.fault import Fault
from concmem.mm.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_KNOWN,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MMAP_MIN_ADDR,
    OVERCOMMIT_NEVER,
    PROT_MASK,
    TASK_SIZE,
    TASK_UNMAPPED_BASE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_MAYANY,
    VM_MAYSHARE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
    accountable_mapping,
    page_align,
    prot_to_vm_flags,
)
from concmem.mm.munmap import Munmap, check_address
from concmem.mm.shmem import Shmem
from concmem.mm.vma import Vma
from concmem.units import PAGE_SHIFT, PAGE_SIZE


def check_prot(prot: object) -> int:
    """*prot* if it is a combination of ``PROT_*``, else `BadArgument`."""
    if isinstance(prot, bool) or not isinstance(prot, int):
        raise BadArgumentType(f"prot: expected PROT_* bits, got {prot!r}")
    if prot & ~PROT_MASK:
        raise BadArgument(f"prot: {prot:#x} has bits other than PROT_READ, PROT_WRITE, PROT_EXEC")
    return prot


def check_flags(flags: object, file: object, offset: int) -> None:
    """What EINVAL and EBADF are about."""
    if isinstance(flags, bool) or not isinstance(flags, int):
        raise BadArgumentType(f"flags: expected MAP_* bits, got {flags!r}")
    if flags & ~MAP_KNOWN:
        raise BadArgument(f"flags: {flags:#x} has unknown bits {flags & ~MAP_KNOWN:#x}")
    if bool(flags & MAP_SHARED) == bool(flags & MAP_PRIVATE):
        raise BadArgument("flags: must have one of MAP_SHARED and MAP_PRIVATE")
    if flags & MAP_ANONYMOUS and file is not None:
        raise BadArgument("flags: MAP_ANONYMOUS does not go with a file")
    if not flags & MAP_ANONYMOUS:
        if file is None:
            raise BadArgument("file: must be given without MAP_ANONYMOUS")
        if not isinstance(file, Shmem):
            raise BadArgumentType(f"file: expected what shmem_create gave, got {file!r}")
    if flags & MAP_GROWSDOWN and flags & MAP_SHARED:
        raise BadArgument("flags: a shared mapping does not grow (MAP_GROWSDOWN)")
    if offset % PAGE_SIZE:
        raise BadArgument(f"offset: must be a multiple of {PAGE_SIZE}, got {offset}")


class Mmap(Fault, Munmap):
    """Mappings of an address space."""

    def mmap(
        self,
        length: int,
        prot: int,
        flags: int,
        addr: int = 0,
        file: Shmem | None = None,
        offset: int = 0,
    ) -> int | None:
        """
        Map *length* bytes, rounded up to pages. May sleep. On a CPU.

        Args:
            prot: ``PROT_*`` bits.
            flags: ``MAP_*`` bits.
            addr: a hint; with ``MAP_FIXED`` the place, whatever is there; with
                ``MAP_FIXED_NOREPLACE`` the place if nothing is there.
            file: of ``shmem_create``.
            offset: bytes into it, whole pages.

        Returns:
            The address; ``None`` when there is no place, a limit is reached, the memory cannot be
            promised, or something is in the place of ``MAP_FIXED_NOREPLACE``. Nothing changed.

        Raises:
            BadArgument: an argument cannot be (EINVAL, EBADF, EPERM).
        """
        if not check_address("length", length):
            raise BadArgument("length: must not be 0")
        check_address("addr", addr)
        check_flags(flags, file, check_address("offset", offset))
        check_prot(prot)
        fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
        if fixed and (addr % PAGE_SIZE or addr < MMAP_MIN_ADDR):
            raise BadArgument(
                f"addr: must be a multiple of {PAGE_SIZE} and at least {MMAP_MIN_ADDR:#x} for "
                f"MAP_FIXED, got {addr:#x}"
            )
        if file is not None and file.fs is not self.context.shmem:
            raise BadArgument(f"file: {file!r} is of another machine")
        self._count("sys_mmap")
        length = page_align(length)
        with self.mmap_lock.write():
            self._check_alive()
            where = self._do_mmap(length, prot, flags, addr, file, offset)
        if where is not None and flags & MAP_POPULATE:
            self._populate(where, where + length)
        return where

    def _check_alive(self) -> None:
        if self.exited:
            raise BadArgument(f"process: {self.name} has exited")

    def _do_mmap(
        self, length: int, prot: int, flags: int, addr: int, file: Shmem | None, offset: int
    ) -> int | None:
        """Caller holds mmap_lock for writing."""
        if self.map_count > self.limits.max_map_count or length > TASK_SIZE:
            return None
        fixed = bool(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
        where = self._get_unmapped_area(addr, length, fixed)
        if where is None:
            return None
        if flags & MAP_FIXED_NOREPLACE and self.vmas.overlapping(where, where + length):
            return None
        vm_flags = prot_to_vm_flags(prot) | VM_MAYANY
        if flags & MAP_SHARED:
            vm_flags |= VM_SHARED | VM_MAYSHARE
        if flags & MAP_GROWSDOWN:
            vm_flags |= VM_GROWSDOWN
        if flags & MAP_NORESERVE and self.context.commit.overcommit_memory != OVERCOMMIT_NEVER:
            vm_flags |= VM_NORESERVE
        return self._mmap_region(where, length, vm_flags, file, offset >> PAGE_SHIFT)

    def _get_unmapped_area(self, addr: int, length: int, fixed: bool) -> int | None:
        """Where to map: at *addr* if possible, else as high as possible below mmap_base."""
        if fixed:
            return addr if addr + length <= TASK_SIZE else None
        addr = page_align(addr)
        if addr:
            addr = max(addr, MMAP_MIN_ADDR)
            above = self.vmas.find(addr)
            top = TASK_SIZE if above is None else above.start_gap()
            # As in the kernel, what is below may touch, but not lie around.
            if addr + length <= top and (above is None or above.vm_start > addr):
                return addr
        found = self.vmas.highest_gap(MMAP_MIN_ADDR, self.mmap_base, length)
        if found is None:
            found = self.vmas.lowest_gap(TASK_UNMAPPED_BASE, TASK_SIZE, length)
        return found

    def _mmap_region(
        self, start: int, length: int, flags: int, file: Shmem | None, pgoff: int
    ) -> int | None:
        """Check, charge, and only then unmap what is there and put the new VMA in its place."""
        end, pages = start + length, length >> PAGE_SHIFT
        gone = [
            (min(vma.vm_end, end) - max(vma.vm_start, start) >> PAGE_SHIFT, vma.vm_flags)
            for vma in self.vmas.overlapping(start, end)
        ]
        if not self.may_expand_vm(flags, pages - sum(nr for nr, _ in gone)):
            return None
        if file is not None:
            file.get()
        charged = accountable_mapping(flags)
        if charged and not self._charge(pages, gone):
            self._give_up(0, file)
            return None
        if charged:
            flags |= VM_ACCOUNT
        if flags & VM_SHARED and file is None:
            file = self.context.shmem.create(length, "/dev/zero")
            if file is None:
                return None
            file.get()
            file.close()  # the VMA is the only user
        elif file is None:
            pgoff = start >> PAGE_SHIFT
        if gone and not self._do_munmap(start, end, downgrade=False):
            self._give_up(pages if charged else 0, file)
            return None
        self.insert_or_merge(Vma(start, end, flags, pgoff, file))
        self.vm_stat_account(flags, pages)
        self._count("mmap_region")
        return start

    def _charge(self, pages: int, gone: list[tuple[int, int]]) -> bool:
        """
        Charge *pages* if that is possible, given what will be *gone*: pages and flags of VMAs.

        Those are uncharged when they go, so all *pages* are charged here in the end.
        """
        more = max(0, pages - sum(nr for nr, vm_flags in gone if vm_flags & VM_ACCOUNT))
        if more and not self.context.commit.enough_memory(more, self.total_vm):
            return False
        self.context.commit.vm_committed_as.add(pages - more)
        return True

    def _give_up(self, pages: int, file: Shmem | None) -> None:
        """Give back what a mapping that cannot be made has been promised."""
        self.context.commit.unacct_memory(pages)
        if file is not None:
            file.put()

    def _populate(self, start: int, end: int) -> None:
        """Fault all pages in, as far as that goes; failures show when they are used."""
        try:
            for address in range(start, end, PAGE_SIZE):
                with self.mmap_lock.read():
                    vma = self.vmas.find(address)
                    write = vma is not None and vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE
                self.page_fault(address, write)
        except (SegmentationFault, BusError, OutOfMemory):
            pass
