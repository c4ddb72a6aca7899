from __future__ import annotations

import pytest

from concmem.reports import lock_stat
from concmem.runtime.lockstat import LockClassStatistics, LockTimes

from .samples import make_lock, make_machine, make_zone

DASHES = "-" * 221
HEADER = (
    "lock_stat version 0.4\n"
    f"{DASHES}\n"
    "                              class name    con-bounces    contentions   waittime-min"
    "   waittime-max waittime-total   waittime-avg    acq-bounces   acquisitions   holdtime-min"
    "   holdtime-max holdtime-total   holdtime-avg\n"
    f"{DASHES}\n"
    "\n"
)
WRITE = make_lock(
    "mm->mmap_lock-W",
    con_bounces=46,
    contentions=84,
    wait=LockTimes(84, 260, 939_100, 16_371_530),
    acq_bounces=47291,
    acquisitions=2922365,
    hold=LockTimes(2922365, 160, 2_220_301_690, 17_464_026_916_320),
    contention_points=(("brk", 81), ("mmap", 3)),
    contending_points=(("munmap", 84),),
)
READ = make_lock(
    "mm->mmap_lock-R",
    con_bounces=37,
    contentions=100,
    wait=LockTimes(100, 1310, 299_502_610, 325_629_520),
    acq_bounces=212344,
    acquisitions=34316685,
    hold=LockTimes(34316685, 100, 7_744_910, 95_016_910_200),
    contention_points=(("fault", 96), ("mmap", 4)),
    contending_points=(("", 100),),
)


def render(*locks: LockClassStatistics) -> str:
    return lock_stat.render(make_machine(make_zone(), locks=locks))


def test_no_locks_is_only_the_header() -> None:
    """A machine without lock statistics shows the header and nothing else."""
    assert render() == HEADER


def test_uncontended_lock_is_one_line() -> None:
    """A lock that nobody waited for has its numbers under their columns and no points."""
    lock = make_lock("zone->lock", acq_bounces=3, acquisitions=8, hold=LockTimes(8, 1, 4995, 40000))
    zeros = "".join(f"{'0':>14} " for _ in range(2)) + "".join(f"{'0.00':>14} " for _ in range(4))
    assert render(lock) == HEADER + (
        f"                              zone->lock:{zeros}"
        "             3              8           0.00           5.00          40.00           5.00"
        "\n"
    )


def test_reader_writer_lock() -> None:
    """Writers come first, then readers, then the points of both, the most frequent first."""
    rule = "                         ---------------\n"
    point = "                           mm->mmap_lock {:14d}          [<0000000000000000>] {}\n"
    assert render(READ, WRITE) == HEADER + (
        "                         mm->mmap_lock-W:            46             84           0.26"
        "         939.10       16371.53         194.90          47291        2922365           0.16"
        "     2220301.69 17464026916.32        5975.99\n"
        "                         mm->mmap_lock-R:            37            100           1.31"
        "      299502.61      325629.52        3256.30         212344       34316685           0.10"
        "        7744.91    95016910.20           2.77\n"
        + rule
        + point.format(96, "fault")
        + point.format(81, "brk")
        + point.format(7, "mmap")
        + rule
        + point.format(84, "munmap")
        + f"\n{'.' * 221}\n\n"
    )


def test_written_only_lock_has_its_plain_name() -> None:
    """A reader-writer lock that was never read has one row, without a suffix."""
    text = render(WRITE)
    assert "                           mm->mmap_lock:            46 " in text
    assert "\n                           -------------\n" in text


def test_classes_are_ordered_by_all_their_contentions() -> None:
    """A lock whose two sides waited 184 times stands before one that waited 150 times."""
    other = make_lock("zone->lock", contentions=150)
    text = render(other, READ, WRITE)
    assert text.index("mmap_lock-W:") < text.index("mmap_lock-R:") < text.index("zone->lock:")


def test_at_most_four_points() -> None:
    """Only the four most frequent points of each kind are shown."""
    points = tuple((f"f{i}", 10 - i) for i in range(6))
    text = render(make_lock("x", contentions=45, contention_points=points))
    assert [line.split()[-1] for line in text.splitlines() if "[<" in line] == [
        *("f0", "f1", "f2"),
        "f3",
    ]


def test_long_names_keep_the_columns() -> None:
    """A class name longer than its column is cut off."""
    row = render(make_lock("n" * 60)).splitlines()[-1]
    assert row.startswith("   " + "n" * 37 + ":")
    assert len(row) == 220


@pytest.mark.parametrize(
    ("ns", "text"), [(4, "0.00"), (5, "0.01"), (994, "0.99"), (995, "1.00"), (1_234_567, "1234.57")]
)
def test_times_are_rounded_to_hundredths(ns: int, text: str) -> None:
    """Nanoseconds become microseconds with two decimals, halves upwards."""
    row = render(make_lock("x", hold=LockTimes(1, ns, ns, ns))).splitlines()[-1]
    assert row.split()[-4:] == [text] * 4
