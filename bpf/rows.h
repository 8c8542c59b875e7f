/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Fills the columns of flow rows from a socket. */
#ifndef SOCKFLOW_ROWS_H
#define SOCKFLOW_ROWS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "protocols.h"

/* Returns an id that is unique: one processor starts at most one flow in a nanosecond. */
static __always_inline u64 new_id(u64 now)
{
	return (now << 8) | (bpf_get_smp_processor_id() & 0xff) | 1ULL << 63;
}

static __always_inline u32 *words(u8 *address)
{
	return (u32 *)address;
}

static __always_inline bool is_mapped(const struct in6_addr *a)
{
	return a->in6_u.u6_addr32[0] == 0 && a->in6_u.u6_addr32[1] == 0 &&
	       a->in6_u.u6_addr32[2] == bpf_htonl(0xffff);
}

/* Writes the addresses. Those of a socket that speaks IPv4 through IPv6 are IPv4 addresses. */
static __always_inline void set_addresses(struct flow_row *r, struct sock *sk)
{
	struct sock_common *c = &sk->__sk_common;

	if (c->skc_family == AF_INET6 && !is_mapped(&c->skc_v6_daddr)) {
		r->ip_version = 6;
		for (int i = 0; i < 4; i++) {
			words(r->local_address)[i] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			words(r->remote_address)[i] = c->skc_v6_daddr.in6_u.u6_addr32[i];
		}
		return;
	}
	r->ip_version = 4;
	for (int i = 1; i < 4; i++)
		words(r->local_address)[i] = words(r->remote_address)[i] = 0;
	if (c->skc_family == AF_INET6) {
		words(r->local_address)[0] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
		words(r->remote_address)[0] = c->skc_v6_daddr.in6_u.u6_addr32[3];
	} else {
		words(r->local_address)[0] = c->skc_rcv_saddr;
		words(r->remote_address)[0] = c->skc_daddr;
	}
}

/* Returns the octets of the IP header without options. */
static __always_inline u32 ip_header(struct flow_row *r)
{
	return r->ip_version == 6 ? IPV6_HEADER : IPV4_HEADER;
}

static __always_inline void set_namespace(struct flow_row *r, struct sock *sk)
{
	struct net *net = sk->__sk_common.skc_net.net;

	r->netns = net->net_cookie;
	r->netns_inode = net->ns.inum;
}

/* Writes the Flow Key of a TCP socket, with its namespace. */
static __always_inline void set_key(struct flow_row *r, struct sock *sk, struct tcp_sock *tp)
{
	set_addresses(r, sk);
	/* skc_num is 0 once the port was given back; inet_sport keeps the port */
	r->local_port = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	r->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	r->protocol = IPPROTO_TCP;
	set_namespace(r, sk);
}

/* Writes what has a value now and no sum: state, round-trip time, DSCP, interface. */
static __always_inline void set_gauges(struct flow_row *r, struct sock *sk, struct tcp_sock *tp)
{
	struct ipv6_pinfo *six = tp->inet_conn.icsk_inet.pinet6;

	r->tcp_state = sk->__sk_common.skc_state;
	r->rtt_us = tp->srtt_us >> 3;
	r->rtt_var_us = tp->mdev_us >> 2;
	r->dscp = (r->ip_version == 6 && six ? six->tclass : tp->inet_conn.icsk_inet.tos) >> 2;
	if (bpf_core_field_exists(sk->sk_rx_dst_ifindex))
		r->ifindex = sk->sk_rx_dst_ifindex;
}

/* Fills a row to send: `row`, and gauges of TCP that the socket has but no row remembers. */
static __always_inline void set_sent(struct sent_row *to, struct flow_row *row,
				     struct tcp_sock *tp)
{
	u64 pace = tp ? ((struct sock *)tp)->sk_pacing_rate : 0;

	to->row = *row;
	to->pacing_rate = pace == ~0UL ? 0 : pace; /* ~0: no limit */
	to->delivery_rate = 0;
	to->unacknowledged = tp ? tp->packets_out : 0;
	to->congestion_window = tp ? tp->snd_cwnd : 0;
	if (tp && tp->rate_interval_us)
		to->delivery_rate = (u64)tp->rate_delivered * tp->mss_cache * 1000000 /
				    tp->rate_interval_us;
}

#endif
