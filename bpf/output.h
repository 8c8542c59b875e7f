/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How data leave the kernel half.
 *
 *   snapshot pass ---> snapshot array  (mapped; read after each pass)
 *   end of a flow ---> flow_ring  \
 *   new identity  ---> owner_ring  >   (mapped; read at each tick, or after a wake-up)
 *   event         ---> event_ring /
 *
 * What does not fit is counted in `losses`, one counter for each cause. */
#ifndef SOCKFLOW_OUTPUT_H
#define SOCKFLOW_OUTPUT_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"

#define OWNER_RING_OCTETS (1 << 19)
#define FLOW_RING_OCTETS (1 << 22)
#define EVENT_RING_OCTETS (1 << 23)

/* A ring with so many octets wakes the reader up. Flows have the lowest threshold: an eighth of
 * their ring is worth a wake-up, and is still in the processor's cache when it is read. */
#define OWNERS_WAKEUP_OCTETS (OWNER_RING_OCTETS / 2)
#define FLOWS_WAKEUP_OCTETS (FLOW_RING_OCTETS / 8)
#define EVENTS_WAKEUP_OCTETS (EVENT_RING_OCTETS / 2)

/* Globals in .bss, which user space maps. */
struct losses losses;
u32 snapshot_rows;  /* rows that this pass has written */
u32 is_last_pass;   /* set by user space: no later pass will read what waits */
u32 was_attributed; /* set by user space: sockets older than the probe have their owners */
u32 reader_woken;   /* set with a wake-up; the reader clears it when it has read all rings */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, OWNER_RING_OCTETS);
} owner_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, FLOW_RING_OCTETS);
} flow_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_RING_OCTETS);
} event_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, u32);
	__type(value, struct sent_row);
} snapshot SEC(".maps");

/* Returns the flags to submit a record with. The reader comes by itself at every tick. It is woken
 * up earlier once if the ring has `wakeup_octets`; further interrupts would not make it faster. */
static __always_inline u64 ring_flags(void *ring, u32 wakeup_octets)
{
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) < wakeup_octets || reader_woken)
		return BPF_RB_NO_WAKEUP;
	reader_woken = 1;
	return BPF_RB_FORCE_WAKEUP;
}

/* Returns the next free row of the snapshot array, 0 if it is full. The caller counts the row in
 * `snapshot_rows` once it is complete. */
static __always_inline struct sent_row *next_snapshot_row(void)
{
	u32 at = snapshot_rows;

	if (at >= snapshot_capacity) {
		losses.snapshot_full++;
		return 0;
	}
	return bpf_map_lookup_elem(&snapshot, &at);
}

#endif
