/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rows of UDP flow ends. Packets add to the counters, on any processor. A row that leaves takes them.
 *
 *   packet                                  counter += n     atomic
 *   snapshot, change of the owner, release  counter <-> 0    exchange; the old value leaves
 *
 * A packet that comes after the exchange is in the next row. */
#ifndef SOCKFLOW_UDP_ROWS_H
#define SOCKFLOW_UDP_ROWS_H

#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "output.h"
#include "rows.h"

/* sock_flow.first_peer: whether the row in the socket's storage has a peer */
#define PEER_NONE 0
#define PEER_CLAIMED 1 /* a processor is writing its key */
#define PEER_READY 2

/* Bits of flow_row.udp_flags. */
#define UDP_SEND_REPORTED 1 /* the first datagram sent was an event */
#define UDP_RECV_REPORTED 2 /* the first datagram received was an event */
#define UDP_RECEIVED 4      /* something came since the last snapshot */

/* All peers of a socket but its first one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u64); /* peer_key() */
	__type(value, struct flow_row);
} udp_peers SEC(".maps");

u32 udp_peer_count; /* entries of udp_peers; user space starts no pass over an empty table */

/* Returns the word of which `udp_flags` is the last octet. Atomic operations take words only. */
static __always_inline u32 *udp_flags_word(struct flow_row *r)
{
	return (u32 *)&r->mark;
}

/* Sets a bit of udp_flags. Returns whether it was set before. */
static __always_inline bool set_udp_flag(struct flow_row *r, u32 flag)
{
	u32 word = bpf_htonl(flag);

	return __sync_fetch_and_or(udp_flags_word(r), word) & word;
}

/* Returns the time for last_ns, which counts jiffies in the kernel if their length is known. They
 * have the resolution of the coarse clock, but cost a load. The clock takes longer than all the
 * rest of counting a datagram. */
static __always_inline u64 coarse_stamp(void)
{
	return jiffy_ns ? bpf_jiffies64() : bpf_ktime_get_coarse_ns();
}

static __always_inline u64 stamp_ns(u64 stamp)
{
	return jiffy_ns ? bpf_ktime_get_ns() - (bpf_jiffies64() - stamp) * jiffy_ns : stamp;
}

/* Moves the counters from one row to another. */
static __always_inline void drain_counters(struct flow_row *to, struct flow_row *from)
{
	to->tx_octets = __sync_lock_test_and_set(&from->tx_octets, 0);
	to->rx_octets = __sync_lock_test_and_set(&from->rx_octets, 0);
	to->tx_packets = __sync_lock_test_and_set(&from->tx_packets, 0);
	to->rx_packets = __sync_lock_test_and_set(&from->rx_packets, 0);
	to->last_ns = stamp_ns(from->last_ns);
}

/* Sends what a row has counted, under the owner that it belongs to. If the ring is full, the counters
 * stay, and the next owner gets them. */
static __noinline int flush_counters(struct flow_row *r)
{
	struct sent_row *part;

	if (!r)
		return 0;
	part = bpf_ringbuf_reserve(&flow_ring, sizeof(*part), 0);
	if (!part)
		return 0;
	set_sent(part, r, 0);
	drain_counters(&part->row, r);
	bpf_ringbuf_submit(part, ring_flags(&flow_ring, FLOWS_WAKEUP_OCTETS));
	return 0;
}

/* To be called before the owner of a row changes. What only came in belongs to the next owner: a task
 * takes a socket over to read from it. */
static __always_inline void flush_before_owner_change(struct flow_row *r, u64 next, u8 source)
{
	if (r->owner && r->owner != next && source != OWNER_SHARED && r->tx_packets)
		flush_counters(r);
}

#endif
