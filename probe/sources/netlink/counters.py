"""Computes octets and packets of the IP layer, roles, flags and times from struct tcp_info.

Does no I/O and has no clock. The eBPF collector reads some of this from the kernel's own
structures, which tcp_info lacks. Here it is estimated in the same way if possible;
bpf/tcp_counters.h has the reasons. Totals with an estimated part have the mark ESTIMATED.
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

#: Options in tcpi_options: TCPI_OPT_*.
_TIMESTAMPS, _SACK, _WINDOW_SCALE = 1, 2, 4
_SYN_HEADER = 40  # Linux: MSS, SACK permitted, timestamps, window scale
_SACK_BLOCK = 12
_FIN, _SYN, _ACK = 0x01, 0x02, 0x10

#: Columns of rows that are counters; those that inet_diag does not have stay 0.
COUNTED = row_names(select(In.ROW, merge=Merge.SUM))
#: Totals since the connection began. ``mark`` is ESTIMATED if a part is an estimate.
TOTALS = np.dtype([*((name, "i8") for name in COUNTED), ("mark", "u1")])


def find_roles(sockets: Sockets, is_listened: Flags) -> U8:
    """Returns the role of each connection; ``is_listened``: its local port has a listener.

    The bytes_acked of an active opener count its SYN as one octet. This octet shows the role if no
    sent data waits for an acknowledgement and no FIN was sent. Otherwise the listener decides.
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
    """Returns TOTALS of each socket, without ``lost``.

    ``role`` must be the same at every dump of a socket. ``out`` and ``into`` are its segments,
    which tcp_info has modulo 2**32.
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
    # a request socket sent the SYN-ACK; a SYN or SYN-ACK has a longer header
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
    """Returns the tcpControlBits that each end has certainly sent and received."""
    state = sockets["state"]
    opened = (role == Role.RESPONDER) | ~_is_unopened(sockets)
    tx = np.where(opened, _SYN | _ACK, _SYN)
    rx = np.where(opened, _SYN | _ACK, 0)
    tx = tx | np.where(np.isin(state, (FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK)), _FIN, 0)
    rx = rx | np.where(np.isin(state, (CLOSE_WAIT, CLOSING, LAST_ACK)), _FIN, 0)
    return tx.astype(np.uint8), rx.astype(np.uint8)


def read_times(sockets: Sockets, now_ns: int) -> tuple[I64, I64]:
    """Returns (first, last): the earliest and the latest time that the socket remembers.

    A connection is at least as old as ``first``. Sent acknowledgements leave no time.
    """
    ages = np.stack([sockets[name] for name in
                     ("sent_ago_ms", "data_received_ago_ms", "received_ago_ms")])  # fmt: skip
    ages = ages.astype(np.int64) * 1_000_000
    return now_ns - ages.max(axis=0), now_ns - ages.min(axis=0)


def _is_unopened(sockets: Sockets) -> Flags:
    """Returns True for active openers whose SYN got no answer or a refusal."""
    closed = np.isin(sockets["state"], (CLOSE, SYN_SENT))
    unopened: Flags = closed & (sockets["acknowledged"] == 0) & (sockets["received"] == 0)
    unopened &= sockets["sent"] == 0
    return unopened


def _lacks_sent(sockets: Sockets) -> Flags:
    """Returns True if tcp_info ends before bytes_sent, as before Linux 4.19."""
    lacking: Flags = (sockets["sent"] == 0) & (sockets["acknowledged"] > 1)
    return lacking


def _sent(sockets: Sockets) -> I64:
    """Returns octets of payload sent, including those sent again."""
    return np.where(
        _lacks_sent(sockets), sockets["acknowledged"], sockets["sent"]
    ).astype(np.int64)  # fmt: skip


def _sent_once(sockets: Sockets) -> I64:
    once: I64 = sockets["sent"].astype(np.int64) - sockets["resent"].astype(np.int64)
    return once


def _out_of_order_acks(sockets: Sockets, out: I64) -> I64:
    """Returns the ACKs with SACK blocks: one for each segment that came out of order."""
    acks = np.maximum(out - sockets["data_segments_out"], 0)
    found: I64 = np.minimum(sockets["out_of_order"].astype(np.int64), acks)
    return found


def _duplicate_octets(sockets: Sockets) -> I64:
    """Returns the octets that TCP dropped because it had received them before.

    Each dropped segment counts as the mean of the others.
    """
    dropped = sockets["drops"].astype(np.int64)
    others = sockets["data_segments_in"].astype(np.int64) - dropped
    mean = sockets["received"].astype(np.int64) // np.maximum(others, 1)
    return np.where(others > 0, mean * dropped, 0)


def _fin_octet(sockets: Sockets) -> I64:
    """Returns 1 for a received FIN, which tcp_info counts as an octet of payload.

    After the end nothing shows whether a FIN came.
    """
    states = (CLOSE_WAIT, CLOSING, LAST_ACK, CLOSE)
    has = np.isin(sockets["state"], states) & (sockets["received"] > 0)
    return has.astype(np.int64)
