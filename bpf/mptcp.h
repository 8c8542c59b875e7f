/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Gives further subflows of an MPTCP connection the owner of its first one. A kernel worker opens
 * them, so the running task says nothing about them. */
#ifndef SOCKFLOW_MPTCP_H
#define SOCKFLOW_MPTCP_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "socket_flow.h"

/* Address of the MPTCP socket -> id of the owner. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u64);
} mptcp_owners SEC(".maps");

static __noinline int share_owner(struct sock_flow *f, struct tcp_sock *tp)
{
	struct mptcp_subflow_context *subflow;
	u64 connection = 0, owner, *known;

	if (!f || !tp || !bpf_core_type_exists(struct mptcp_subflow_context))
		return 0;
	subflow = tp->inet_conn.icsk_ulp_data;
	connection = (u64)BPF_CORE_READ(subflow, conn);
	owner = f->row.owner;
	if (!connection)
		return 0;
	if (owner) {
		bpf_map_update_elem(&mptcp_owners, &connection, &owner, BPF_ANY);
		return 0;
	}
	known = bpf_map_lookup_elem(&mptcp_owners, &connection);
	if (known) {
		f->row.owner = *known;
		f->row.owner_source = OWNER_SOCKET_CALL;
	}
	return 0;
}

#endif
