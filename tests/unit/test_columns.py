"""Tests that the schema of flow columns agrees with the kernel object's BTF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import TCP, Mark, Role
from probe.flow.columns import (
    BIFLOW_DTYPE,
    COLUMNS,
    EVENT_KINDS,
    RECORD_DTYPE,
    ROW_DTYPE,
    ROW_KINDS,
    In,
    Merge,
    row_names,
    select,
)
from probe.flow.end_table import EndTable
from probe.flow.merge_rows import merge_rows
from probe.flow.rows import Rows
from probe.kernel.btf import Btf
from probe.kernel.libbpf import KernelObject

OBJECT = Path(__file__).resolve().parents[2] / "bpf" / "sockflow.bpf.o"
#: Members of struct flow_row that only the kernel half uses.
IN_THE_KERNEL = {"user_changes", "udp_flags", "pad"}
S = 1_000_000_000


@pytest.fixture(scope="module")
def btf() -> Iterator[Btf]:
    kernel_object = KernelObject(OBJECT)  # opened, not loaded: that needs no privilege
    yield kernel_object.btf
    kernel_object.close()


def lengths(dtype: np.dtype[Any], *without: str) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Returns {column: (octets of an element, shape)}.

    Signs are left out, since the kernel's times have none.
    """
    fields = {name: dtype[name] for name in dtype.names or () if name not in without}
    return {name: (kind.base.itemsize, kind.shape) for name, kind in fields.items()}


def test_rows_are_those_of_the_kernel_object(btf: Btf) -> None:
    found = lengths(btf.struct_dtype("sent_row"), *IN_THE_KERNEL)
    assert found == lengths(ROW_DTYPE, "pad")


def test_events_are_those_of_the_kernel_object(btf: Btf) -> None:
    fields = [(name, kind) for name, kind in EVENT_KINDS.items() if "[" not in kind]
    found = lengths(btf.struct_dtype("event_row"), "pad")
    assert found.keys() == EVENT_KINDS.keys()
    assert all(found[name] == (np.dtype(kind).itemsize, ()) for name, kind in fields)


def test_each_name_stands_once() -> None:
    names = [name for column in select(In.RECORD) for name in column.record_names]
    assert len(names) == len(set(names))
    rows = row_names(select(In.ROW))
    assert len(rows) == len(set(rows)) == len(ROW_KINDS)


@pytest.mark.parametrize("dtype", [ROW_DTYPE, RECORD_DTYPE, BIFLOW_DTYPE])
def test_columns_are_aligned_without_holes(dtype: np.dtype[Any]) -> None:
    end = 0
    assert dtype.fields
    for name in dtype.names or ():
        offset = dtype.fields[name][1]
        assert offset == end
        assert offset % dtype[name].base.itemsize == 0
        end += dtype[name].itemsize
    assert end == dtype.itemsize
    assert end % 8 == 0


def test_a_known_column_says_what_tells_that_it_is_known() -> None:
    names = {column.name for column in COLUMNS}
    assert all(column.known_by in names for column in COLUMNS if column.known_by)
    assert all(column.merge == Merge.KNOWN for column in COLUMNS if column.known_by)


def some_rows(count: int, seed: int) -> Rows:
    """Returns random rows of TCP ends in the order in which they came."""
    random = np.random.default_rng(seed)
    rows: Rows = np.zeros(count, ROW_DTYPE)
    for name in ROW_KINDS:
        rows[name] = random.integers(0, 3, rows[name].shape)
    rows["protocol"] = TCP
    rows["owner_source"] = np.where(rows["owner"], 1 + rows["owner_source"], 0)
    rows["mark"] &= ~np.uint8(Mark.CLOSED)
    rows["last_ns"] = S + np.arange(count)
    rows["start_ns"] = S
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_rows_merged_in_a_batch_are_rows_merged_in_the_table(seed: int) -> None:
    """Rows read at once leave the same state as rows read one by one."""
    rows = some_rows(4, seed)
    tables = [EndTable(), EndTable()]
    slots = [table.allocate(1) for table in tables]
    tables[0].open(slots[0], rows[:1], 2 * S)
    for at in range(1, len(rows)):
        tables[0].update(slots[0], rows[at : at + 1], 2 * S)
    merged, merged_slots = merge_rows(rows, np.repeat(slots[1], len(rows)), tables[1].scratch)
    tables[1].open(merged_slots, merged, 2 * S)
    assert (tables[0].total == tables[1].total).all()
    counters = row_names(select(In.ROW, merge=Merge.SUM))
    first, second = (table.rows[slot][0] for table, slot in zip(tables, slots, strict=True))
    for name in ROW_KINDS:
        if name not in counters:
            assert np.array_equal(first[name], second[name]), name


def test_every_counter_and_gauge_comes_out_of_the_cache() -> None:
    """Each column of a row has its own value, which comes out in the records of both directions."""
    cache = FlowCache(host_netns=7)
    rows: Rows = np.zeros(2, ROW_DTYPE)
    for number, name in enumerate(ROW_KINDS):
        rows[name] = 1 + number
    rows["id"], rows["protocol"], rows["ip_version"], rows["mark"] = [1, 2], TCP, 4, 0
    rows["start_ns"], rows["last_ns"] = S, 2 * S
    rows["role"] = [Role.INITIATOR, Role.RESPONDER]
    for end, peer in ((0, 1), (1, 0)):
        for name in ("address", "port"):
            rows[f"local_{name}"][end], rows[f"remote_{name}"][end] = 10 + end, 10 + peer
        rows["isn_local"][end], rows["isn_remote"][end] = 100 + end, 100 + peer
    cache.observe(FlowBatch(rows), 3 * S)
    records = cache.flush(4 * S, 0)
    assert len(records) == 2
    told = [column for column in select(In.METERED) if not column.name.endswith("_ns")]
    for column in told:
        for name in column.record_names:
            assert records[name].any(), f"{name} is lost on the way"
