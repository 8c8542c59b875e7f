"""Lists the counters: names without ``_total``, the column of each, and its help."""

from __future__ import annotations

_IN = "of a veth, what its container sends"
_OUT = "of a veth, what its container gets"

#: Counters from the columns of ``interfaces.table.Counters``.
INTERFACES = {
    f"sockflow_interface_{name}": (column, help_)
    for name, column, help_ in (
        ("receive_bytes", "in_octets", f"Octets that came in at the host's side; {_IN}."),
        ("receive_packets", "in_packets", f"Packets that came in at the host's side; {_IN}."),
        ("receive_multicast_packets", "in_multicast", "Those of them that are multicast."),
        ("receive_errors", "in_errors", f"Packets with errors; {_IN}."),
        ("receive_drops", "in_discards", f"Packets dropped on their way in; {_IN}."),
        ("transmit_bytes", "out_octets", f"Octets that went out at the host's side; {_OUT}."),
        ("transmit_packets", "out_packets", f"Packets that went out at the host's side; {_OUT}."),
        ("transmit_errors", "out_errors", f"Packets with errors; {_OUT}."),
        ("transmit_drops", "out_discards", f"Packets dropped on their way out; {_OUT}."),
    )
}

#: The same counters for interfaces that are gone.
ENDED = {
    name.replace("_interface_", "_ended_interface_"): (
        column,
        f"Sum of those that are gone. {help_}",
    )
    for name, (column, help_) in INTERFACES.items()
}

#: Counters from the columns of ``traffic.ContainerTraffic``.
CONTAINERS = {
    f"sockflow_container_{name}": (column, help_)
    for name, column, help_ in (
        ("sent_bytes", "sent_octets", "Octets of the IP layer that the container sent."),
        ("sent_packets", "sent_packets", "Packets that the container sent."),
        ("received_bytes", "received_octets", "Octets of the IP layer that the container got."),
        ("received_packets", "received_packets", "Packets that the container got."),
        ("retransmitted_segments", "retransmitted", "TCP segments that it sent again."),
        ("lost_segments", "lost", "TCP segments of its own that it took for lost."),
    )
}

#: Counters from the fields of ``probe.figures.DestinationFigures``.
DESTINATIONS = {
    f"sockflow_destination_{name}": (column, help_)
    for name, column, help_ in (
        ("messages", "messages", "Messages sent."),
        ("sent_bytes", "octets", "Octets of messages sent."),
        ("records", "records", "Data Records sent, those of options included."),
        ("dropped_messages", "dropped_messages", "Messages that were not sent."),
        ("dropped_records", "dropped_records", "Data Records that were not sent."),
        ("errors", "errors", "Failures of sending or connecting."),
    )
}

#: Counters from fields of ``probe.figures.Figures``. DURATIONS are its histograms of seconds.
TOTALS = {
    f"sockflow_{name}": (column, help_)
    for name, column, help_ in (
        ("flows_observed", "flows", "Flows seen."),
        ("records", "records", "Flow records made, whatever became of them."),
        ("packets", "packets", "Packets in flow records."),
        ("bytes", "octets", "Octets of the IP layer in flow records."),
        ("excluded_packets", "excluded_packets", "Packets that filters left out."),
        ("excluded_bytes", "excluded_octets", "Octets that filters left out."),
        ("snmp_agent_deaths", "agent_deaths", "How often the SNMP agent ended by itself."),
    )
}

DURATIONS = {
    "sockflow_tick_seconds": (
        "ticks",
        "Time that one tick took: a snapshot of the sockets and all that follows from it.",
    ),
    "sockflow_tick_delay_seconds": (
        "tick_delays",
        "How much later than planned a tick began, as others had the thread or the processor.",
    ),
}
