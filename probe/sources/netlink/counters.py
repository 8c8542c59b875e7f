"""struct tcp_info -> octets and packets of the IP layer, roles, flags and times. No I/O, no clock.

What the kernel's own structures tell the eBPF collector and tcp_info does not is estimated the
same way where it can be (bpf/tcp_counters.h has the reasons), and ``ends_in_doubt`` says where not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import Mark, Role
from probe.flow.columns import In, Merge, row_names, select
from probe.netlink.inet_diag import (
    CLOSE,
    CLOSE_WAIT,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    SYN_RECV,
    SYN_SENT,
    Sockets,
)

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]

#: TCPI_OPT_*
_TIMESTAMPS, _SACK, _WINDOW_SCALE = 1, 2, 4
_SYN_HEADER = 40  # Linux: MSS, SACK permitted, timestamps, window scale
_SACK_BLOCK = 12
_FIN, _SYN, _ACK = 0x01, 0x02, 0x10

#: Columns of rows that count; those that inet_diag does not know stay 0.
COUNTED = row_names(select(In.ROW, merge=Merge.SUM))
#: Totals since the connection began. ``mark``: ESTIMATED where a part is an estimate.
TOTALS = np.dtype([*((name, "i8") for name in COUNTED), ("mark", "u1")])


def find_roles(sockets: Sockets, is_listened: Flags) -> U8:
    """Role of each connection; ``is_listened``: its local port has a listener.

    The active opener's SYN is in its bytes_acked: where nothing of what was sent waits for an
    acknowledgement, and no FIN was sent, the octet more tells the role. Else the listener does.
    """
    role = np.where(is_listened, Role.RESPONDER, Role.INITIATOR)
    state = sockets["state"]
    extra = sockets["acknowledged"].astype(np.int64) - _sent_once(sockets)
    settled = sockets["unacknowledged"] == 0
    open_end = settled & ((state == ESTABLISHED) | (state == CLOSE_WAIT))
    role = np.where(open_end & (extra == 0), Role.RESPONDER, role)
    role = np.where(open_end & (extra == 1), Role.INITIATOR, role)
    role = np.where(settled & (state == CLOSE) & (extra == 2), Role.INITIATOR, role)
    role = np.where(state == SYN_SENT, Role.INITIATOR, role)
    return np.where(state == SYN_RECV, Role.RESPONDER, role).astype(np.uint8)


def count_totals(sockets: Sockets, role: U8, out: I64, into: I64) -> NDArray[np.void]:
    """TOTALS of each socket but ``lost``. ``role`` must be the same at every dump of a socket.

    ``out``, ``into``: its segments, which tcp_info has modulo 2**32.
    """
    totals = np.zeros(len(sockets), TOTALS)
    ip = np.where(sockets["ip_version"] == 6, 40, 20)
    options, state = sockets["options"], sockets["state"]
    header = ip + 20 + np.where(options & _TIMESTAMPS, 12, 0)
    syn_ack = ip + 24 + np.where(options & _WINDOW_SCALE, 4, 0)
    syn_ack += np.where(options & _TIMESTAMPS, 12, np.where(options & _SACK, 4, 0))
    sent, received = _sent(sockets), sockets["received"].astype(np.int64)
    accepted = role == Role.RESPONDER
    unopened = ~accepted & _is_unopened(sockets)

    sacks = np.where(options & _SACK, _out_of_order_acks(sockets, out), 0)
    totals["tx_packets"], totals["rx_packets"] = out + accepted, into
    # the SYN-ACK was sent by a request socket; a SYN of either kind has a longer header
    tx = sent + out * header + np.where(accepted, syn_ack, ip + _SYN_HEADER - header)
    rx = received - _fin_octet(sockets) + into * header + syn_ack - header
    totals["tx_octets"] = np.where(unopened, out * (ip + _SYN_HEADER), tx + _SACK_BLOCK * sacks)
    duplicates = _duplicate_octets(sockets)
    totals["rx_octets"] = np.where(unopened, into * (ip + 20), rx + duplicates)
    totals["retransmitted"] = sockets["retransmitted"]
    guessed = (
        (sacks > 0)
        | (duplicates > 0)
        | ((state == CLOSE) & ~unopened)
        | (~unopened & _lacks_sent(sockets))
    )
    totals["mark"] = np.where(guessed, Mark.ESTIMATED, 0)
    return totals


def control_bits(sockets: Sockets, role: U8) -> tuple[U8, U8]:
    """tcpControlBits that each end is known to have sent and received."""
    state = sockets["state"]
    opened = (role == Role.RESPONDER) | ~_is_unopened(sockets)
    tx = np.where(opened, _SYN | _ACK, _SYN)
    rx = np.where(opened, _SYN | _ACK, 0)
    tx = tx | np.where(np.isin(state, (FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK)), _FIN, 0)
    rx = rx | np.where(np.isin(state, (CLOSE_WAIT, CLOSING, LAST_ACK)), _FIN, 0)
    return tx.astype(np.uint8), rx.astype(np.uint8)


def read_times(sockets: Sockets, now_ns: int) -> tuple[I64, I64]:
    """(first, last): the earliest and the latest moment that the socket itself remembers.

    A connection is at least as old as ``first``. Acknowledgements sent leave no time behind.
    """
    ages = np.stack([sockets[name] for name in
                     ("sent_ago_ms", "data_received_ago_ms", "received_ago_ms")])  # fmt: skip
    ages = ages.astype(np.int64) * 1_000_000
    return now_ns - ages.max(axis=0), now_ns - ages.min(axis=0)


def _is_unopened(sockets: Sockets) -> Flags:
    """Active openers without an answer to their SYN, or with a refusal."""
    closed = np.isin(sockets["state"], (CLOSE, SYN_SENT))
    unopened: Flags = closed & (sockets["acknowledged"] == 0) & (sockets["received"] == 0)
    unopened &= sockets["sent"] == 0
    return unopened


def _lacks_sent(sockets: Sockets) -> Flags:
    """Before Linux 4.19 tcp_info ends in front of bytes_sent."""
    lacking: Flags = (sockets["sent"] == 0) & (sockets["acknowledged"] > 1)
    return lacking


def _sent(sockets: Sockets) -> I64:
    """Octets of payload sent, with what was sent again."""
    return np.where(
        _lacks_sent(sockets), sockets["acknowledged"], sockets["sent"]
    ).astype(np.int64)  # fmt: skip


def _sent_once(sockets: Sockets) -> I64:
    once: I64 = sockets["sent"].astype(np.int64) - sockets["resent"].astype(np.int64)
    return once


def _out_of_order_acks(sockets: Sockets, out: I64) -> I64:
    """What came out of order was answered by an ACK with at least one SACK block."""
    acks = np.maximum(out - sockets["data_segments_out"], 0)
    found: I64 = np.minimum(sockets["out_of_order"].astype(np.int64), acks)
    return found


def _duplicate_octets(sockets: Sockets) -> I64:
    """What TCP dropped was received before; each segment of it counts as the mean of the others."""
    dropped = sockets["drops"].astype(np.int64)
    others = sockets["data_segments_in"].astype(np.int64) - dropped
    mean = sockets["received"].astype(np.int64) // np.maximum(others, 1)
    return np.where(others > 0, mean * dropped, 0)


def _fin_octet(sockets: Sockets) -> I64:
    """A received FIN counts as one octet of payload. At the end nothing says whether one came."""
    states = (CLOSE_WAIT, CLOSING, LAST_ACK, CLOSE)
    has = np.isin(sockets["state"], states) & (sockets["received"] > 0)
    return has.astype(np.int64)
