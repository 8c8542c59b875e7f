/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The row of a TCP connection: how it begins, who owns it, and how the last one is made and sent. */
#ifndef SOCKFLOW_TCP_ROWS_H
#define SOCKFLOW_TCP_ROWS_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "output.h"
#include "owner.h"
#include "protocols.h"
#include "rows.h"
#include "socket_flow.h"
#include "tcp_counters.h"
#include "tcp_socket.h"

/* Gives a row its id, start and role. */
static __always_inline void begin_flow(struct flow_row *r, u64 cookie, u8 role)
{
	r->start_ns = r->last_ns = bpf_ktime_get_ns();
	r->id = new_id(r->start_ns);
	r->cookie = cookie;
	r->role = role;
	r->mark = 0;
}

/* Names the running task as owner. A kernel thread changes nothing. */
static __always_inline void set_owner(struct flow_row *r, u8 source)
{
	u64 owner = current_owner();

	if (owner) {
		r->owner = owner;
		r->owner_source = source;
	}
}

/* Names the running task as owner if it holds the socket locked, which proves process context. The
 * task that closes an accepted connection is the worker that served it. Before, only the
 * listener's owner was known. */
static __always_inline void refine_owner(struct sock_flow *f, struct sock *sk)
{
	if (f->row.owner_source != OWNER_SOCKET_CALL && sk->sk_lock.owned)
		set_owner(&f->row, OWNER_SOCKET_CALL);
}

/* Returns the initial sequence number + 1 of this end; initial_received() that of the peer. */
static __always_inline u32 initial_sent(struct sock_flow *f, struct tcp_sock *tp)
{
	/* bytes_acked of the active opener includes its SYN */
	return tp->snd_una - (u32)tp->bytes_acked + (f->accepted ? 0 : 1);
}

static __always_inline u32 initial_received(struct tcp_sock *tp)
{
	return tp->rcv_nxt - (u32)tp->bytes_received;
}

static __always_inline void set_initial(struct flow_row *r, u32 sent, u32 received)
{
	r->isn_local = sent;
	r->isn_remote = received;
	r->tx_flags |= TCPHDR_SYN | TCPHDR_ACK;
	r->rx_flags |= TCPHDR_SYN | TCPHDR_ACK;
}

/* Returns when TCP last handled a packet. TCP keeps that time anyway. */
static __always_inline u64 latest_ns(struct flow_row *r, struct tcp_sock *tp)
{
	u64 latest = tp->tcp_mstamp * 1000;

	return latest > r->last_ns ? latest : r->last_ns;
}

/* Writes the last row of a connection to `r`, which is f->row or a copy of it. `old`: the state before
 * TCP_CLOSE. `reported`: what has been reported of it; 0 if f->row has that. */
static __noinline void finalize(struct flow_row *r, struct sock_flow *f, struct tcp_sock *tp, int old,
				struct totals *reported)
{
	struct sock *sk = (struct sock *)tp;
	struct totals now, before;

	if (!r || !f || !tp)
		return;
	if (!r->isn_remote) {
		set_key(r, sk, tp);
		if (is_one_of(old, HANDSHAKE_DONE))
			set_initial(r, initial_sent(f, tp), initial_received(tp));
	}
	r->mark |= read_totals(&now, f, r, sk, tp);
	before = reported ? *reported : reported_by(&f->row);
	set_deltas(r, &now, &before);
	set_gauges(r, sk, tp);
	r->tcp_state = TCP_CLOSE;
	r->mark |= MARK_CLOSED;
	if (is_one_of(old, FIN_SENT))
		r->tx_flags |= TCPHDR_FIN;
	if (fin_received(sk))
		r->rx_flags |= TCPHDR_FIN | TCPHDR_ACK;
	/* An orphan in FIN_WAIT2 goes on as a time-wait socket. The peer's FIN and the last ACK are
	 * then in no tcp_sock. */
	if (old == TCP_FIN_WAIT2 && !fin_received(sk) && !((r->tx_flags | r->rx_flags) & TCPHDR_RST)) {
		u32 header = ip_header(r) + tp->tcp_header_len;

		r->tx_packets++;
		r->rx_packets++;
		r->tx_octets += header;
		r->rx_octets += header;
		r->rx_flags |= TCPHDR_FIN;
		r->mark |= MARK_ESTIMATED;
	}
}

/* Sends a complete last row. `tp`: for its gauges; 0 if the socket is gone. */
static __always_inline void send_last_row(struct flow_row *last, struct tcp_sock *tp)
{
	struct sent_row *r = bpf_ringbuf_reserve(&flow_ring, sizeof(*r), 0);

	if (!r) {
		__sync_fetch_and_add(&losses.flow_ring_full, 1);
		return;
	}
	set_sent(r, last, tp);
	bpf_ringbuf_submit(r, ring_flags(&flow_ring, FLOWS_WAKEUP_OCTETS));
}

/* Returns true to the one caller that has to send the last row. */
static __always_inline bool claim_last_row(struct sock_flow *f)
{
	u32 progress = f->progress;

	return (progress & PROGRESS_STATES) == (ENDED | LAST_ROW_READY) &&
	       __sync_val_compare_and_swap(&f->progress, progress,
					   progress ^ (LAST_ROW_READY | LAST_ROW_SENT)) == progress;
}

#endif
