/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connection slots: where most TCP connections are remembered.
 *
 * Why. Most connections are short. To make, clone and free socket storage costs more than
 * everything else that is done for one. So a connection gets an entry of a plain array instead.
 * (flow/ in Python also has slots: rows of its own arrays. They have nothing to do with these.)
 *
 * Which slot. The socket's cookie selects it:
 *
 *                          slot:    0   1   2   3   4     5     6
 *                  slot_cookies:  | 0 | 0 | 0 | 0 | 0 | 16389 | 0 | ...     0: the slot is free
 *                                                         ^
 *   cookie 16389, 16389 % SLOTS = 5 ----------------------'
 *                                                         v
 *                         slots:  ...        flow, address of the socket, what was reported
 *
 * The kernel gives out cookies in ascending order, in batches for each processor. So consecutive sockets
 * of a processor get consecutive slots. A slot comes up again after SLOTS further cookies; by then a
 * short connection has released it. A connection that finds its slot taken gets socket storage, and
 * so does every socket that is older than the probe.
 *
 * Who writes. Programs of the socket claim a slot by exchanging 0 for their cookie, and release it by
 * exchanging the cookie for 0. The snapshot runs at the same time on another processor. It has
 * only the socket's address, cannot lock the socket, and must not make anybody wait. So it works like
 * the reader of a sequence lock, with `progress` as the sequence:
 *
 *   progress:  | generation ...            | SECOND_COPY | REPORTED | PUBLISHED | states |
 *              '-- new with each holder    '-- which copy is current
 *
 *   snapshot                                    programs of the socket
 *   --------                                    ----------------------
 *   1 read progress, then the cookie            claim:   write flow, then progress =
 *   2 read the socket, check its cookie                  next generation | PUBLISHED
 *   3 write the row and the spare copy          close:   progress |= ENDED
 *   4 compare-and-exchange progress:            release: progress &= ~PUBLISHED,
 *       unchanged: row and copy count                    cookie = 0
 *       changed:   both are ignored
 *
 * `reported` has two copies. The snapshot writes the spare one, and step 4 makes it the current one.
 * So a program that closes the connection always reads a copy that nobody writes. */
#ifndef SOCKFLOW_SLOTS_H
#define SOCKFLOW_SLOTS_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "socket_flow.h"
#include "tcp_counters.h"

#define SLOTS 16384

/* Bits of sock_flow.progress that only slots have. */
#define PUBLISHED 16   /* the connection is complete enough to be reported */
#define REPORTED 32    /* something has been reported of it */
#define SECOND_COPY 64 /* reported[1] is current, otherwise reported[0] */
#define GENERATION 256 /* the lowest bit of the generation */

struct slot {
	struct sock_flow flow;
	u64 sk;        /* address of the socket */
	u32 isn_local; /* as in flow_row; written by the snapshot only, valid once REPORTED */
	u32 isn_remote;
	struct totals reported[2];
};
_Static_assert(sizeof(struct slot) == 256, "slot");

/* Cookies are apart from the slots, one cache line for eight. So a pass over free slots reads
 * 128 KiB and not 4 MiB. */
#define COOKIES_PER_LINE 8
struct cookie_line {
	u64 cookies[COOKIES_PER_LINE];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS / COOKIES_PER_LINE);
	__type(key, u32);
	__type(value, struct cookie_line);
} slot_cookies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

/* Returns where the cookie of a slot's holder is; it is 0 while the slot is free. */
static __always_inline u64 *slot_cookie(u32 at)
{
	u32 number = at / COOKIES_PER_LINE;
	struct cookie_line *line = bpf_map_lookup_elem(&slot_cookies, &number);

	return line ? &line->cookies[at % COOKIES_PER_LINE] : 0;
}

static __always_inline struct slot *slot_at(u32 at)
{
	return bpf_map_lookup_elem(&slots, &at);
}

/* Returns the slot that the socket with this cookie holds, 0 if it holds none. */
static __always_inline struct slot *slot_of(u64 cookie)
{
	u32 at = cookie % SLOTS;
	u64 *holder = slot_cookie(at);

	return holder && cookie && *holder == cookie ? slot_at(at) : 0;
}

/* Claims the slot of this cookie. Returns 0 if another socket holds it. */
static __always_inline struct slot *claim_slot(u64 cookie)
{
	u32 at = cookie % SLOTS;
	u64 *holder = slot_cookie(at);
	u64 taken;

	if (!holder)
		return 0;
	taken = __sync_val_compare_and_swap(holder, 0, cookie);
	return !taken || taken == cookie ? slot_at(at) : 0;
}

/* Shows the connection to the snapshot, from here on. */
static __always_inline void publish_slot(struct slot *slot, struct tcp_sock *tp)
{
	struct sock_flow *f = &slot->flow;

	slot->sk = (u64)tp;
	__sync_lock_test_and_set(&f->progress, (f->progress + GENERATION) | PUBLISHED);
}

static __always_inline void release_slot(struct slot *slot, u64 cookie)
{
	u64 *holder = slot_cookie(cookie % SLOTS);

	slot->flow.progress &= ~PUBLISHED;
	if (holder)
		__sync_val_compare_and_swap(holder, cookie, 0);
}

/* Returns what is remembered of a socket's connection, 0 if nothing. Sets `slot` to 0 if that is in
 * the socket's storage. */
static __always_inline struct sock_flow *find_flow(void *sk, u64 cookie, struct slot **slot)
{
	*slot = use_slots ? slot_of(cookie) : 0;
	return *slot ? &(*slot)->flow : bpf_sk_storage_get(&sockets, sk, 0, 0);
}

#endif
