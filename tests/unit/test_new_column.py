"""Tests what a new column costs.

The worked example of CONTRIBUTING.md is done to a copy of the probe.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: File -> (the beginning of a line, the lines to add behind it). Nothing else changes.
EXAMPLE = {
    "probe/flow/columns.py": (
        '    Column("lost", "u4", Of.SENDER, In.METERED, Merge.SUM),',
        '    Column("reordered", "u4", Of.SENDER, In.METERED, Merge.SUM),',
    ),
    "templates/elements.txt": (
        "reverseTcpLostSegmentDeltaCount ",
        "tcpReorderedSegmentDeltaCount private/900 unsigned32 deltaCounter packets Out of order\n"
        "reverseTcpReorderedSegmentDeltaCount private/901 unsigned32 deltaCounter packets Reverse",
    ),
    "probe/mapping/tables.py": (
        '    "tcpLostSegmentDeltaCount": Column("lost"),',
        '    "tcpReorderedSegmentDeltaCount": Column("reordered"),',
    ),
}
#: Feeds rows of both ends of a connection, and prints what a collector decodes.
RUN = """
import json
import numpy as np
from probe.flow.batch import FlowBatch
from probe.flow.biflow import pair_directions
from probe.flow.cache import FlowCache
from probe.flow.columns import ROW_DTYPE
from probe.flow.owner import OwnerTable
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.session import ExportSession
from probe.ipfix.template import parse_template
from probe.mapping import Encoder, load_elements
from probe.mapping.definitions import for_biflow

def read(reordered, closed):
    rows = np.zeros(2, ROW_DTYPE)
    rows["id"], rows["reordered"], rows["mark"] = [1, 2], reordered, closed
    rows["isn_local"], rows["isn_remote"], rows["role"] = [5, 9], [9, 5], [1, 2]
    rows["protocol"], rows["ip_version"], rows["netns"] = 6, 4, 1
    rows["tx_packets"] = rows["rx_packets"] = 1
    return FlowBatch(rows)

cache = FlowCache()
cache.observe(read([30, 40], 0), 10**9)
cache.observe(read([3, 4], 1), 2 * 10**9)
records = cache.flush(3 * 10**9, 0)
elements = load_elements()
text = "biflowDirection\\ntcpReorderedSegmentDeltaCount\\n"
one_way = parse_template(text, "example", elements)
told = []
for definition, rows in (
    (one_way, records), (for_biflow(one_way, elements), pair_directions(records))
):
    session = ExportSession(Encoder(definition, OwnerTable()))
    collector = CollectingProcess(elements)
    for train in session.messages(rows, 3.0):
        for message in train:
            told += collector.decode(bytes(message), 0)
print(json.dumps(told))
"""


@pytest.fixture
def changed_copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.o")
    for folder in ("probe", "templates"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name, (anchor, more) in EXAMPLE.items():
        lines = (tmp_path / name).read_text().splitlines()
        (place,) = [at for at, line in enumerate(lines) if line.startswith(anchor)]
        lines.insert(place + 1, more)
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_column_costs_its_line_its_element_and_its_mapping(changed_copy: Path) -> None:
    assert len(EXAMPLE) == 3
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=changed_copy, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    name, reverse = "tcpReorderedSegmentDeltaCount", "reverseTcpReorderedSegmentDeltaCount"
    assert sorted((record["biflowDirection"], record[name]) for record in told[:2]) == [
        (1, 33),
        (2, 44),
    ]
    assert (told[2][name], told[2][reverse]) == (33, 44)
