"""The machine: CPUs and what runs on them, under one roof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar, cast

from concmem.config import MachineConfig
from concmem.errors import BadArgument
from concmem.kernel import Kernel
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.memory import pfn_to_virt, virt_to_pfn
from concmem.mm.page import Page
from concmem.mm.process_statistics import user_statistics
from concmem.mm.reclaim import Shrinker
from concmem.mm.statistics import CpuStatistics, MachineStatistics
from concmem.reports.procfs import FILES, ProcFs, Renderer
from concmem.runtime.api import Runtime
from concmem.runtime.free import FreeRuntime
from concmem.runtime.interpreter import has_gil
from concmem.runtime.jitter import JitterRuntime
from concmem.runtime.lockstat import LockClassStatistics
from concmem.units import format_size
from concmem.user.malloc import REPLACEABLE as MALLOC_REPLACEABLE
from concmem.user.process import UserProcess, UserSpace

T = TypeVar("T")


def make_runtime(
    runtime: str | Runtime, cpus: int, seed: int, lockstat: bool, lockdep: bool, pin: bool
) -> Runtime:
    """The runtime of that name: ``free``, ``jitter``, or ``auto`` for what finds most here."""
    if isinstance(runtime, Runtime):
        return runtime
    if runtime == "auto":
        runtime = "jitter" if has_gil() else "free"
    if runtime == "free":
        return FreeRuntime(cpus, seed=seed, lockstat=lockstat, lockdep=lockdep, pin=pin)
    if runtime == "jitter":
        return JitterRuntime(cpus, seed=seed, lockstat=lockstat, lockdep=lockdep, pin=pin)
    raise BadArgument(f"runtime: must be 'auto', 'free' or 'jitter', got {runtime!r}")


class Machine:
    """
    A running machine. Use it as a context manager, so that its threads end::

        with concmem.Machine(cpus=2, memory="64M") as m:
            pages = m.run([lambda: m.alloc_pages(0), None])

    Args:
        cpus: 1 to 256, by default 4; each is an OS thread of its own.
        memory: bytes, or text such as ``"256M"``; backed by the host only where touched.
        seed: of everything random in the model.
        nodes: NUMA nodes, 1 to 64; memory and CPUs are shared out evenly.
        runtime: ``"free"``, ``"jitter"``, ``"auto"``, or a runtime object, whose CPUs are used.
        lockstat: keep lock statistics for ``/proc/lock_stat``.
        lockdep: validate the order of locks, for ``/proc/lockdep``; what could deadlock raises
            `LockdepError`. As with *lockstat* and *pin*, a *runtime* object has its own.
        pin: bind CPU threads to host CPUs, round and round.
        cma: bytes reserved for contiguous allocations, at the end of the highest zone.
        vmalloc_size: bytes of virtual addresses for `vmalloc`, 1M to 32T.
        min_free_kbytes: the reserve that watermarks are made of; by default Linux's formula.
        pagesets: False switches per-CPU page sets off (batch 1, high 0).
        slab_merge: False keeps every cache by itself (``slab_nomerge``).
        freelist_random: the objects of a new slab come in random order.
        freelist_hardened: free pointers are stored encoded.
        slab_debug: caches to debug and how, as the kernel's parameter: ``"FZPU,kmalloc-64;Z,dentry"``;
            True: all of them, ``FZPU`` (:mod:`concmem.mm.debug.slab_debug`).
        page_poison: fill pages that are freed, and look at them when they are allocated.
        page_owner: keep who allocated and who freed each page.
        kasan: look up every access of `memory`; ``InvalidAccess`` if it is wrong. ``"report"``: report it
            only, and go on.
        failslab, fail_page_alloc: allocations of objects, of pages, that fail although there is memory:
            ``"interval,probability,space,times"``, or True to set that in `fail`.
        kmemleak: look for leaks: see `kmemleak` below.
        cpusets: allow `set_mems_allowed`; every allocation then asks where it may allocate from.
        classes: replacements for classes of the model (`REPLACEABLE`), ``{Zone: MyZone}``.

    Attributes, besides the methods (GFP flags are in :mod:`concmem.mm.gfp`):
        alloc_pages(order=0, gfp=GFP_KERNEL, node=None): ``2**order`` pages, or ``None``. On a CPU.
        free_pages(page, order=0): drop a reference; the last one frees. On a CPU.
        get_page(page), put_page(page), split_page(page): as in the kernel. On a CPU.
        kmalloc(size, gfp=GFP_KERNEL, node=None), kzalloc(...): the address of *size* bytes, or
            ``None``; 0 bytes give ``ZERO_SIZE_PTR``. On a CPU.
        kmalloc_array(n, size, gfp), kcalloc(...), kvmalloc(size, gfp, node), krealloc(address, size, gfp),
            ksize(address): as in the kernel. On a CPU.
        kfree(address), kvfree(address): free any of these, and objects of caches. On a CPU.
        mempool_create(min_nr, cache_or_alloc, free=None, pool_data=None, allocator_first=False),
            mempool_create_kmalloc_pool(min_nr, size), mempool_create_page_pool(min_nr, order): a
            :class:`~concmem.mm.mempool.Mempool`: ``alloc(gfp, timeout=)``, ``free(element)``,
            ``resize(min_nr)``, ``destroy()``. On a CPU.
        offline_pages(start_pfn, nr_pages), online_pages(start_pfn, nr_pages): put page blocks aside if they
            are free, and back. On a CPU; may sleep.
        slab: the caches: ``caches()``, newest first, and ``find(name)``.
        rcu: ``read_lock()``, ``read_unlock()``, ``call_rcu(function)``, ``synchronize_rcu()``,
            ``rcu_barrier()``.
        vmalloc(size, gfp=GFP_KERNEL, node=None), vzalloc(...): the address of memory that is contiguous
            in virtual addresses only, or ``None``. On a CPU; may sleep.
        vfree(address): from interrupts, too. On a CPU.
        vmap(pages), vunmap(address); vm_map_ram(pages), vm_unmap_ram(address, count),
            vm_unmap_aliases(): map pages that one has. On a CPU; may sleep.
        vm_areas: what is mapped where: ``find_vm_area(address)``, ``vmalloc_to_page(address)``.
        process(name="process", rlimit_as=, rlimit_data=, rlimit_stack=, max_map_count=): a new
            :class:`~concmem.mm.process.Process`, with an address space of its own.
        processes: those that have not exited: ``processes()``.
        shmem_create(size): memory for several processes to map (``mmap(file=...)``), or ``None``.
        set_overcommit(mode, ratio=50): what may be promised: ``vm.overcommit_memory`` 0, 1 or 2.
        data(nr_words=1), percpu_data(nr_words=1), stack_frame(nr_words): memory of the kernel's own that
            nobody allocates, to keep addresses in (:mod:`concmem.mm.sections`).
        kmemleak: the leak detector (:class:`~concmem.mm.debug.kmemleak.Kmemleak`): ``scan()``, ``leaks()``,
            ``report()``, ``write(command)``, ``not_leak(address)``, ...; without ``kmemleak=True``, calls that
            do nothing.
        workqueue: deferred work: ``drain()`` waits for all of it.
        memory: the bytes: ``read(address, n)``, ``write(address, data)``.
        procfs: ``/proc`` texts: ``names()``, ``read(name)``, ``export(directory)``.
        log: the kernel log: ``read()``.
        debug_reports: what debugging has found, a list of :class:`~concmem.mm.debug.report.DebugReport`.
        fail: ``failslab`` and ``fail_page_alloc``, with the attributes of
            :class:`~concmem.mm.debug.fault_attr.FaultAttr`.
        runtime: the CPUs and primitives (:class:`concmem.Runtime`).

    Raises:
        BadArgument: a parameter cannot be; no thread is left.
    """

    def __init__(
        self,
        cpus: int | None = None,
        memory: int | str = "256M",
        seed: int = 0,
        *,
        nodes: int = 1,
        runtime: str | Runtime = "free",
        lockstat: bool = False,
        lockdep: bool = False,
        pin: bool = False,
        cma: int | str = 0,
        vmalloc_size: int | str = "32T",
        min_free_kbytes: int | None = None,
        pagesets: bool = True,
        slab_merge: bool = True,
        freelist_random: bool = False,
        freelist_hardened: bool = False,
        slab_debug: str | bool | None = None,
        page_poison: bool = False,
        page_owner: bool = False,
        kasan: bool | str = False,
        failslab: bool | str = False,
        fail_page_alloc: bool | str = False,
        kmemleak: bool = False,
        cpusets: bool = False,
        classes: Mapping[type, type] | None = None,
    ) -> None:
        if isinstance(runtime, Runtime):
            if cpus is not None:
                runtime.want_cpus(cpus)
            cpus = runtime.nr_cpus
        elif cpus is None:
            cpus = 4
        self.config = MachineConfig.check(
            cpus=cpus,
            memory=memory,
            nodes=nodes,
            cma=cma,
            vmalloc_size=vmalloc_size,
            min_free_kbytes=min_free_kbytes,
            pagesets=pagesets,
            slab_merge=slab_merge,
            freelist_random=freelist_random,
            freelist_hardened=freelist_hardened,
            slab_debug=slab_debug,
            page_poison=page_poison,
            page_owner=page_owner,
            kasan=kasan,
            failslab=failslab,
            fail_page_alloc=fail_page_alloc,
            kmemleak=kmemleak,
            cpusets=cpusets,
            classes=classes,
        )
        self.seed = seed
        self.runtime = make_runtime(runtime, cpus, seed, lockstat, lockdep, pin)
        self.runtime.claim(self)
        try:
            self.kernel = Kernel(self.runtime, self.config, MALLOC_REPLACEABLE)
            UserSpace(self.kernel.processes, self.config.classes)
            self._bind(self.kernel)
            self.procfs = ProcFs(self.statistics, self._proc_files())
        except BaseException:
            self.close()
            raise

    def _bind(self, kernel: Kernel) -> None:
        """Give the parts of *kernel* their public names."""
        self.memory = kernel.debug.memory
        self.log = kernel.log
        self.debug_reports = kernel.debug.reports.reports
        self.fail = kernel.debug.fail
        self.events = kernel.events
        self.mem_map = kernel.mem_map
        self.nodes = kernel.nodes
        self.zones = kernel.zones
        self.cma = kernel.cma
        self.offline_pages = kernel.hotplug.offline_pages
        self.online_pages = kernel.hotplug.online_pages
        self.reclaim = kernel.reclaim
        self.workqueue = kernel.workqueue
        self.rcu = kernel.rcu
        self.kmemleak = kernel.kmemleak
        self.data = kernel.sections.data
        self.percpu_data = kernel.sections.percpu_data
        self.stack_frame = kernel.sections.stack_frame
        self.slab = kernel.slab
        self.kmalloc_caches = kernel.kmalloc.caches
        # Bound here, not found at each call: these are the hot paths.
        self.page_alloc = kernel.page_alloc
        self.alloc_pages = kernel.page_alloc.alloc_pages
        self.free_pages = kernel.page_alloc.free_pages
        self.get_page = kernel.page_alloc.get_page
        self.put_page = kernel.page_alloc.put_page
        self.split_page = kernel.page_alloc.split_page
        self.kmalloc = kernel.kmalloc.kmalloc
        self.kzalloc = kernel.kmalloc.kzalloc
        self.kmalloc_array = kernel.kmalloc.kmalloc_array
        self.kcalloc = kernel.kmalloc.kcalloc
        self.kvmalloc = kernel.kmalloc.kvmalloc
        self.kfree = kernel.kmalloc.kfree
        self.kvfree = kernel.kmalloc.kvfree
        self.ksize = kernel.kmalloc.ksize
        self.krealloc = kernel.kmalloc.krealloc
        self.mempool_create = kernel.mempools.create
        self.mempool_create_kmalloc_pool = kernel.mempools.create_kmalloc_pool
        self.mempool_create_page_pool = kernel.mempools.create_page_pool
        self.vm_areas = kernel.vm_areas
        self.vmalloc = kernel.vm_areas.vmalloc
        self.vzalloc = kernel.vm_areas.vzalloc
        self.vfree = kernel.vm_areas.vfree
        self.vmap = kernel.vm_areas.vmap
        self.vunmap = kernel.vm_areas.vunmap
        self.vm_map_ram = kernel.vm_areas.vm_map_ram
        self.vm_unmap_ram = kernel.vm_areas.vm_unmap_ram
        self.vm_unmap_aliases = kernel.vm_areas.vm_unmap_aliases
        self.processes = kernel.processes
        self.shmem_create = kernel.processes.context.shmem.create
        self.set_overcommit = kernel.processes.context.commit.set_overcommit

    def _proc_files(self) -> dict[str, Renderer]:
        """The files that this machine has, beside those of directories."""
        if not self.config.kmemleak:
            return FILES
        # What the leak detector has found is looked up when it is read: it may have to wait for a scan.
        return {**FILES, "sys/kernel/debug/kmemleak": lambda _: self.kmemleak.report()}

    # -- CPUs

    def run(self, bodies: Sequence[Callable[[], T] | None]) -> list[T | None]:
        """
        Run body *i* on CPU *i* and wait for all; their results in order.

        Raises:
            ExceptionGroup: what the bodies, and interrupt handlers, raised.
        """
        return self.runtime.run(bodies)

    def submit(self, cpu: int, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Put ``fn(*args)`` into the run queue of *cpu*."""
        return self.runtime.submit(cpu, fn, *args)

    def call_on(self, cpu: int, fn: Callable[[], Any], wait: bool = True) -> Any:
        """Run *fn* on *cpu* as an interrupt; its result with *wait*."""
        return self.runtime.call_on(cpu, fn, wait)

    def on_each_cpu(self, fn: Callable[[], Any], wait: bool = True) -> None:
        """Run *fn* on every CPU as an interrupt."""
        self.runtime.on_each_cpu(fn, wait)

    def smp_processor_id(self) -> int:
        """The number of the calling CPU."""
        return self.runtime.smp_processor_id()

    # -- pages

    def pfn_to_page(self, pfn: int) -> Page:
        """The page struct of page frame *pfn*, be it head, tail or free."""
        return self.mem_map.page(self.mem_map.check_pfn(pfn))

    def compound_head(self, pfn: int) -> Page | None:
        """The head of the block, free or allocated, that *pfn* is in; ``None`` for none."""
        return self.mem_map.head(self.mem_map.check_pfn(pfn))

    @staticmethod
    def page_address(page: Page) -> int:
        """Where the page's bytes are in the direct map."""
        return pfn_to_virt(page.pfn)

    def virt_to_page(self, address: int) -> Page:
        """The page struct of the page that holds *address*."""
        return self.pfn_to_page(virt_to_pfn(address))

    def lock_page(self, page: Page) -> None:
        """Set PG_locked; sleeps while somebody else has it."""
        page.zone.wait_table.lock_page(page)

    def trylock_page(self, page: Page) -> bool:
        """Set PG_locked if it is clear."""
        return page.zone.wait_table.trylock_page(page)

    def unlock_page(self, page: Page) -> None:
        """Clear PG_locked and wake waiters."""
        page.zone.wait_table.unlock_page(page)

    def wait_on_page_locked(self, page: Page, timeout: float | None = None) -> bool:
        """Sleep until PG_locked is clear; false on a time-out (seconds)."""
        return page.zone.wait_table.wait_on_page_locked(page, timeout)

    def cma_alloc(self, nr_pages: int) -> Page | None:
        """Contiguous pages from the CMA area, or ``None``. May sleep."""
        if self.cma is None:
            raise BadArgument("cma: this machine has no CMA area; boot it with cma='16M'")
        return self.cma.alloc(nr_pages)

    def cma_release(self, page: Page, nr_pages: int) -> None:
        """Free what `cma_alloc` gave."""
        if self.cma is None:
            raise BadArgument("cma: this machine has no CMA area; boot it with cma='16M'")
        self.cma.release(page, nr_pages, self.free_pages)

    def drain_all_pages(self) -> None:
        """Empty all per-CPU page sets. May sleep."""
        self.kernel.drain.drain_all_pages()

    def set_mems_allowed(self, cpu: int, nodes: Iterable[int]) -> None:
        """Have CPU *cpu* allocate from *nodes* only, from now on. On a CPU."""
        if self.kernel.cpusets is None:
            raise BadArgument("cpusets: this machine has none; boot it with cpusets=True")
        self.kernel.cpusets.set_mems_allowed(cpu, nodes)

    @property
    def min_free_kbytes(self) -> int:
        """The reserve that watermarks are made of."""
        return self.kernel.min_free.kbytes

    def set_min_free_kbytes(self, kbytes: int) -> None:
        """Make watermarks and page set sizes anew (``vm.min_free_kbytes``). May sleep."""
        self.kernel.min_free.set(kbytes)

    def register_shrinker(self, shrinker: Shrinker) -> None:
        """Have *shrinker* asked for memory when it is short."""
        self.reclaim.register_shrinker(shrinker)

    def unregister_shrinker(self, shrinker: Shrinker) -> None:
        """Forget *shrinker*; it is not running any more when this returns."""
        self.reclaim.unregister_shrinker(shrinker)

    def register_oom_notifier(self, notify: Callable[[], int]) -> None:
        """Have *notify* free pages, and return how many, before an allocation fails for good."""
        self.page_alloc.slow_path.register_oom_notifier(notify)

    def kmem_cache_create(
        self,
        name: str,
        size: int,
        align: int = 0,
        flags: int = 0,
        ctor: Callable[[int], None] | None = None,
    ) -> KmemCache:
        """
        A cache of objects of *size* bytes: ``cache.alloc()``, ``cache.free(address)``. May sleep.

        A cache that is like enough may be shared: see `KmemCache.aliases`.

        Args:
            align: a power of two, or 0.
            flags: ``SLAB_*`` bits (:mod:`concmem.mm.slab_flags`).
            ctor: called with the address of each object when its slab is made.

        Raises:
            BadArgument: something cannot be, or the name is taken.
        """
        return self.slab.create(name, size, align, flags, ctor)

    def process(self, name: str = "process", **limits: int) -> UserProcess:
        """
        A new process, with an address space and a C library of its own. From any thread.

        Args:
            limits: ``rlimit_as``, ``rlimit_data``, ``rlimit_stack`` (bytes), ``max_map_count``.

        Raises:
            BadArgument: something cannot be.
        """
        return cast(UserProcess, self.processes.create(name, **limits))

    # -- look and check

    def verify(self) -> None:
        """
        Check every invariant, with all CPUs parked between two operations.

        Raises:
            ValidationError: the rule that is broken, with zone, order and pfn, or addresses.
        """
        self.runtime.stop_machine(self._validate)

    def _validate(self) -> None:
        """The kernel, and the heap of every process. All CPUs are parked."""
        self.kernel.validate()
        for process in self.processes.processes():
            if isinstance(process, UserProcess):
                process.validate_malloc()

    def statistics(self) -> MachineStatistics:
        """A copy of all counters. Does not stop the CPUs; sleeps where a process changes its mappings."""
        user = user_statistics(self.processes, len(self.nodes))
        return MachineStatistics(
            nr_cpus=self.runtime.nr_cpus,
            nodes=tuple(
                node.statistics()._replace(user=user.nodes[node.node_id]) for node in self.nodes
            ),
            cpus=tuple(
                CpuStatistics(cpu, node.node_id, thread.native_id, thread.nr_interrupts)
                for node in self.nodes
                for cpu in node.cpus
                for thread in [self.runtime.cpus[cpu]]
            ),
            events=self.events.sum(),
            min_free_kbytes=self.kernel.min_free.kbytes,
            locks=self.lock_statistics(),
            slabs=tuple(s.statistics() for s in self.slab.caches()),
            vmalloc=self.vm_areas.statistics(),
            user=user,
            destroyed_slab_events=dict(self.slab.destroyed_events),
            proc_reads=dict(self.procfs.nr_reads),
            kmemleak=self.kmemleak.statistics(),
            lockdep=self.runtime.lockdep.statistics() if self.runtime.lockdep else None,
        )

    def lock_statistics(self) -> tuple[LockClassStatistics, ...]:
        """Lock classes, most contended first; empty without ``lockstat``. Takes no lock."""
        lockstat = self.runtime.lockstat
        return tuple(lockstat.statistics()) if lockstat else ()

    # -- the end

    def close(self) -> None:
        """Stop all CPUs, also in the middle of a body, and give memory back. Idempotent."""
        self.runtime.shutdown()
        memory = getattr(self, "memory", None)
        if memory is not None:
            memory.close()

    def __repr__(self) -> str:
        config = self.config
        return (
            f"<concmem.Machine cpus={self.runtime.nr_cpus} memory={format_size(config.memory)} "
            f"nodes={config.nodes} runtime={self.runtime.name}>"
        )

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
