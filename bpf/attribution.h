/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Attribution: a pass over all descriptor tables that user space starts. It finds sockets that no hook has
 * seen, because they are older than the probe, and workers of accepted connections. */
#ifndef SOCKFLOW_ATTRIBUTION_H
#define SOCKFLOW_ATTRIBUTION_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "listeners.h"
#include "output.h"
#include "owner.h"
#include "protocols.h"
#include "rows.h"
#include "slots.h"
#include "socket_flow.h"
#include "tcp_counters.h"
#include "tcp_rows.h"
#include "tcp_socket.h"

/* Returns 1 for the end that opened a connection, 0 for the other end, else a number that says nothing.
 * An acknowledged SYN or FIN is one octet of bytes_acked, but none of bytes_sent. So the opener has
 * one octet more. */
static __noinline u32 opening_octets(struct tcp_sock *tp, u8 state)
{
	u64 once = tp->bytes_sent - tp->bytes_retrans + is_one_of(state, FIN_SENT);

	return tp->snd_nxt - tp->snd_una + (u32)tp->bytes_acked - (u32)once;
}

/* Returns which end of its connection the socket is: enum flow_role. */
static __always_inline u8 find_older_role(struct sock *sk, struct tcp_sock *tp)
{
	u8 state = sk->__sk_common.skc_state;
	u32 octets = opening_octets(tp, state);
	struct listener *listener;

	if (state == TCP_SYN_SENT)
		return ROLE_INITIATOR;
	/* read twice: a difference means that the socket was at work meanwhile */
	if (octets < 2 && octets == opening_octets(tp, state))
		return octets ? ROLE_INITIATOR : ROLE_RESPONDER;
	if (!use_slots)
		return ROLE_UNKNOWN;
	listener = listener_at(tp);
	return listener && listener->cookie ? ROLE_RESPONDER : ROLE_UNKNOWN;
}

/* Begins the flow of a connection that is older than the probe. */
static __always_inline void adopt_tcp(struct sock_flow *f, struct sock *sk, struct tcp_sock *tp)
{
	u8 state = sk->__sk_common.skc_state;
	struct totals before;

	if (state == TCP_LISTEN || state == TCP_CLOSE)
		return; /* no flow; but the storage gives accepted sockets their owner */
	begin_flow(&f->row, bpf_get_socket_cookie(sk), find_older_role(sk, tp));
	f->owner_is_guess = 1;
	if (state == TCP_SYN_SENT)
		return;
	f->row.mark = MARK_PREEXISTING;
	set_key(&f->row, sk, tp);
	f->row.isn_local = tp->snd_una - (u32)tp->bytes_acked +
			   (f->row.role == ROLE_INITIATOR); /* as in initial_sent() */
	f->row.isn_remote = tp->rcv_nxt - (u32)tp->bytes_received;
	f->row.tx_flags = f->row.rx_flags = TCPHDR_ACK;
	read_totals(&before, f, &f->row, sk, tp);
	set_counters(&f->row, &before); /* traffic before the probe's start is not exported */
	f->seen = tp->segs_out + tp->segs_in;
}

/* Returns the TCP or UDP socket of a file, 0 if it is something else. */
static __always_inline struct sock *inet_socket(struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk;

	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP && sk->sk_protocol != IPPROTO_UDP)
		return 0;
	return sk;
}

/* Notes a listener that is older than the probe. Returns false if it needs storage. */
static __always_inline bool note_older_listener(struct tcp_sock *tp, struct sock *sk,
						struct task_struct *task)
{
	struct listener *known = listener_at(tp);
	u64 cookie = bpf_get_socket_cookie(sk);

	return (known && known->cookie == cookie) || note_listener(tp, cookie, owner_of(task));
}

SEC("iter/task_file")
int attribute_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct tcp_sock *tp;
	struct sock_flow *f;
	struct slot *slot;
	struct sock *sk;
	bool fresh;

	if (!task || !file)
		return 0;
	sk = inet_socket(file);
	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	f = find_flow(sk, sk->__sk_common.skc_cookie.counter, &slot);
	fresh = !f;
	if (fresh && use_slots && tp && sk->__sk_common.skc_state == TCP_LISTEN &&
	    note_older_listener(tp, sk, task))
		return 0;
	if (fresh) {
		f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		/* A socket that no hook has seen is counted once for each of its descriptors. */
		if (!f && !was_attributed)
			__sync_fetch_and_add(&losses.storage_failed, 1);
	}
	if (!f || f->progress & PROGRESS_STATES)
		return 0;
	if (!f->row.owner || f->row.owner_source == OWNER_LISTENER) {
		f->row.owner = owner_of(task);
		f->row.owner_source = f->row.owner ? OWNER_DESCRIPTOR : OWNER_UNKNOWN;
	}
	if (!fresh)
		return 0;
	if (tp) {
		adopt_tcp(f, sk, tp);
	} else {
		f->row.cookie = bpf_get_socket_cookie(sk);
		f->row.mark = MARK_PREEXISTING;
		set_namespace(&f->row, sk);
	}
	return 0;
}

#endif
