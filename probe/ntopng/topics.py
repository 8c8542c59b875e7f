"""Makes what ntopng gets as JSON: status, counters, names of fields and interfaces, ports."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probe import __version__
from probe.ipfix.elements import ElementTable
from probe.jsonlines.interface_objects import container_object
from probe.jsonlines.owner_objects import POD_KEYS
from probe.netlink.rtnetlink import Link
from probe.ntopng.tlv import EXPORTER_IPV4_ADDRESS
from probe.ntopng.tlv_columns import ADDRESSES, NUMBERS
from probe.ntopng.tlv_items import FLOAT, KINDS
from probe.ntopng.tlv_owners import OWNER_ITEMS

if TYPE_CHECKING:
    from probe.interfaces.interface import Interface

NTOP_PEN = 35632
#: Maps the extra fields to those of our elements with the same meaning.
_EXTRA = {
    "CONTAINER_NAME": "ContainerName",
    "CONTAINER_UNCONFIRMED": "OwnerOrigin",
    "POD_NAME": "PodName",
    "POD_NAMESPACE": "PodNamespace",
}
_SIDES = {"SRC": "source", "DST": "destination"}
_UP = 1  # ifOperStatus

Object = dict[str, Any]


def encode_json(value: object) -> bytes:
    """Returns JSON in ASCII. Other characters are escaped."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def probe_object(source_id: int, address: str) -> Object:
    return {
        "public_ip": address,
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{os.uname().nodename}/{source_id}")),
        "unique_source_id": source_id,
        "ip": address,
        "version": __version__,
        "osname": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def counter_object(link: Interface, address: str, samples: int) -> Object:
    """Returns the counters of an interface. ``samples`` must differ in each message."""
    counted = link.counters
    found: Object = {
        "deviceIP": int(ipaddress.IPv4Address(address)),
        "samplesGenerated": samples,
        "ifIndex": link.index,
        "ifName": link.name,
        "ifType": link.type,
        "ifSpeed": link.speed,
        "ifDirection": "Full",
        "ifAdminStatus": "Up" if link.is_admin_up else "Down",
        "ifOperStatus": "Up" if link.oper_status == _UP else "Down",
        "ifInOctets": counted.in_octets,
        "ifInPackets": counted.in_packets,
        "ifInErrors": counted.in_errors,
        "ifOutOctets": counted.out_octets,
        "ifOutPackets": counted.out_packets,
        "ifOutErrors": counted.out_errors,
        "ifPromiscuousMode": int(link.is_promiscuous),
    }
    if link.container_id:
        named = container_object(link.container_id, link.names, POD_KEYS["zmq"])
        found["LOCAL_CONTAINER"] = {"ID": link.container_id, **named}
    return found


def interface_names(address: str, interfaces: Sequence[Link]) -> Object:
    return {address: {str(one.index): one.name for one in interfaces}}


def template_fields(elements: ElementTable) -> list[Object]:
    """Returns every key that a flow may have, with its number in IPFIX."""
    fields = [_field(0, EXPORTER_IPV4_ADDRESS, 4, "ipv4_address", "EXPORTER_IPV4_ADDRESS")]
    for version, (octets, kind) in {4: (4, "ipv4_address"), 6: (16, "ipv6_address")}.items():
        fields += [_field(0, key, octets, kind, name) for key, name, _ in ADDRESSES[version]]
    for number in NUMBERS:
        pen, _, name = str(number.key).rpartition(".")
        length = int(KINDS[number.kind][-1])
        kind = "float" if number.kind == FLOAT else "formatted_uint"
        fields.append(_field(int(pen or 0), int(name), length, kind, number.name))
    for side in _SIDES:
        fields += [_owner_field(side, name, elements) for name, _, _ in OWNER_ITEMS]
    return fields


def _owner_field(side: str, name: str, elements: ElementTable) -> Object:
    extra = _EXTRA.get(name)
    element = elements[f"{_SIDES[side]}{extra}" if extra else f"{side}_{name}"]
    kind, length = ("ascii", 32) if element.type.name == "string" else ("formatted_uint", 4)
    return _field(element.pen, element.id, length, kind, f"{side}_{name}")


def _field(pen: int, number: int, length: int, kind: str, name: str) -> Object:
    words = name.replace("_", " ").lower()
    return {
        "PEN": pen, "field": number, "len": length, "format": kind, "name": name, "descr": words
    }  # fmt: skip


def drops_object(dropped: int, losses: Mapping[str, int]) -> Object:
    """Returns the losses of the Metering Process by cause, and the flows dropped in our queue."""
    evicted = losses.get("flows_evicted", 0)
    others = {cause: count for cause, count in losses.items() if cause != "flows_evicted"}
    return {"export_queue_full": dropped, "too_many_flows": evicted, **others}
