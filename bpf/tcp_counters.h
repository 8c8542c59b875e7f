/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Octets and packets of the IP layer, from the counters of tcp_sock and never from packets.
 *
 *   octets = payload + segments x (IP header + tcp_header_len) + what tcp_sock leaves out
 *
 * docs/architecture.md lists what it leaves out. A row is marked where a part is an estimate. */
#ifndef SOCKFLOW_TCP_COUNTERS_H
#define SOCKFLOW_TCP_COUNTERS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "protocols.h"
#include "rows.h"
#include "socket_flow.h"
#include "tcp_socket.h"

#define SYN_HEADER 40    /* of Linux: MSS, SACK permitted, timestamps, window scale */
#define MSS_OPTION 4
#define TIMESTAMPS_OPTION 12 /* SACK permitted is in its padding */
#define SACK_PERMITTED_OPTION 4
#define WINDOW_SCALE_OPTION 4
#define COOKIE_OPTION 12 /* of TCP Fast Open, in the SYN */
#define SACK_OPTION 12   /* with one block */

/* Each MPTCP segment has an acknowledgement of 64 bits as option. A segment with data has a mapping
 * besides, and so has the one that ends the stream. The first segments of the side that opens the
 * connection have MPTCP_OPENING octets less. */
#define MPTCP_ACK 12
#define MPTCP_MAPPING 16
#define MPTCP_OPENING 4

/* The counters of one TCP connection. */
struct totals {
	u64 tx_octets;
	u64 rx_octets;
	u32 tx_packets;
	u32 rx_packets;
	u32 retransmitted;
	u32 lost;
};

/* Options that both ends of a connection have agreed to. */
struct tcp_options {
	bool timestamps;
	bool sack;
	bool window_scale;
};

static __always_inline struct tcp_options read_options(struct tcp_sock *tp)
{
	struct tcp_options_received *o = &tp->rx_opt;

	return (struct tcp_options){
		.timestamps = BPF_CORE_READ_BITFIELD(o, tstamp_ok),
		.sack = BPF_CORE_READ_BITFIELD(o, sack_ok),
		.window_scale = BPF_CORE_READ_BITFIELD(o, wscale_ok),
	};
}

/* Returns the octets of the TCP header in SYN and SYN-ACK. */
static __always_inline u32 syn_ack_header(struct tcp_options *options)
{
	u32 sack = options->sack ? SACK_PERMITTED_OPTION : 0;

	return TCP_HEADER + MSS_OPTION + (options->timestamps ? TIMESTAMPS_OPTION : sack) +
	       (options->window_scale ? WINDOW_SCALE_OPTION : 0);
}

/* Octets whose packets left no trace but a count. They are 0 on a path without loss or reordering. */
struct estimates {
	u64 tx_octets;
	u64 rx_octets;
};

static __always_inline void estimate(struct estimates *e, struct sock *sk, struct tcp_sock *tp,
				     bool has_sack)
{
	u32 acks = tp->segs_out - tp->data_segs_out;
	u32 duplicates = sk->sk_drops.counter; /* TCP dropped them; only segs_in counts them */
	u32 sacks = 0;

	/* Each duplicate is taken to have the mean payload. MPTCP drops segments without payload. */
	e->rx_octets = 0;
	if (duplicates && !is_mptcp(tp) && duplicates < tp->data_segs_in)
		e->rx_octets = tp->bytes_received / (tp->data_segs_in - duplicates) * duplicates;
	/* A segment out of order is answered by an ACK with a SACK block. The kernel may answer
	 * several by one ACK, so there are at most as many blocks as ACKs. */
	if (bpf_core_field_exists(tp->rcv_ooopack))
		sacks = tp->rcv_ooopack;
	e->tx_octets = has_sack ? SACK_OPTION * (u64)(sacks < acks ? sacks : acks) : 0;
}

/* Adds the octets of MPTCP's options. */
static __always_inline void add_mptcp(struct totals *t, struct flow_row *r, struct sock *sk,
				      struct tcp_sock *tp)
{
	u8 state = sk->__sk_common.skc_state;
	u32 ended = state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT ? 0 : MPTCP_MAPPING;

	if (!r->isn_remote)
		return;
	t->tx_octets += (u64)t->tx_packets * MPTCP_ACK + (u64)tp->data_segs_out * MPTCP_MAPPING +
			ended - (r->role == ROLE_INITIATOR ? MPTCP_OPENING : 0);
	t->rx_octets += (u64)t->rx_packets * MPTCP_ACK + (u64)tp->data_segs_in * MPTCP_MAPPING +
			ended - (r->role == ROLE_RESPONDER ? MPTCP_OPENING : 0);
}

/* Reads the counters of a connection. Returns the marks of the row that reports them. */
static __always_inline u8 read_totals(struct totals *t, struct sock_flow *f, struct flow_row *r,
				      struct sock *sk, struct tcp_sock *tp)
{
	u32 ip = ip_header(r);
	u32 header = ip + tp->tcp_header_len;
	u32 opening = f->opening_segments;
	struct tcp_options options = read_options(tp);
	u32 syn_header = syn_ack_header(&options);
	struct estimates e;

	t->retransmitted = tp->total_retrans;
	t->lost = tp->lost;
	t->tx_packets = tp->segs_out;
	t->rx_packets = tp->segs_in;
	t->tx_octets = tp->bytes_sent + (u64)tp->segs_out * header;
	/* a received FIN counts as one octet of payload */
	t->rx_octets = tp->bytes_received - (fin_received(sk) ? 1 : 0) +
		       (u64)tp->segs_in * header;
	if (f->accepted) {
		/* The request socket sent the SYN-ACK. The header of the SYN was longer than others. */
		t->tx_packets += opening;
		t->tx_octets += (u64)opening * (ip + syn_header);
		t->rx_octets += ip + syn_header - header;
		t->rx_packets += f->deferred_acks;
		t->rx_octets += f->deferred_acks * header;
		if (BPF_CORE_READ_BITFIELD(tp, syn_data_acked))
			t->rx_octets += COOKIE_OPTION;
	} else if (r->role == ROLE_INITIATOR) {
		if (!r->isn_remote) { /* never established */
			t->tx_octets = (u64)tp->segs_out * (ip + SYN_HEADER);
			t->rx_octets = (u64)tp->segs_in * (ip + TCP_HEADER); /* RSTs that refuse it */
		} else {
			t->tx_octets += (u64)opening * (ip + SYN_HEADER - header);
			t->rx_octets += ip + syn_header - header;
			if (BPF_CORE_READ_BITFIELD(tp, syn_data_acked))
				t->tx_octets += COOKIE_OPTION;
		}
	}
	estimate(&e, sk, tp, options.sack);
	t->tx_octets += e.tx_octets;
	t->rx_octets += e.rx_octets;
	if (is_mptcp(tp))
		add_mptcp(t, r, sk, tp);
	if (e.tx_octets | e.rx_octets || f->deferred_acks || is_mptcp(tp) || is_in_sockmap(sk))
		return MARK_ESTIMATED;
	return 0;
}

/* Returns by how much a counter grew. An estimate in it may shrink, which counts as 0. */
static __always_inline u64 increase(u64 now, u64 seen)
{
	return now > seen ? now - seen : 0;
}

/* Returns what has been reported of a connection in socket storage: its row keeps the totals. */
static __always_inline struct totals reported_by(struct flow_row *r)
{
	return (struct totals){
		.tx_octets = r->tx_octets,
		.rx_octets = r->rx_octets,
		.tx_packets = r->tx_packets,
		.rx_packets = r->rx_packets,
		.retransmitted = r->retransmitted,
		.lost = r->lost,
	};
}

static __always_inline void set_counters(struct flow_row *r, struct totals *t)
{
	r->tx_octets = t->tx_octets;
	r->rx_octets = t->rx_octets;
	r->tx_packets = t->tx_packets;
	r->rx_packets = t->rx_packets;
	r->retransmitted = t->retransmitted;
	r->lost = t->lost;
}

/* Writes to a row what is new since `old`. */
static __always_inline void set_deltas(struct flow_row *r, struct totals *t, struct totals *old)
{
	r->tx_octets = increase(t->tx_octets, old->tx_octets);
	r->rx_octets = increase(t->rx_octets, old->rx_octets);
	r->tx_packets = t->tx_packets - old->tx_packets;
	r->rx_packets = t->rx_packets - old->rx_packets;
	r->retransmitted = t->retransmitted - old->retransmitted;
	r->lost = t->lost - old->lost;
}

#endif
