/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Remembers who listens, for the connections to come.
 *
 * An accepted socket shares the bind bucket of its listener's port. The bucket's address therefore
 * finds the listener without a copy of its storage. If several sockets listen at one port, only the
 * kernel knows which one a connection came to. Then the second one has storage, which the kernel
 * clones for each connection that it accepts. */
#ifndef SOCKFLOW_LISTENERS_H
#define SOCKFLOW_LISTENERS_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "protocols.h"
#include "tcp_socket.h"

/* A socket that listens, by the address of its bind bucket. */
struct listener {
	u64 cookie;
	u64 sk; /* its address */
	u64 owner;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct listener);
} listeners SEC(".maps");

static __always_inline struct listener *listener_at(struct tcp_sock *tp)
{
	u64 port = (u64)tp->inet_conn.icsk_bind_hash;

	return bpf_map_lookup_elem(&listeners, &port);
}

/* Notes that `owner` accepts at this socket. Returns false if another socket listens at the same
 * port: then the caller has to give this one storage. */
static __always_inline bool note_listener(struct tcp_sock *tp, u64 cookie, u64 owner)
{
	struct listener *known, now = {
		.cookie = cookie,
		.sk = (u64)tp,
		.owner = owner,
	};
	u64 port = (u64)tp->inet_conn.icsk_bind_hash;

	if (!port)
		return false;
	known = listener_at(tp);
	if (known && known->cookie != cookie) {
		struct tcp_sock *other = socket_at(known->sk);

		if (!is_gone(other, known->cookie) &&
		    other->inet_conn.icsk_inet.sk.__sk_common.skc_state == TCP_LISTEN)
			return false;
	}
	return !bpf_map_update_elem(&listeners, &port, &now, BPF_ANY);
}

#endif
