"""Numbers and flows as plain text; the columns that the live table and the lines share."""

from __future__ import annotations

from probe.view.flows import End, Flow

COLUMNS = ("proto", "client", "server", "sent", "received", "process", "user", "container",
           "age", "state")  # fmt: skip

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def octets(count: int) -> str:
    """1234567 -> '1.23 MB' (decimal units, three digits)."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def age(seconds: float) -> str:
    """'0.8s', '42s', '3m12s', '5h07m', '2d03h'."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def cells(flow: Flow, now_s: float) -> tuple[str, ...]:
    """The texts of COLUMNS; ``sent`` is what the client sent, ``received`` what it got."""
    client, server = flow.client, flow.server
    return (
        flow.protocol,
        client.endpoint,
        server.endpoint,
        _volume(client),
        _volume(server),
        _both(client.process, server.process),
        _both(client.user, server.user),
        _both(client.container, server.container),
        age(flow.age_s(now_s)),
        flow.state,
    )


def line(flow: Flow, now_s: float) -> str:
    """One flow on one line, for logs and pipes."""
    protocol, client, server, sent, received, process, user, container, lasted, state = cells(
        flow, now_s
    )
    parts = [f"{protocol} {client} > {server}", f"sent {sent}", f"received {received}"]
    named = (("process", process), ("user", user), ("container", container), ("age", lasted),
             ("state", state))  # fmt: skip
    return ", ".join(parts + [f"{name} {value}" for name, value in named if value])


def _volume(end: End) -> str:
    return f"{end.packets} p {octets(end.octets)}"


def _both(client: str, server: str) -> str:
    """'curl(12) > nginx(7)' where both ends are known, '> nginx(7)' for the server's alone."""
    if not server:
        return client
    return client if client == server else f"{client} > {server}".lstrip()
