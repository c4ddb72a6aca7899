"""The table, against what slabtop of procps-ng 4.0.2 printed for the same slabinfo."""

from __future__ import annotations

import pytest

from concmem.reports import slabtop
from concmem.reports.slabinfo import SlabinfoRow

ROWS = [
    SlabinfoRow("newest_cache", 0, 0, 312, 13, 1, 0, 0),
    SlabinfoRow("a_name_longer_than_the_column", 12, 12, 320, 12, 1, 1, 1),
    SlabinfoRow("task_struct", 124, 135, 5824, 5, 8, 27, 27),
    SlabinfoRow("kmalloc-64", 2878, 3712, 64, 64, 1, 58, 58),
    SlabinfoRow("kmalloc-8k", 1, 4000, 8192, 4, 8, 900, 1000),
    SlabinfoRow("kmalloc-8", 511, 512, 8, 512, 1, 1, 1),
    SlabinfoRow("huge", 1234567, 12345678, 1024, 16, 4, 771604, 771605),
]

BY_SIZE = """\
 Active / Total Objects (% used)    : 1238093 / 12354049 (10.0%)
 Active / Total Slabs (% used)      : 772591 / 772692 (100.0%)
 Active / Total Caches (% used)     : 6 / 7 (85.7%)
 Active / Total Size (% used)       : 1235467.87K / 12378685.56K (10.0%)
 Minimum / Average / Maximum Object : 0.01K / 1.00K / 8.00K

  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME                   \n\
12345678 1234567   9%    1.00K 771605       16  12345680K huge                   \n\
  4000      1   0%    8.00K   1000        4     32000K kmalloc-8k             \n\
   135    124  91%    5.69K     27        5       864K task_struct            \n\
  3712   2878  77%    0.06K     58       64       232K kmalloc-64             \n\
    12     12 100%    0.31K      1       12         4K a_name_longer_than_the_column
   512    511  99%    0.01K      1      512         4K kmalloc-8              \n\
     0      0   0%    0.30K      0       13         0K newest_cache           \n\
"""


def test_the_table_of_slabtop() -> None:
    """Byte for byte."""
    assert slabtop.render(ROWS, "c") == BY_SIZE


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("a", "huge kmalloc-64 kmalloc-8 task_struct a_name kmalloc-8k newest"),
        ("b", "kmalloc-8 kmalloc-64 huge newest a_name task_struct kmalloc-8k"),
        ("c", "huge kmalloc-8k task_struct kmalloc-64 a_name kmalloc-8 newest"),
        ("l", "huge kmalloc-8k kmalloc-64 task_struct a_name kmalloc-8 newest"),
        ("n", "a_name huge kmalloc-64 kmalloc-8 kmalloc-8k newest task_struct"),
        ("o", "huge kmalloc-8k kmalloc-64 kmalloc-8 task_struct a_name newest"),
        ("p", "task_struct kmalloc-8k huge newest a_name kmalloc-64 kmalloc-8"),
        ("s", "kmalloc-8k task_struct huge a_name newest kmalloc-64 kmalloc-8"),
        ("u", "a_name kmalloc-8 task_struct kmalloc-64 huge newest kmalloc-8k"),
        ("v", "huge kmalloc-8k kmalloc-64 task_struct a_name kmalloc-8 newest"),
    ],
)
def test_orders_of_slabtop(sort: str, names: str) -> None:
    """Every sort key, with ties as slabtop has them: in the order of the file."""
    found = [row.name for row in slabtop.sort_rows(ROWS, sort)]
    shortened = [name.replace("_longer_than_the_column", "") for name in found]
    assert " ".join(shortened).replace("newest_cache", "newest") == names
    assert len(slabtop.SORTS) == 10


def test_limit_cuts_rows_but_not_totals() -> None:
    """The header counts all caches."""
    lines = slabtop.render(ROWS, "c", limit=2).splitlines(keepends=True)
    whole = BY_SIZE.splitlines(keepends=True)
    assert lines == whole[: slabtop.HEADER_LINES + 2]


def test_nothing_to_show() -> None:
    """No cache, or one without objects, are 0, not a failure."""
    for rows in ([], ROWS[:1]):
        header = slabtop.render(rows).splitlines()
        assert header[0].endswith(": 0 / 0 (0.0%)")
        assert "/ 0.00K (0.0%)" in header[3]
    assert slabtop.totals([]) == (0,) * len(slabtop.Totals._fields)
