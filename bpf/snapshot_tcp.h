/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The snapshot of one TCP connection: what it has counted since the last report.
 *
 * In storage (snapshot_tcp): LOCKED in `progress` keeps the end of the socket away from the row. An end
 * that comes meanwhile adds ENDED and leaves the last row to the snapshot (socket_flow.h).
 *
 * In a slot (snapshot_slot): nothing is locked. The row is prepared from what is found, and counts
 * only if `progress` is unchanged at the end (slots.h).
 *
 *   prepared ---- progress unchanged ----> snapshot_rows + 1
 *        '------- changed ---------------> the next connection overwrites it */
#ifndef SOCKFLOW_SNAPSHOT_TCP_H
#define SOCKFLOW_SNAPSHOT_TCP_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "output.h"
#include "protocols.h"
#include "rows.h"
#include "slots.h"
#include "socket_flow.h"
#include "tcp_counters.h"
#include "tcp_events.h"
#include "tcp_rows.h"
#include "tcp_socket.h"

#define WAIT_FOR_CLOSE_NS 1000000000ULL

/* The time of this pass. Reading the clock costs as much as everything else for an idle socket. */
static u64 pass_ns;

/* Writes addresses, ports and initial sequence numbers. Returns false if they are not consistent. The
 * socket may be at work on another processor, which changes one number of a pair before the other.
 * Numbers that are the same before and after are right. */
static __always_inline bool set_connection(struct flow_row *r, struct sock_flow *f, struct sock *sk,
					   struct tcp_sock *tp)
{
	u32 sent, received;

	if (!is_one_of(sk->__sk_common.skc_state, HANDSHAKE_DONE)) {
		set_key(r, sk, tp);
		return true;
	}
	sent = initial_sent(f, tp);
	received = initial_received(tp);
	set_key(r, sk, tp);
	set_gauges(r, sk, tp);
	if (sent != initial_sent(f, tp) || received != initial_received(tp))
		return false;
	set_initial(r, sent, received);
	return true;
}

/* Returns whether the last row still waits for close(). A descriptor of the closed socket is held, and
 * the task that closes it is its owner. */
static __always_inline bool waits_for_owner(struct flow_row *r)
{
	return pass_ns < r->last_ns + WAIT_FOR_CLOSE_NS && !is_last_pass;
}

/* Reports the last row of a connection whose descriptor stays open. */
static __always_inline void report_waiting(struct sock_flow *f, struct tcp_sock *tp)
{
	struct sent_row *r;

	if (f->progress != (ENDED | LAST_ROW_READY) || waits_for_owner(&f->row))
		return;
	r = next_snapshot_row();
	if (r && claim_last_row(f)) {
		if (report_events && f->row.owner_source != OWNER_SOCKET_CALL)
			emit_end_event(f, tp);
		set_sent(r, &f->row, tp);
		snapshot_rows++;
	}
}

/* Makes and reports the last row of a socket that ended while it was LOCKED. */
static __always_inline void finish_ended(struct sock_flow *f, struct tcp_sock *tp)
{
	struct sent_row *r;

	f->progress = ENDED | LAST_ROW_SENT;
	finalize(&f->row, f, tp, f->closed_from, 0);
	f->row.last_ns = latest_ns(&f->row, tp);
	if (report_events)
		emit_end_event(f, tp);
	r = next_snapshot_row();
	if (r) {
		set_sent(r, &f->row, tp);
		snapshot_rows++;
	} else {
		send_last_row(&f->row, tp); /* no later pass would find it */
	}
}

/* Reports a connection in socket storage. */
static __always_inline void snapshot_tcp(struct sock_flow *f, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct totals totals, reported;
	struct sent_row *r;
	u32 seen;

	if (!tp || !f->row.id)
		return;
	if (f->progress) {
		report_waiting(f, tp);
		return;
	}
	seen = tp->segs_out + tp->segs_in;
	if (seen == f->seen)
		return;
	r = next_snapshot_row();
	if (!r || __sync_val_compare_and_swap(&f->progress, 0, LOCKED))
		return;
	f->seen = seen;
	if (!f->row.isn_remote)
		set_connection(&f->row, f, sk, tp);
	set_gauges(&f->row, sk, tp);
	if (is_one_of(f->row.tcp_state, FIN_SENT))
		f->row.tx_flags |= TCPHDR_FIN;
	f->row.last_ns = latest_ns(&f->row, tp);
	set_sent(r, &f->row, tp);
	r->row.mark |= read_totals(&totals, f, &r->row, sk, tp);
	reported = reported_by(&f->row);
	set_deltas(&r->row, &totals, &reported);
	set_counters(&f->row, &totals);
	snapshot_rows++;
	if (__sync_fetch_and_and(&f->progress, ~LOCKED) & ENDED)
		finish_ended(f, tp);
}

/* Counts the prepared row if `progress` is unchanged, and sets it to `next`. */
static __always_inline void count_row(struct sock_flow *f, u32 progress, u32 next)
{
	if (__sync_val_compare_and_swap(&f->progress, progress, next) == progress)
		snapshot_rows++;
}

/* Releases a slot whose socket is gone: the kernel skipped the program that does it. */
static __always_inline void release_gone(struct slot *slot, u64 cookie, u32 progress)
{
	u32 next = (progress & ~PUBLISHED) | LAST_ROW_SENT;

	if (__sync_val_compare_and_swap(&slot->flow.progress, progress, next) != progress)
		return;
	if (!(progress & LAST_ROW_SENT) && !is_last_pass)
		losses.ends_missed++;
	release_slot(slot, cookie);
}

/* Writes the row of a live connection, and what it has counted to the spare copy: step 3. Returns
 * false if the socket changed meanwhile, or the snapshot is full; the next pass tries again. */
static __always_inline bool prepare_row(struct slot *slot, struct tcp_sock *tp, u32 progress)
{
	struct totals now, reported = {};
	struct sock_flow *f = &slot->flow;
	struct sock *sk = (struct sock *)tp;
	struct sent_row *r;

	if (progress & REPORTED)
		reported = slot->reported[progress & SECOND_COPY ? 1 : 0];
	if (reported.tx_packets + reported.rx_packets ==
	    tp->segs_out + tp->segs_in + (f->accepted ? f->opening_segments + f->deferred_acks : 0))
		return false; /* nothing is new */
	r = next_snapshot_row();
	if (!r)
		return false;
	set_sent(r, &f->row, tp);
	if (progress & REPORTED && slot->isn_remote) {
		set_key(&r->row, sk, tp);
		set_initial(&r->row, slot->isn_local, slot->isn_remote);
	} else if (!r->row.isn_remote && !set_connection(&r->row, f, sk, tp) &&
		   !set_connection(&r->row, f, sk, tp)) {
		return false;
	}
	slot->isn_local = r->row.isn_local;
	slot->isn_remote = r->row.isn_remote;
	set_gauges(&r->row, sk, tp);
	if (is_one_of(r->row.tcp_state, FIN_SENT))
		r->row.tx_flags |= TCPHDR_FIN;
	r->row.last_ns = latest_ns(&r->row, tp);
	r->row.mark |= read_totals(&now, f, &r->row, sk, tp);
	set_deltas(&r->row, &now, &reported);
	slot->reported[progress & SECOND_COPY ? 0 : 1] = now;
	return true;
}

/* Reports the connection in a slot. slots.h has the steps. */
static __noinline int snapshot_slot(u32 at)
{
	volatile u64 *holder = slot_cookie(at);
	struct slot *slot = slot_at(at);
	struct sent_row *r;
	struct sock_flow *f;
	struct tcp_sock *tp;
	u32 progress;
	u64 cookie;
	bool gone;

	if (!holder || !slot)
		return 0;
	f = &slot->flow;
	progress = *(volatile u32 *)&f->progress; /* step 1 */
	cookie = *holder; /* read after progress: otherwise it might be of a later generation */
	if (!(progress & PUBLISHED))
		return 0;
	tp = socket_at(slot->sk); /* step 2 */
	gone = is_gone(tp, cookie);
	if ((progress & PROGRESS_STATES) == (ENDED | LAST_ROW_READY)) {
		if (!gone && waits_for_owner(&f->row))
			return 0;
		r = next_snapshot_row();
		if (!r)
			return 0;
		set_sent(r, &f->row, gone ? 0 : tp);
		count_row(f, progress, progress ^ (LAST_ROW_READY | LAST_ROW_SENT));
	} else if (gone) {
		release_gone(slot, cookie, progress);
	} else if (!(progress & PROGRESS_STATES) && prepare_row(slot, tp, progress) &&
		   !is_gone(tp, cookie)) {
		count_row(f, progress, (progress ^ SECOND_COPY) | REPORTED); /* step 4 */
	}
	return 0;
}

/* Takes the eight slots whose cookies are in one cache line. */
static int snapshot_cookie_line(u32 number, void *unused)
{
	struct cookie_line *line = bpf_map_lookup_elem(&slot_cookies, &number);

	if (line)
		for (u32 i = 0; i < COOKIES_PER_LINE; i++)
			if (line->cookies[i])
				snapshot_slot(number * COOKIES_PER_LINE + i);
	return 0;
}

#endif
