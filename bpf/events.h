/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Lifecycle events: rows that leave when something happens, through a ring of their own. If the ring is
 * full, the newest events are dropped and counted. Nothing waits for it.
 *
 * All callers ask `report_events` first. Without this knob the verifier removes the calls, and user
 * space does not load the programs that exist for events alone. */
#ifndef SOCKFLOW_EVENTS_H
#define SOCKFLOW_EVENTS_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "output.h"

/* Returns an event of this kind without further columns, 0 if the ring is full. */
static __always_inline struct event_row *new_event(u8 kind, u64 now)
{
	struct event_row *e = bpf_ringbuf_reserve(&event_ring, sizeof(*e), 0);

	if (!e) {
		__sync_fetch_and_add(&losses.event_ring_full, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = now;
	e->kind = kind;
	e->count = 1;
	return e;
}

static __always_inline void submit_event(struct event_row *e)
{
	bpf_ringbuf_submit(e, ring_flags(&event_ring, EVENTS_WAKEUP_OCTETS));
}

/* Copies the flow end that the event is about. */
static __always_inline void set_end(struct event_row *e, struct flow_row *r)
{
	e->flow_id = r->id;
	e->cookie = r->cookie;
	e->owner = r->owner;
	e->netns = r->netns;
	__builtin_memcpy(e->local_address, r->local_address, 16);
	__builtin_memcpy(e->remote_address, r->remote_address, 16);
	e->local_port = r->local_port;
	e->remote_port = r->remote_port;
	e->netns_inode = r->netns_inode;
	e->ifindex = r->ifindex;
	e->ip_version = r->ip_version;
	e->protocol = r->protocol;
	e->role = r->role;
	e->owner_source = r->owner_source;
}

#endif
