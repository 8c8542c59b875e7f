/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Passes that user space starts: the snapshot of all live sockets, the table of UDP peers, and the
 * attribution of sockets to the tasks that hold them. */
#ifndef SOCKFLOW_ITERATORS_H
#define SOCKFLOW_ITERATORS_H

static __always_inline struct sent_row *next_snapshot_row(void)
{
	u32 at = snapshot_rows;

	if (at >= snapshot_capacity) {
		losses.snapshot_full++;
		return 0;
	}
	return bpf_map_lookup_elem(&snapshot, &at);
}

/* What connection this is, once it is one. The socket may be at work on another processor, which changes
 * one number of a pair before the other: what is the same before and after is right, else false. */
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

/* The time of this pass: reading the clock costs as much as all the rest for an idle socket. */
static u64 pass_ns;

/* Closed, but a descriptor is still held: close() has a second to tell the owner. */
static __always_inline bool waits_for_owner(struct flow_row *r)
{
	return pass_ns < r->last_ns + 1000000000ULL && !is_last_pass;
}

static __always_inline void snapshot_tcp(struct sock_flow *f, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct totals totals, reported;
	struct sent_row *r;
	u32 seen;

	if (!tp || !f->row.id)
		return;
	if (f->progress) {
		if (f->progress != (ENDED | LAST_ROW_READY) || waits_for_owner(&f->row))
			return;
		r = next_snapshot_row();
		if (r && claim_last_row(f)) {
			if (report_events && f->row.owner_source != OWNER_SOCKET_CALL)
				emit_end_event(f, tp);
			set_sent(r, &f->row, tp);
			snapshot_rows++;
		}
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
		f->row.tx_flags |= FLAG_FIN;
	f->row.last_ns = latest_ns(&f->row, tp);
	set_sent(r, &f->row, tp);
	r->row.mark |= read_totals(&totals, f, &r->row, sk, tp);
	reported = reported_by(&f->row);
	set_deltas(&r->row, &totals, &reported);
	set_counters(&f->row, &totals);
	snapshot_rows++;
	if (!(__sync_fetch_and_and(&f->progress, ~LOCKED) & ENDED))
		return;
	/* the socket closed meanwhile and left its last row to us */
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
		send_last_row(&f->row, tp); /* nobody else will */
	}
}

static __always_inline void count_row(struct sock_flow *f, u32 progress, u32 next)
{
	if (__sync_val_compare_and_swap(&f->progress, progress, next) == progress)
		snapshot_rows++;
}

/* The connection of one slot. What is found out is written where nobody else reads, until it counts. */
static __noinline int snapshot_slot(u32 at)
{
	volatile u64 *holder = slot_cookie(at);
	struct totals now, reported = {};
	struct sent_row *r;
	struct sock_flow *f;
	struct tcp_sock *tp;
	struct slot *slot;
	struct sock *sk;
	u32 progress;
	u64 cookie;
	bool gone;

	slot = slot_at(at);
	if (!holder || !slot)
		return 0;
	f = &slot->flow;
	progress = *(volatile u32 *)&f->progress;
	cookie = *holder; /* after progress, or it might be of another generation */
	if (!(progress & PUBLISHED))
		return 0;
	tp = socket_at(slot->sk);
	sk = (struct sock *)tp;
	gone = is_gone(tp, cookie);
	if (gone && (progress & PROGRESS_STATES) != (ENDED | LAST_ROW_READY)) {
		/* nobody else can leave it: the program was skipped */
		if (__sync_val_compare_and_swap(&f->progress, progress, (progress & ~PUBLISHED) | LAST_ROW_SENT) ==
		    progress) {
			if (!(progress & LAST_ROW_SENT) && !is_last_pass)
				losses.ends_missed++;
			release_slot(slot, cookie);
		}
		return 0;
	}
	if (progress & PROGRESS_STATES) {
		if ((progress & PROGRESS_STATES) != (ENDED | LAST_ROW_READY) ||
		    (!gone && waits_for_owner(&f->row)))
			return 0;
		r = next_snapshot_row();
		if (!r)
			return 0;
		set_sent(r, &f->row, gone ? 0 : tp);
		count_row(f, progress, progress ^ (LAST_ROW_READY | LAST_ROW_SENT));
		return 0;
	}
	if (progress & REPORTED)
		reported = slot->reported[progress & SECOND_COPY ? 1 : 0];
	if (reported.tx_packets + reported.rx_packets ==
	    tp->segs_out + tp->segs_in + (f->accepted ? f->opening_segments + f->deferred_acks : 0))
		return 0;
	r = next_snapshot_row();
	if (!r)
		return 0;
	set_sent(r, &f->row, tp);
	if (progress & REPORTED && slot->isn_remote) {
		set_key(&r->row, sk, tp);
		set_initial(&r->row, slot->isn_local, slot->isn_remote);
	} else if (!r->row.isn_remote && !set_connection(&r->row, f, sk, tp) &&
		   !set_connection(&r->row, f, sk, tp)) {
		return 0; /* the next pass will do */
	}
	slot->isn_local = r->row.isn_local;
	slot->isn_remote = r->row.isn_remote;
	set_gauges(&r->row, sk, tp);
	if (is_one_of(r->row.tcp_state, FIN_SENT))
		r->row.tx_flags |= FLAG_FIN;
	r->row.last_ns = latest_ns(&r->row, tp);
	r->row.mark |= read_totals(&now, f, &r->row, sk, tp);
	set_deltas(&r->row, &now, &reported);
	slot->reported[progress & SECOND_COPY ? 0 : 1] = now;
	if (!is_gone(tp, cookie))
		count_row(f, progress, (progress ^ SECOND_COPY) | REPORTED);
	return 0;
}

static int snapshot_cookie_line(u32 number, void *unused)
{
	struct cookie_line *line = bpf_map_lookup_elem(&slot_cookies, &number);

	if (line)
		for (u32 i = 0; i < COOKIES_PER_LINE; i++)
			if (line->cookies[i])
				snapshot_slot(number * COOKIES_PER_LINE + i);
	return 0;
}

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

/* Most of a pass over many sockets is waiting for memory, for a chain of four addresses a socket. So what
 * later sockets need is read on the way, in vain: their storage, then whose it is, then that socket. The
 * addresses are of a moment ago; a bad one is no harm. */
static struct bpf_local_storage_elem *prefetched_elem; /* two sockets ahead */
static struct sock *prefetched_sk;                /* the next socket */

static __always_inline void load_line(void *place)
{
	u64 word;

	bpf_probe_read_kernel(&word, sizeof(word), place);
}

static __always_inline void prefetch_sockets(struct sock_flow *f)
{
	struct bpf_local_storage_elem *e = prefetched_elem;
	struct sock *sk = prefetched_sk;
	u64 head[5]; /* as far as it matters */
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
		if (use_slots && !sk) /* the end of the pass */
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
			return 0; /* else a datagram has come meanwhile: this is its row */
	}
	r = next_snapshot_row();
	if (!r)
		return 0;
	set_sent(r, from, 0);
	drain_counters(&r->row, from);
	snapshot_rows++;
	return 0;
}

/* Which end of a connection older than the probe a socket is. The octet of a SYN or FIN that was acknowledged is
 * in bytes_acked, but not in bytes_sent: so the one that opened it has one more. 0: it cannot be told. */
static __noinline u32 opening_octets(struct tcp_sock *tp, u8 state)
{
	u64 once = tp->bytes_sent - tp->bytes_retrans + is_one_of(state, FIN_SENT);

	return tp->snd_nxt - tp->snd_una + (u32)tp->bytes_acked - (u32)once;
}

static __always_inline u8 find_older_role(struct sock *sk, struct tcp_sock *tp)
{
	u8 state = sk->__sk_common.skc_state;
	u32 octets = opening_octets(tp, state);
	struct listener *listener;

	if (state == TCP_SYN_SENT)
		return ROLE_INITIATOR;
	if (octets < 2 && octets == opening_octets(tp, state)) /* nothing changed while it was read */
		return octets ? ROLE_INITIATOR : ROLE_RESPONDER;
	if (!use_slots)
		return ROLE_UNKNOWN;
	listener = listener_at(tp);
	return listener && listener->cookie ? ROLE_RESPONDER : ROLE_UNKNOWN;
}

static __always_inline void adopt_tcp(struct sock_flow *f, struct sock *sk, struct tcp_sock *tp)
{
	u8 state = sk->__sk_common.skc_state;
	struct totals before;

	if (state == TCP_LISTEN || state == TCP_CLOSE)
		return; /* no flow, but accepted children shall inherit the owner */
	begin_flow(&f->row, bpf_get_socket_cookie(sk), find_older_role(sk, tp));
	f->owner_is_guess = 1;
	if (state == TCP_SYN_SENT)
		return;
	f->row.mark = MARK_PREEXISTING;
	set_key(&f->row, sk, tp);
	f->row.isn_local = tp->snd_una - (u32)tp->bytes_acked +
			   (f->row.role == ROLE_INITIATOR); /* as in initial_sent() */
	f->row.isn_remote = tp->rcv_nxt - (u32)tp->bytes_received;
	f->row.tx_flags = f->row.rx_flags = FLAG_ACK;
	read_totals(&before, f, &f->row, sk, tp);
	set_counters(&f->row, &before); /* what came before the probe is not its to export */
	f->seen = tp->segs_out + tp->segs_in;
}

/* Sockets that no hook has seen, and accepted ones whose worker is not known yet. */
SEC("iter/task_file")
int attribute_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct tcp_sock *tp;
	struct sock_flow *f;
	struct slot *slot;
	struct sock *sk;
	bool fresh;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP && sk->sk_protocol != IPPROTO_UDP)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	f = find_flow(sk, sk->__sk_common.skc_cookie.counter, &slot);
	fresh = !f;
	if (fresh && use_slots && tp && sk->__sk_common.skc_state == TCP_LISTEN) {
		struct listener *known = listener_at(tp);
		u64 cookie = bpf_get_socket_cookie(sk);

		if ((known && known->cookie == cookie) ||
		    note_listener(tp, cookie, owner_of(task)))
			return 0;
	}
	if (fresh) {
		f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		/* what no hook has seen is refused here first, once for each of its descriptors */
		if (!f && !was_attributed)
			__sync_fetch_and_add(&losses.storage_failed, 1);
	}
	if (!f || f->progress & PROGRESS_STATES)
		return 0;
	if (!f->row.owner || f->row.owner_source == OWNER_LISTENER) {
		f->row.owner = owner_of(task);
		f->row.owner_source = f->row.owner ? OWNER_DESCRIPTOR : OWNER_UNKNOWN;
	}
	if (!fresh)
		return 0;
	if (tp) {
		adopt_tcp(f, sk, tp);
	} else {
		f->row.cookie = bpf_get_socket_cookie(sk);
		f->row.mark = MARK_PREEXISTING;
		set_namespace(&f->row, sk);
	}
	return 0;
}

#endif
