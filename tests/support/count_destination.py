"""A destination that counts records, for tests: all that a new kind of destination needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.export.kind import DestinationKind, absolute_path, choice
from probe.export.local import LocalSink
from probe.export.transports.destination import Destination
from probe.flow.rows import Rows

if TYPE_CHECKING:
    from probe.export.sink import Sink
    from probe.export.sink_factory import SinkFactory


class CountSink(LocalSink):
    """Counts the records of flows, or their octets."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(str(destination))
        self.column = destination.options.get("of", "")
        self.count = 0

    def send(self, records: Rows, now_s: float) -> None:
        self.count += int(records[self.column].sum()) if self.column else len(records)

    def summary(self) -> str:
        return f"{self.count} counted"


def _open(destination: Destination, factory: SinkFactory) -> Sink:
    if destination.path == "/absent":
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401
    return CountSink(destination)


COUNT = DestinationKind(
    scheme="count",
    form="count:///NAME, a name of your own",
    help="only the number of records",
    extra="counting",
    locate=absolute_path,
    options=(choice("of", {"octets": "octets", "packets": "packets"}, "what is summed up"),),
    open=_open,
)
