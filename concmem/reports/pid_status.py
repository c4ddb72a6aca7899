"""
``/proc/<pid>/statm``, ``status``, ``stat`` and ``cmdline``, and ``/proc/stat``.

A process has no program file, so what is about code is 0; nor times, signals or rights, so that these
are 0 or those of root. It sleeps: its threads are CPUs, which run what they are told to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.units import HZ, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics
    from concmem.mm.statistics_process import ProcessStatistics

USER_HZ: Final = 100
_COMM_LENGTH: Final = 15
_NO_LIMIT: Final = (1 << 64) - 1


def render_statm(process: ProcessStatistics) -> str:
    """Pages: size, resident, shared, text, 0, data and stack, 0."""
    data = process.data_vm + process.stack_vm
    return f"{process.total_vm} {process.rss} {process.rss_shmem} 0 0 {data} 0\n"


def render_cmdline(process: ProcessStatistics) -> str:
    """The name, ended by a zero byte."""
    return f"{process.name}\0"


def render_status(process: ProcessStatistics) -> str:
    """The text of ``status``."""
    pid, name = process.pid, process.name[:_COMM_LENGTH]
    ids = f"NStgid:\t{pid}\nNSpid:\t{pid}\nNSpgid:\t{pid}\nNSsid:\t{pid}\n"
    mask = sum(1 << cpu for cpu in process.cpus)
    rights = "".join(f"Cap{kind}:\t{0:016x}\n" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    signals = "".join(f"{kind}:\t{0:016x}\n" for kind in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn"))
    return (
        f"Name:\t{name}\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\n"
        "PPid:\t0\nTracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t0\nGroups:\t \n"
        f"{ids}Kthread:\t0\n{_memory(process)}"
        "CoreDumping:\t0\nTHP_enabled:\t0\nuntag_mask:\t0xffffffffffffffff\n"
        f"Threads:\t{len(process.cpus)}\nSigQ:\t0/0\n{signals}SigCgt:\t{0:016x}\n{rights}"
        "NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n"
        f"Cpus_allowed:\t{_cpumask(mask)}\nCpus_allowed_list:\t{_ranges(process.cpus)}\n"
        "voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n"
    )


def _memory(process: ProcessStatistics) -> str:
    """The ``Vm`` and ``Rss`` lines (``task_mem``), in kB."""
    pages = {
        "VmPeak": process.hiwater_vm,
        "VmSize": process.total_vm,
        "VmLck": 0,
        "VmPin": 0,
        "VmHWM": process.hiwater_rss,
        "VmRSS": process.rss,
        "RssAnon": process.rss_anon,
        "RssFile": 0,
        "RssShmem": process.rss_shmem,
        "VmData": process.data_vm,
        "VmStk": process.stack_vm,
        "VmExe": 0,
        "VmLib": process.exec_vm,
        "VmPTE": process.nr_page_tables,
        "VmSwap": 0,
        "HugetlbPages": 0,
    }
    return "".join(f"{name}:\t{nr << PAGE_SHIFT - 10:8d} kB\n" for name, nr in pages.items())


def _cpumask(mask: int) -> str:
    """Hexadecimal, in groups of 32 bits (``%*pb``)."""
    groups = []
    while mask >> 32:
        groups.append(f"{mask & 0xFFFF_FFFF:08x}")
        mask >>= 32
    return ",".join((f"{mask:x}", *reversed(groups)))


def _ranges(cpus: tuple[int, ...]) -> str:
    """``0-2,5``, of numbers in order (``%*pbl``)."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in parts)


def render_pid_stat(process: ProcessStatistics) -> str:
    """The text of ``stat``: 52 fields, numbered as in proc(5)."""
    fields = dict.fromkeys(range(3, 53), "0")
    fields |= {
        3: "S",
        5: str(process.pid),
        6: str(process.pid),
        8: "-1",
        18: "20",
        20: str(len(process.cpus)),
        22: str(process.start_jiffies * USER_HZ // HZ),
        23: str(process.total_vm * PAGE_SIZE),
        24: str(process.rss),
        25: str(_NO_LIMIT),
        28: str(process.start_stack),
        38: "17",
        39: str(process.cpus[0] if process.cpus else 0),
        47: str(process.start_brk),
    }
    return f"{process.pid} ({process.name[:_COMM_LENGTH]}) {' '.join(fields.values())}\n"


def render_stat(stats: MachineStatistics) -> str:
    """``/proc/stat``: no times; the machine was started at second 0."""
    zeros = " 0" * 10
    cpus = "".join(f"cpu{cpu}{zeros}\n" for cpu in range(stats.nr_cpus))
    nr = 0 if stats.user is None else len(stats.user.processes)
    return (
        f"cpu {zeros}\n{cpus}intr 0\nctxt 0\nbtime 0\nprocesses {nr}\nprocs_running 0\n"
        f"procs_blocked 0\nsoftirq{' 0' * 11}\n"
    )
