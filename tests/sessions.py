"""Export sessions as the probe makes them, without its destinations."""

from __future__ import annotations

from probe.ipfix.session import ExportSession, Options
from probe.mapping import Encoder, load_elements, load_options, load_template
from tests.records import owner_table


def make_session(name: str = "full", odid: int = 7, **settings: float) -> ExportSession:
    """Of a shipped Template, with the type information of RFC 5610 for its only option."""
    elements = load_elements()
    encoder = Encoder(load_template(name, elements), owner_table())
    options = Options([load_options(elements)["types"]])
    return ExportSession(encoder, odid=odid, options=options, **settings)  # type: ignore[arg-type]
