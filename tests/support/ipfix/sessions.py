"""Makes export sessions as the probe does, without destinations."""

from __future__ import annotations

from probe.ipfix.message import Train
from probe.ipfix.options import for_netflow9
from probe.ipfix.session import ExportSession, Options
from probe.ipfix.wire import NETFLOW9
from probe.mapping import Encoder, load_elements, load_netflow9, load_options, load_template
from tests.support.records import NOW_S, owner_table

BOOT_S = int(NOW_S) - 100_000


def make_session(name: str = "full", odid: int = 7, **settings: float) -> ExportSession:
    """Returns a session of a shipped Template, with types (RFC 5610) as its only option."""
    elements = load_elements()
    encoder = Encoder(load_template(name, elements), owner_table())
    options = Options([load_options(elements)["types"]])
    return ExportSession(encoder, odid=odid, options=options, **settings)  # type: ignore[arg-type]


def make_session9(name: str = "full", odid: int = 7) -> ExportSession:
    """Returns a session of NetFlow v9, of a host that booted at BOOT_S."""
    elements = load_elements()
    table = load_netflow9(elements)
    definition = load_template(name, elements).changed(
        lambda field: [changed] if (changed := table.field(field)) else []
    )
    options = for_netflow9([load_options(elements)["types"]], table, elements)
    return ExportSession(
        Encoder(definition, owner_table(), boot_s=BOOT_S),
        odid=odid,
        wire=NETFLOW9,
        options=Options(options, netflow9=table),
        boot_s=BOOT_S,
    )


def messages_of(trains: list[Train]) -> list[bytes]:
    return [bytes(message) for train in trains for message in train]
