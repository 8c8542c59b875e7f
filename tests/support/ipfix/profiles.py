"""Makes export sessions of a profile, as IPFIX, as NetFlow v9 or with Biflows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from probe.flow.biflow import pair_directions
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.ipfix.options import for_netflow9 as options_for_netflow9
from probe.ipfix.session import ExportSession, Options
from probe.ipfix.wire import IPFIX, NETFLOW9
from probe.mapping import (
    Encoder,
    Privacy,
    for_biflow,
    for_netflow9,
    load_elements,
    load_netflow9,
    load_options,
    load_profile,
    load_template,
)
from tests.support.records import NOW_S, flow_records, owner_table

PROTOCOLS = ("ipfix", "netflow9", "biflow")


@dataclass
class ProfileSession:
    """A session with the options of a probe; ``now_s`` is the time of its first message."""

    profile: str
    protocol: str = "ipfix"
    now_s: float = NOW_S
    max_message: int = 1400
    owners: OwnerTable = field(default_factory=owner_table)
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        elements = load_elements()
        table = load_netflow9(elements) if self.protocol == "netflow9" else None
        profile = load_profile(self.profile)
        definition = load_template(profile.template, elements)
        options = [load_options(elements)[name] for name in profile.options]
        if table:
            definition, _ = for_netflow9(definition, table)
            options = options_for_netflow9(options, table, elements)
        elif self.protocol == "biflow":
            definition = for_biflow(definition, elements)
        boot_s = self.now_s - 3600
        self._session = ExportSession(
            Encoder(definition, self.owners, self.privacy, boot_s),
            odid=3,
            max_message=self.max_message,
            wire=NETFLOW9 if table else IPFIX,
            options=Options(options, _rows, table),
            boot_s=boot_s,
        )

    def records(self, count: int, ip_version: int = 4, later_s: float = 0.0) -> Rows:
        """Returns flows around the time of the session, in both directions if these are paired."""
        records = flow_records(count, ip_version=ip_version)
        shift_ns = round((self.now_s + later_s - NOW_S) * 1e9)
        records["first_ns"] += shift_ns
        records["last_ns"] += shift_ns
        records["translated"] = records["flow_id"] % 3 == 0
        if self.protocol == "biflow":
            records["flow_id"] = (records["flow_id"] - 1) // 2
            return pair_directions(records)
        return records

    def messages(self, records: Rows, later_s: float = 0.0) -> Iterator[bytes]:
        for train in self._session.messages(records, self.now_s + later_s):
            yield from map(bytes, train)


def _rows() -> dict[str, list[dict[str, int | str | bytes]]]:
    interfaces: list[dict[str, int | str | bytes]] = [
        {
            "observationDomainId": 3,
            "ingressInterface": index,
            "interfaceName": f"veth{index - 1}",
            "interfaceDescription": "web" if index == 2 else f"büro {index}",
        }
        for index in (2, 3, 4)
    ]
    return {
        "exporter": [{"observationDomainId": 3, "observationDomainName": "test"}],
        "statistics": [{"exportingProcessId": 1, "exportedMessageTotalCount": 7}],
        "losses": [{"meteringProcessId": 1, "lossCause": "ring full", "lossTotalCount": 5}],
        "interfaces": interfaces,
        "nfdump-interfaces": interfaces,
    }
