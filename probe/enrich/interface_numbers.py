"""Adds the host's interfaces that the packets of containers pass."""

from __future__ import annotations

from probe.enrich.enrichers import Enricher
from probe.flow.rows import Rows
from probe.interfaces.veth import VethMap


class InterfaceNumbers(Enricher):
    """Fills in ingress and egress interfaces of records from and to containers."""

    def __init__(self, veths: VethMap) -> None:
        self._veths = veths

    def apply(self, records: Rows) -> Rows:
        """Returns all of ``records``."""
        self._veths.apply(records)
        return records
