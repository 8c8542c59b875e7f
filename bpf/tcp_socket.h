/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Questions to a TCP socket: its states, its features, and whether it is still the same one. */
#ifndef SOCKFLOW_TCP_SOCKET_H
#define SOCKFLOW_TCP_SOCKET_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "protocols.h"

/* Sets of TCP states, one bit for each state. */
#define FIN_SENT \
	(1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | 1 << TCP_CLOSING | 1 << TCP_LAST_ACK)
#define HANDSHAKE_DONE (FIN_SENT | 1 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT)

static __always_inline bool is_one_of(int state, u32 states)
{
	return states >> state & 1;
}

static __always_inline bool fin_received(struct sock *sk)
{
	return sk->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1;
}

static __always_inline bool is_mptcp(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp;
}

/* Returns whether the socket is in a sockmap. A program may then move data past TCP, where none of
 * its counters sees them. */
static __always_inline bool is_in_sockmap(struct sock *sk)
{
	return (u64)sk->sk_user_data & SK_USER_DATA_PSOCK;
}

/* --- a socket that is known by its address -------------------------------------------------------
 * Reading through such a pointer is safe: a bad address reads as 0. But the memory may belong to
 * another socket by now, or to none. So every reader checks is_gone() after it has read. */
void *bpf_rdonly_cast(const void *address, u32 type) __ksym __weak;

static __always_inline struct tcp_sock *socket_at(u64 address)
{
	return bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct tcp_sock));
}

static __always_inline u64 cookie_of(struct tcp_sock *tp)
{
	return tp->inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter;
}

/* Returns whether the address no longer holds the socket with this cookie. A freed socket keeps its
 * content until the memory is used again, so its reference count is read, too. */
static __always_inline bool is_gone(struct tcp_sock *tp, u64 cookie)
{
	return cookie_of(tp) != cookie ||
	       !tp->inet_conn.icsk_inet.sk.__sk_common.skc_refcnt.refs.counter;
}

#endif
