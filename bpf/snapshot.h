/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The snapshot: a pass over all live sockets that user space starts at every tick. */
#ifndef SOCKFLOW_SNAPSHOT_H
#define SOCKFLOW_SNAPSHOT_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "output.h"
#include "protocols.h"
#include "rows.h"
#include "slots.h"
#include "snapshot_tcp.h"
#include "socket_flow.h"
#include "udp_rows.h"
#include "users.h"

/* Reports the first peer of a UDP socket. */
static __always_inline void snapshot_udp(struct sock_flow *f, struct sock *sk)
{
	struct sent_row *r;

	if (f->row.udp_flags & UDP_RECEIVED) {
		__sync_fetch_and_and(udp_flags_word(&f->row), ~bpf_htonl(UDP_RECEIVED));
		find_receiver(f, sk);
	}
	if (f->first_peer != PEER_READY || f->progress || !(f->row.tx_packets | f->row.rx_packets))
		return;
	r = next_snapshot_row();
	if (!r)
		return;
	if (!f->row.netns)
		set_namespace(&f->row, sk);
	set_sent(r, &f->row, 0);
	drain_counters(&r->row, &f->row);
	snapshot_rows++;
}

/* --- prefetching -----------------------------------------------------------------------------
 * A pass over many sockets mostly waits for memory. For each socket it follows four addresses, one
 * after the other:
 *
 *   storage element --> its storage --> the socket --> segs_in, segs_out
 *        (map_node.next: the storage element of the next socket)
 *
 * So the pass reads memory of later sockets in advance, and ignores what it reads: the storage element
 * two sockets ahead, and the socket that is next. The addresses may be out of date. A bad one only
 * makes the read fail. */
static struct bpf_local_storage_elem *prefetched_elem; /* two sockets ahead */
static struct sock *prefetched_sk;                     /* the next socket */

/* Brings memory into the processor's cache by reading it. */
static __always_inline void load_line(void *place)
{
	u64 word;

	bpf_probe_read_kernel(&word, sizeof(word), place);
}

static __always_inline void prefetch_sockets(struct sock_flow *f)
{
	struct bpf_local_storage_elem *e = prefetched_elem;
	struct sock *sk = prefetched_sk;
	u64 head[5]; /* both members of the element are in it */
	u32 next = bpf_core_field_offset(e->map_node.next);
	u32 storage = bpf_core_field_offset(e->local_storage);

	if (!bpf_core_field_exists(e->map_node) || !bpf_core_field_exists(e->local_storage) ||
	    !bpf_core_field_exists(e->sdata.data) ||
	    !bpf_core_field_exists(struct bpf_local_storage, owner) ||
	    next > sizeof(head) - 8 || storage > sizeof(head) - 8)
		return;
	if (!e) {
		e = (void *)f - bpf_core_field_offset(e->sdata.data);
		e = (void *)BPF_CORE_READ(e, map_node.next, next);
	}
	bpf_probe_read_kernel(head, sizeof(head), e);
	prefetched_elem = *(void **)((void *)head + next);
	load_line(prefetched_elem);
	prefetched_sk = BPF_CORE_READ(*(struct bpf_local_storage **)((void *)head + storage), owner);
	load_line((void *)sk + bpf_core_field_offset(sk->sk_protocol));
	load_line((void *)sk + bpf_core_field_offset(struct tcp_sock, segs_out));
}

/* --- programs -------------------------------------------------------------------------------- */
/* Runs once for each socket with storage, and once more at the end of the pass: then for all slots. */
SEC("iter/bpf_sk_storage_map")
int snapshot_sockets(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock_flow *f = ctx->value;
	struct sock *sk = ctx->sk;

	if (!ctx->meta->seq_num) {
		pass_ns = bpf_ktime_get_ns();
		prefetched_elem = 0;
		prefetched_sk = 0;
	}
	if (!sk || !f) {
		if (use_slots && !sk) /* the call at the end of the pass */
			bpf_loop(SLOTS / COOKIES_PER_LINE, snapshot_cookie_line, 0, 0);
		return 0;
	}
	prefetch_sockets(f);
	if (sk->sk_protocol == IPPROTO_TCP)
		snapshot_tcp(f, sk);
	else if (sk->sk_protocol == IPPROTO_UDP)
		snapshot_udp(f, sk);
	return 0;
}

/* Reports further peers of UDP sockets. Removes a peer that was silent for udp_idle_ns. */
SEC("iter/bpf_map_elem")
int snapshot_udp_peers(struct bpf_iter__bpf_map_elem *ctx)
{
	u64 *key = ctx->key;
	struct flow_row *from = ctx->value;
	struct sent_row *r;

	if (!key || !from)
		return 0;
	if (!(from->tx_packets | from->rx_packets)) {
		if (bpf_ktime_get_ns() - stamp_ns(from->last_ns) > udp_idle_ns) {
			u64 copy = *key;

			if (!bpf_map_delete_elem(&udp_peers, &copy))
				__sync_fetch_and_sub(&udp_peer_count, 1);
		}
		if (!(*(volatile u64 *)&from->tx_packets | *(volatile u64 *)&from->rx_packets))
			return 0; /* otherwise a datagram has come meanwhile, and is reported now */
	}
	r = next_snapshot_row();
	if (!r)
		return 0;
	set_sent(r, from, 0);
	drain_counters(&r->row, from);
	snapshot_rows++;
	return 0;
}

#endif
