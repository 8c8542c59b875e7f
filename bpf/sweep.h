/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Mark and sweep of owners: marks the owners that a later row may still name.
 *
 *   user space clears owner_marks
 *     -> mark_socket_owners, mark_peer_owners, mark_listener_owners   set marks
 *     -> forget_identities                                            removes unmarked identities
 *   user space forgets owners without a mark
 *
 * An id has one bit of a million. Two ids may share a mark; then one of them is forgotten later. */
#ifndef SOCKFLOW_SWEEP_H
#define SOCKFLOW_SWEEP_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "listeners.h"
#include "owner.h"
#include "slots.h"
#include "socket_flow.h"

#define MARK_WORDS 16384 /* a power of two */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MARK_WORDS);
	__type(key, u32);
	__type(value, u64);
} owner_marks SEC(".maps");

static __always_inline u64 *mark_word(u64 id)
{
	u32 at = id / 64 % MARK_WORDS;

	return bpf_map_lookup_elem(&owner_marks, &at);
}

static __always_inline void mark_owner(u64 id)
{
	u64 *word = mark_word(id);

	if (word)
		*word |= 1ULL << id % 64; /* not atomic: passes run one at a time */
}

static int mark_cookie_line(u32 number, void *unused)
{
	struct cookie_line *line = bpf_map_lookup_elem(&slot_cookies, &number);

	for (u32 i = 0; line && i < COOKIES_PER_LINE; i++) {
		struct slot *slot = line->cookies[i] ? slot_at(number * COOKIES_PER_LINE + i) : 0;

		if (slot)
			mark_owner(slot->flow.row.owner);
	}
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int mark_socket_owners(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock_flow *f = ctx->value;

	if (f)
		mark_owner(f->row.owner);
	else if (use_slots && !ctx->sk) /* the call at the end of the pass */
		bpf_loop(SLOTS / COOKIES_PER_LINE, mark_cookie_line, 0, 0);
	return 0;
}

SEC("iter/bpf_map_elem")
int mark_peer_owners(struct bpf_iter__bpf_map_elem *ctx)
{
	struct flow_row *peer = ctx->value;

	if (peer)
		mark_owner(peer->owner);
	return 0;
}

SEC("iter/bpf_map_elem")
int mark_listener_owners(struct bpf_iter__bpf_map_elem *ctx)
{
	struct listener *listener = ctx->value;

	if (listener)
		mark_owner(listener->owner);
	return 0;
}

/* Removes identities without a mark. Such an identity gets a new id when it is seen again. */
SEC("iter/bpf_map_elem")
int forget_identities(struct bpf_iter__bpf_map_elem *ctx)
{
	struct owner_key *from = ctx->key, key;
	u64 *id = ctx->value, *word;

	if (!from || !id)
		return 0;
	word = mark_word(*id);
	if (word && *word >> *id % 64 & 1)
		return 0;
	key = *from;
	bpf_map_delete_elem(&owner_ids, &key);
	return 0;
}

#endif
