"""What a source gives at each read."""

from __future__ import annotations

from dataclasses import dataclass

from probe.flow.columns import ROW_KINDS
from probe.flow.rows import Rows


@dataclass(slots=True)
class FlowBatch:
    """Rows of ends, with counters since the previous row of each end.

    ``rows`` have the columns of ROW_KINDS and may have more. Those of the eBPF source are laid out
    as the kernel object says. ``rows['owner']`` holds indices of the OwnerTable, 0 if unknown.
    """

    rows: Rows

    def __post_init__(self) -> None:
        missing = [name for name in ROW_KINDS if name not in (self.rows.dtype.names or ())]
        if missing:
            raise ValueError(f"flow rows lack the columns {', '.join(missing)}")

    def __len__(self) -> int:
        return len(self.rows)
