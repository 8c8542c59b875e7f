/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Events of TCP connections: CONNECT, CONNECT_FAILED, ACCEPT, CLOSE, RETRANSMIT. */
#ifndef SOCKFLOW_TCP_EVENTS_H
#define SOCKFLOW_TCP_EVENTS_H

#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "events.h"
#include "flow.h"
#include "output.h"
#include "protocols.h"
#include "rows.h"
#include "socket_flow.h"
#include "tcp_counters.h"
#include "tcp_rows.h"

#define RETRANSMIT_NS 1000000000ULL /* a flow has at most one RETRANSMIT in this time */

/* The last RETRANSMIT of a socket. Only sockets that lose segments have this storage. */
struct retransmits {
	u64 event_ns;
	u32 total;
	u32 pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct retransmits);
} retransmits SEC(".maps");

/* Returns an event with the connection's key and totals, 0 if the ring is full. */
static __always_inline struct event_row *new_tcp_event(struct sock_flow *f, struct tcp_sock *tp,
						       u8 kind, u64 now)
{
	struct event_row *e;
	struct totals t;

	if (!f->row.ip_version) /* its SYN was sent again, so nothing has set the key yet */
		set_key(&f->row, (struct sock *)tp, tp);
	read_totals(&t, f, &f->row, (struct sock *)tp, tp);
	e = new_event(kind, now);
	if (!e)
		return 0;
	set_end(e, &f->row);
	e->tx_octets = t.tx_octets;
	e->rx_octets = t.rx_octets;
	e->tx_packets = t.tx_packets;
	e->rx_packets = t.rx_packets;
	e->rtt_us = tp->srtt_us >> 3;
	e->rtt_var_us = tp->mdev_us >> 2;
	return e;
}

/* Emits ACCEPT or CONNECT. */
static __noinline void emit_established_event(struct sock_flow *f, struct tcp_sock *tp)
{
	u8 kind = f->accepted ? EVENT_ACCEPT : EVENT_CONNECT;
	struct event_row *e = new_tcp_event(f, tp, kind, bpf_ktime_get_ns());

	if (!e)
		return;
	e->tcp_state = TCP_ESTABLISHED; /* the socket's own state changes after this program */
	submit_event(e);
}

/* Emits CLOSE or CONNECT_FAILED of a connection whose last row is complete. */
static __noinline void emit_end_event(struct sock_flow *f, struct tcp_sock *tp)
{
	bool failed = f->row.role == ROLE_INITIATOR && !f->row.isn_remote; /* never established */
	u8 kind = failed ? EVENT_CONNECT_FAILED : EVENT_CLOSE;
	struct event_row *e = new_tcp_event(f, tp, kind, f->row.last_ns);

	if (!e)
		return;
	e->tcp_state = TCP_CLOSE;
	if (failed)
		e->error = ((struct sock *)tp)->sk_err;
	submit_event(e);
}

/* Emits the end of a connection of which only the listener was known. Such an event waits for the
 * task that closes the socket, which is its owner. */
static __always_inline void emit_late_end_event(struct sock_flow *f, struct sock *sk)
{
	struct tcp_sock *tp;

	if (f->row.owner_source == OWNER_SOCKET_CALL)
		return;
	refine_owner(f, sk);
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		emit_end_event(f, tp);
}

/* Writes where a socket that has no connection was to go. IPv4 leaves address and port in its flow key.
 * IPv6 leaves the address only; connecting6() has noted the port. Returns false if connect() was never
 * called. */
static __always_inline bool set_unreached(struct flow_row *r, struct sock_flow *f, struct sock *sk,
					  struct tcp_sock *tp)
{
	struct flowi4 *key = &tp->inet_conn.icsk_inet.cork.fl.u.ip4;
	struct in6_addr *a = &sk->__sk_common.skc_v6_daddr;

	r->remote_port = bpf_ntohs(key->uli.ports.dport);
	if (sk->__sk_common.skc_family == AF_INET6) {
		if (!(a->in6_u.u6_addr32[0] | a->in6_u.u6_addr32[1] | a->in6_u.u6_addr32[2] |
		      a->in6_u.u6_addr32[3]))
			return false;
		set_addresses(r, sk);
		if (f)
			r->remote_port = f->row.remote_port;
		return true;
	}
	if (!key->daddr)
		return false;
	r->ip_version = 4;
	words(r->local_address)[0] = sk->__sk_common.skc_rcv_saddr;
	words(r->remote_address)[0] = key->daddr;
	return true;
}

/* Emits CONNECT_FAILED of a socket that is destroyed and has never sent a SYN, as for a destination
 * without a route. So successful connections pass no hook for it. */
static __always_inline void emit_unreachable_event(struct sock_flow *f, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct sock_common *c = &sk->__sk_common;
	struct flow_row r;
	struct event_row *e;

	/* A connection that has sent a SYN has a port in skc_dport. */
	if (!tp || c->skc_dport || c->skc_state != TCP_CLOSE || !sk->sk_lock.owned)
		return;
	__builtin_memset(&r, 0, sizeof(r));
	if (!set_unreached(&r, f, sk, tp))
		return;
	r.id = new_id(bpf_ktime_get_ns());
	r.cookie = bpf_get_socket_cookie(sk);
	r.local_port = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	r.protocol = IPPROTO_TCP;
	r.role = ROLE_INITIATOR;
	set_namespace(&r, sk);
	set_owner(&r, OWNER_SOCKET_CALL);
	e = new_event(EVENT_CONNECT_FAILED, bpf_ktime_get_ns());
	if (!e)
		return;
	set_end(e, &r);
	e->tcp_state = TCP_CLOSE;
	submit_event(e);
}

/* Notes the port of an IPv6 connect, in case that it fails before the socket has it. The socket gets
 * its storage a little earlier by this. */
SEC("cgroup/connect6")
int connecting6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock_flow *f;

	if (ctx->protocol != IPPROTO_TCP || !sk)
		return 1;
	f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (f && !f->row.id)
		f->row.remote_port = bpf_ntohs(ctx->user_port);
	return 1;
}

/* Emits RETRANSMIT with the number of segments since the last one. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmitted, struct sock *sk)
{
	struct sock_flow *f = bpf_sk_storage_get(&sockets, sk, 0, 0);
	u64 now = bpf_ktime_get_ns();
	struct retransmits *seen;
	struct event_row *e;
	struct tcp_sock *tp;

	if (!f || !f->row.id || f->progress & ENDED)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	seen = bpf_sk_storage_get(&retransmits, sk, 0, 0);
	if (!seen) {
		seen = bpf_sk_storage_get(&retransmits, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!seen) {
			__sync_fetch_and_add(&losses.storage_failed, 1);
			return 0;
		}
		if (f->row.mark & MARK_PREEXISTING)
			seen->total = tp->total_retrans - 1;
	} else if (now - seen->event_ns < RETRANSMIT_NS) {
		return 0;
	}
	e = new_tcp_event(f, tp, EVENT_RETRANSMIT, now);
	if (!e)
		return 0;
	e->tcp_state = sk->__sk_common.skc_state;
	e->count = tp->total_retrans - seen->total;
	seen->event_ns = now;
	seen->total = tp->total_retrans;
	submit_event(e);
	return 0;
}

#endif
