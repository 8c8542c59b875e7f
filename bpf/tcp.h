/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* TCP: programs at the changes of a connection's state.
 *
 *   connect() ----> TCP_CONNECT_CB --------.
 *   SYN-ACK came -> ACTIVE_ESTABLISHED_CB  |   new_flow(): a slot, or storage
 *   accepted -----> PASSIVE_ESTABLISHED_CB-+-> owner, role, start
 *   FIN, close ---> STATE_CB --------------+-> on_close(): the last row
 *   close() ------> tcp_destroy_sock ------'-> sends it, if a task still held the socket
 *
 * These are sock_ops programs and not the tracepoint inet_sock_set_state. The kernel skips a tracing
 * program that a softirq would re-enter, and a skipped state is a lost flow. */
#ifndef SOCKFLOW_TCP_H
#define SOCKFLOW_TCP_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "flow.h"
#include "knobs.h"
#include "listeners.h"
#include "mptcp.h"
#include "output.h"
#include "owner.h"
#include "protocols.h"
#include "rows.h"
#include "slots.h"
#include "socket_flow.h"
#include "tcp_counters.h"
#include "tcp_events.h"
#include "tcp_rows.h"
#include "tcp_socket.h"

/* --- a connection begins --------------------------------------------------------------------- */
/* Resets what is remembered: the same descriptor may have tried to connect before. */
static __always_inline void reset_flow(struct sock_flow *f)
{
	u32 kept = f->progress & (SECOND_COPY | -GENERATION);

	if (!f->row.id)
		return;
	if (claim_last_row(f))
		send_last_row(&f->row, 0);
	else if (!(f->progress & (LAST_ROW_SENT | ENDED)))
		__sync_fetch_and_add(&losses.ends_missed, 1);
	__builtin_memset(f, 0, sizeof(*f));
	f->progress = kept;
}

/* Returns where the connection that this socket begins is remembered. All of it is new, but for the
 * owner that an accepted connection has from its listener. */
static __always_inline struct sock_flow *new_flow(void *sk, u64 cookie, struct slot **slot)
{
	struct sock_flow *f = bpf_sk_storage_get(&sockets, sk, 0, 0);

	*slot = !f && use_slots ? claim_slot(cookie) : 0;
	if (*slot)
		f = &(*slot)->flow;
	else if (!f)
		f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (f)
		reset_flow(f);
	else
		__sync_fetch_and_add(&losses.storage_failed, 1);
	return f;
}

static __always_inline void on_established(struct sock_flow *f, struct sock *sk,
					   struct tcp_sock *tp)
{
	set_key(&f->row, sk, tp);
	/* SYN-ACKs of the request socket if accepted, else SYNs of this socket */
	f->opening_segments = 1 + tp->total_retrans;
	set_initial(&f->row, initial_sent(f, tp), initial_received(tp));
}

static __always_inline void on_accepted(struct sock_flow *f, u64 cookie, struct tcp_sock *tp)
{
	begin_flow(&f->row, cookie, ROLE_RESPONDER);
	f->deferred_acks = 0;
	if (use_slots) {
		struct listener *listener = listener_at(tp);

		if (listener && !f->row.owner)
			f->row.owner = listener->owner;
		/* TCP_DEFER_ACCEPT drops the ACK of the handshake; data make the connection */
		if (listener && !is_gone(socket_at(listener->sk), listener->cookie))
			f->deferred_acks = socket_at(listener->sk)
						   ->inet_conn.icsk_accept_queue.rskq_defer_accept != 0;
	}
	f->row.owner_source = f->row.owner ? OWNER_LISTENER : OWNER_UNKNOWN;
	f->row.tx_flags = f->row.rx_flags = 0;
	f->accepted = f->owner_is_guess = 1;
}

static __always_inline void on_listen(void *sk, u64 cookie, struct tcp_sock *tp)
{
	struct slot *slot;
	struct sock_flow *f = find_flow(sk, cookie, &slot);

	if (f)
		reset_flow(f);
	if (slot)
		release_slot(slot, cookie);
	if (use_slots && (!f || slot) && note_listener(tp, cookie, current_owner()))
		return;
	f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (f)
		set_owner(&f->row, OWNER_SOCKET_CALL);
	else
		__sync_fetch_and_add(&losses.storage_failed, 1);
}

static __always_inline void on_connect(struct sock_flow *f, u64 cookie, struct tcp_sock *tp)
{
	begin_flow(&f->row, cookie, ROLE_INITIATOR);
	set_owner(&f->row, OWNER_SOCKET_CALL);
	if (is_mptcp(tp))
		share_owner(f, tp);
	f->owner_is_guess = !f->row.owner;
	f->opening_segments = 1;
	f->row.tx_flags = TCPHDR_SYN;
}

/* --- a connection ends ----------------------------------------------------------------------- */
/* Sends the last row of an orphan at once: no task will say more about it. */
static __always_inline void send_orphan(struct sock_flow *f, struct tcp_sock *tp, int old,
					struct totals *reported)
{
	struct sent_row *r = bpf_ringbuf_reserve(&flow_ring, sizeof(*r), 0);

	f->progress |= LAST_ROW_SENT;
	if (!r) {
		__sync_fetch_and_add(&losses.flow_ring_full, 1);
		return;
	}
	set_sent(r, &f->row, tp);
	finalize(&r->row, f, tp, old, reported);
	r->row.last_ns = latest_ns(&r->row, tp);
	bpf_ringbuf_submit(r, ring_flags(&flow_ring, FLOWS_WAKEUP_OCTETS));
}

static __always_inline void on_close(struct sock_flow *f, struct slot *slot, struct sock *sk,
				     struct tcp_sock *tp, int old)
{
	struct totals *reported = 0;
	u32 before;

	if (f->progress & ENDED)
		return;
	f->closed_from = old;
	before = __sync_fetch_and_or(&f->progress, ENDED);
	if (before & LOCKED)
		return; /* the snapshot makes the last row when it unlocks */
	if (slot && before & REPORTED)
		reported = &slot->reported[before & SECOND_COPY ? 1 : 0];
	if (!report_events && !sk->sk_socket) {
		send_orphan(f, tp, old, reported);
		return;
	}
	finalize(&f->row, f, tp, old, reported);
	f->row.last_ns = bpf_ktime_get_ns();
	if (report_events && (f->row.owner_source == OWNER_SOCKET_CALL || !sk->sk_socket))
		emit_end_event(f, tp);
	__sync_fetch_and_or(&f->progress, LAST_ROW_READY);
	/* A task that still holds the socket may send a reset, and is the worker that served it. So
	 * the row of such a socket waits until the socket is destroyed. */
	if (!sk->sk_socket && claim_last_row(f))
		send_last_row(&f->row, tp);
}

/* Returns whether on_state() has something to do. */
static __always_inline bool is_of_interest(int state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_LAST_ACK || state == TCP_CLOSE;
}

static __always_inline void on_state(struct sock_flow *f, struct slot *slot, struct sock *sk,
				     struct tcp_sock *tp, int old, int new)
{
	switch (new) {
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
		if (f->owner_is_guess)
			refine_owner(f, sk);
		break;
	case TCP_CLOSE:
		on_close(f, slot, sk, tp, old);
	}
}

/* --- programs -------------------------------------------------------------------------------- */
/* Returns whether a callback needs the socket. A look-up costs, and many callbacks need nothing. */
static __always_inline bool needs_socket(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		return true;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		/* tcp_sock keeps everything but the number of SYNs: with one SYN nothing is to do */
		return report_events || ctx->total_retrans ||
		       !(ctx->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG);
	case BPF_SOCK_OPS_STATE_CB:
		return is_of_interest(ctx->args[1]);
	default:
		return false;
	}
}

/* Begins the connection of a socket that connects, or that was accepted. Returns it, 0 if it could
 * not be remembered. */
static __always_inline struct sock_flow *begin_connection(struct bpf_sock_ops *ctx,
							  struct bpf_sock *ref,
							  struct tcp_sock *tp)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct slot *slot = 0;
	struct sock_flow *f = new_flow(ref, cookie, &slot);

	if (!f)
		return 0;
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		on_connect(f, cookie, tp);
	} else {
		on_accepted(f, cookie, tp);
		on_established(f, (struct sock *)tp, tp);
	}
	if (slot)
		publish_slot(slot, tp);
	return f;
}

SEC("sockops")
int tcp_events(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *ref = ctx->sk;
	struct slot *slot = 0;
	struct sock_flow *f;
	struct tcp_sock *tp;
	u64 cookie;

	if (!needs_socket(ctx) || !ref)
		return 1;
	tp = bpf_skc_to_tcp_sock(ref);
	if (!tp)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ref, bpf_get_socket_cookie(ctx), tp);
		return 1;
	case BPF_SOCK_OPS_STATE_CB:
		cookie = cookie_of(tp);
		f = find_flow(ref, cookie, &slot);
		if (!f || !f->row.id)
			return 1;
		on_state(f, slot, (struct sock *)tp, tp, ctx->args[0], ctx->args[1]);
		if (slot && f->progress & LAST_ROW_SENT)
			release_slot(slot, cookie);
		return 1;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		f = find_flow(ref, cookie_of(tp), &slot);
		if (!f || !f->row.id)
			return 1;
		on_established(f, (struct sock *)tp, tp);
		break;
	default:
		f = begin_connection(ctx, ref, tp);
		if (!f)
			return 1;
	}
	if (report_events && ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		emit_established_event(f, tp);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroyed, struct sock *sk)
{
	u64 cookie = sk->__sk_common.skc_cookie.counter;
	struct slot *slot;
	struct sock_flow *f = find_flow(sk, cookie, &slot);
	struct tcp_sock *tp;

	if (!f || !f->row.id) {
		if (report_events)
			emit_unreachable_event(f, sk);
		return 0;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && !(f->progress & PROGRESS_STATES)) /* older than the probe: it has no callbacks */
		on_close(f, slot, sk, tp, TCP_CLOSE);
	if (claim_last_row(f)) {
		if (report_events)
			emit_late_end_event(f, sk);
		refine_owner(f, sk);
		send_last_row(&f->row, tp);
	}
	if (slot)
		release_slot(slot, cookie);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_reset_received, struct sock *sk)
{
	struct slot *slot;
	struct sock_flow *f = find_flow(sk, sk->__sk_common.skc_cookie.counter, &slot);

	if (f)
		f->row.rx_flags |= TCPHDR_RST;
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reset_sent, struct sock *sk)
{
	struct sock_flow *f;
	struct slot *slot;

	if (!sk || sk->__sk_common.skc_state == TCP_TIME_WAIT ||
	    sk->__sk_common.skc_state == TCP_NEW_SYN_RECV)
		return 0;
	f = find_flow(sk, sk->__sk_common.skc_cookie.counter, &slot);
	if (!f)
		return 0;
	f->row.tx_flags |= TCPHDR_RST;
	/* close() sends its reset after the state has changed, so the last row lacks it */
	if ((f->progress & PROGRESS_STATES) == (ENDED | LAST_ROW_READY)) {
		struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

		if (!tp)
			return 0;
		f->row.tx_packets++;
		f->row.tx_octets += ip_header(&f->row) + tp->tcp_header_len;
	}
	return 0;
}

#endif
