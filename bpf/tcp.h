/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* TCP: octets and packets of the IP layer come from tcp_sock, never from packets. What tcp_sock leaves
 * out (docs/architecture.md has the list) is added back, and marked where that is an estimate. */
#ifndef SOCKFLOW_TCP_H
#define SOCKFLOW_TCP_H

#define SYN_HEADER 40 /* Linux: MSS, SACK permitted, timestamps, window scale */

static __always_inline u32 syn_ack_header(struct tcp_sock *tp)
{
	return 24 + (tp->rx_opt.tstamp_ok ? 12 : tp->rx_opt.sack_ok ? 4 : 0) +
	       (tp->rx_opt.wscale_ok ? 4 : 0);
}

static __always_inline bool fin_received(struct sock *sk)
{
	return sk->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1;
}

static __always_inline bool is_mptcp(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp;
}

/* Estimates for what leaves no trace but a count. They are 0 on a path without loss or reordering,
 * and a row that has any is marked. */
struct estimates {
	u64 tx_octets;
	u64 rx_octets;
};

static __always_inline void estimate(struct estimates *e, struct sock *sk, struct tcp_sock *tp)
{
	u32 acks = tp->segs_out - tp->data_segs_out;
	u32 duplicates = sk->sk_drops.counter; /* segments that TCP dropped: in segs_in only */
	u32 sacks = 0;

	/* each duplicate counts with the mean payload of the others; MPTCP drops what has no payload */
	e->rx_octets = 0;
	if (duplicates && !is_mptcp(tp) && duplicates < tp->data_segs_in)
		e->rx_octets = tp->bytes_received / (tp->data_segs_in - duplicates) * duplicates;
	/* what came out of order was answered by an ACK with at least one SACK block, as far as there
	 * were ACKs (the kernel compresses them) */
	if (bpf_core_field_exists(tp->rcv_ooopack))
		sacks = tp->rcv_ooopack;
	e->tx_octets = tp->rx_opt.sack_ok ? 12 * (u64)(sacks < acks ? sacks : acks) : 0;
}

#define COOKIE_OPTION 12 /* of Fast Open, in the SYN */

/* MPTCP: each segment has 12 octets of options (an acknowledgement of 64 bits), one with data a mapping
 * besides, as has the one that ends the stream. What opens a connection differs by a few octets. */
#define MPTCP_ACK 12
#define MPTCP_MAPPING 16
#define MPTCP_OPENING 4 /* less than that, in what the side that opens it sends first */

static __always_inline void add_mptcp(struct totals *t, struct flow_row *r, struct sock *sk,
				      struct tcp_sock *tp)
{
	u8 state = sk->__sk_common.skc_state;
	u32 ended = state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT ? 0 : MPTCP_MAPPING;

	if (!r->isn_remote)
		return;
	t->tx_octets += (u64)t->tx_packets * MPTCP_ACK + (u64)tp->data_segs_out * MPTCP_MAPPING +
			ended - (r->role == ROLE_INITIATOR ? MPTCP_OPENING : 0);
	t->rx_octets += (u64)t->rx_packets * MPTCP_ACK + (u64)tp->data_segs_in * MPTCP_MAPPING +
			ended - (r->role == ROLE_RESPONDER ? MPTCP_OPENING : 0);
}

/* A socket in a sockmap: a program may move data past TCP, where no counter of it sees them. */
#define USER_DATA_PSOCK 4 /* include/linux/skmsg.h */

static __always_inline bool is_in_sockmap(struct sock *sk)
{
	return (u64)sk->sk_user_data & USER_DATA_PSOCK;
}

/* Returns what the row that reports them is to be marked with. */
static __always_inline u8 read_totals(struct totals *t, struct sock_flow *f, struct flow_row *r,
				      struct sock *sk, struct tcp_sock *tp)
{
	u32 ip = r->ip_version == 6 ? 40 : 20;
	u32 header = ip + tp->tcp_header_len;
	u32 opening = f->opening_segments;
	struct estimates e;

	t->retransmitted = tp->total_retrans;
	t->lost = tp->lost;
	t->tx_packets = tp->segs_out;
	t->rx_packets = tp->segs_in;
	t->tx_octets = tp->bytes_sent + (u64)tp->segs_out * header;
	/* a received FIN counts as one octet of payload */
	t->rx_octets = tp->bytes_received - (fin_received(sk) ? 1 : 0) +
		       (u64)tp->segs_in * header;
	if (f->accepted) {
		/* the SYN-ACK was sent by the request socket; the SYN came with its longer header */
		t->tx_packets += opening;
		t->tx_octets += (u64)opening * (ip + syn_ack_header(tp));
		t->rx_octets += ip + syn_ack_header(tp) - header;
		t->rx_packets += f->deferred_acks;
		t->rx_octets += f->deferred_acks * header;
		if (BPF_CORE_READ_BITFIELD(tp, syn_data_acked))
			t->rx_octets += COOKIE_OPTION;
	} else if (r->role == ROLE_INITIATOR) {
		if (!r->isn_remote) { /* never established */
			t->tx_octets = (u64)tp->segs_out * (ip + SYN_HEADER);
			t->rx_octets = (u64)tp->segs_in * (ip + 20); /* a refusing RST */
		} else {
			t->tx_octets += (u64)opening * (ip + SYN_HEADER - header);
			t->rx_octets += ip + syn_ack_header(tp) - header;
			if (BPF_CORE_READ_BITFIELD(tp, syn_data_acked))
				t->tx_octets += COOKIE_OPTION;
		}
	}
	estimate(&e, sk, tp);
	t->tx_octets += e.tx_octets;
	t->rx_octets += e.rx_octets;
	if (is_mptcp(tp))
		add_mptcp(t, r, sk, tp);
	if (e.tx_octets | e.rx_octets || f->deferred_acks || is_mptcp(tp) || is_in_sockmap(sk))
		return MARK_ESTIMATED;
	return 0;
}

static __always_inline u64 increase(u64 now, u64 seen)
{
	return now > seen ? now - seen : 0;
}

/* What has been reported of a connection whose place is its socket's storage: its row keeps that. */
static __always_inline struct totals reported_by(struct flow_row *r)
{
	return (struct totals){
		.tx_octets = r->tx_octets,
		.rx_octets = r->rx_octets,
		.tx_packets = r->tx_packets,
		.rx_packets = r->rx_packets,
		.retransmitted = r->retransmitted,
		.lost = r->lost,
	};
}

static __always_inline void set_counters(struct flow_row *r, struct totals *t)
{
	r->tx_octets = t->tx_octets;
	r->rx_octets = t->rx_octets;
	r->tx_packets = t->tx_packets;
	r->rx_packets = t->rx_packets;
	r->retransmitted = t->retransmitted;
	r->lost = t->lost;
}

static __always_inline void set_deltas(struct flow_row *r, struct totals *t, struct totals *old)
{
	r->tx_octets = increase(t->tx_octets, old->tx_octets);
	r->rx_octets = increase(t->rx_octets, old->rx_octets);
	r->tx_packets = t->tx_packets - old->tx_packets;
	r->rx_packets = t->rx_packets - old->rx_packets;
	r->retransmitted = t->retransmitted - old->retransmitted;
	r->lost = t->lost - old->lost;
}

#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

/* --- from connect() or accept to the end --------------------------------------------------------- */
static __always_inline void begin_flow(struct flow_row *r, u64 cookie, u8 role)
{
	r->start_ns = r->last_ns = bpf_ktime_get_ns();
	r->id = new_id(r->start_ns);
	r->cookie = cookie;
	r->role = role;
	r->mark = 0;
}

static __always_inline void set_owner(struct flow_row *r, u8 source)
{
	u64 owner = current_owner();

	if (owner) {
		r->owner = owner;
		r->owner_source = source;
	}
}

/* The task that closes an accepted connection is the worker that served it; the listener's owner
 * was only the best guess. A socket that is locked by its user is in process context. */
static __always_inline void refine_owner(struct sock_flow *f, struct sock *sk)
{
	if (f->row.owner_source != OWNER_SOCKET_CALL && sk->sk_lock.owned)
		set_owner(&f->row, OWNER_SOCKET_CALL);
}

static __always_inline bool is_one_of(int state, u32 states)
{
	return states >> state & 1;
}

#define FIN_SENT \
	(1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | 1 << TCP_CLOSING | 1 << TCP_LAST_ACK)
#define HANDSHAKE_DONE (FIN_SENT | 1 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT)

static __always_inline u32 initial_sent(struct sock_flow *f, struct tcp_sock *tp)
{
	/* the active opener has counted its SYN in bytes_acked */
	return tp->snd_una - (u32)tp->bytes_acked + (f->accepted ? 0 : 1);
}

static __always_inline u32 initial_received(struct tcp_sock *tp)
{
	return tp->rcv_nxt - (u32)tp->bytes_received;
}

static __always_inline void set_initial(struct flow_row *r, u32 sent, u32 received)
{
	r->isn_local = sent;
	r->isn_remote = received;
	r->tx_flags |= FLAG_SYN | FLAG_ACK;
	r->rx_flags |= FLAG_SYN | FLAG_ACK;
}

static __always_inline void on_established(struct sock_flow *f, struct sock *sk,
					   struct tcp_sock *tp)
{
	set_key(&f->row, sk, tp);
	/* an accepted socket's are the request socket's SYN-ACKs, else its own SYNs */
	f->opening_segments = 1 + tp->total_retrans;
	set_initial(&f->row, initial_sent(f, tp), initial_received(tp));
}

static __always_inline void on_accepted(struct sock_flow *f, u64 cookie, struct tcp_sock *tp)
{
	begin_flow(&f->row, cookie, ROLE_RESPONDER);
	f->deferred_acks = 0;
	if (use_slots) {
		struct listener *listener = listener_at(tp);

		if (listener && !f->row.owner)
			f->row.owner = listener->owner;
		/* there the ACK of the handshake is dropped: data make the connection */
		if (listener && !is_gone(socket_at(listener->sk), listener->cookie))
			f->deferred_acks = socket_at(listener->sk)
					      ->inet_conn.icsk_accept_queue.rskq_defer_accept != 0;
	}
	f->row.owner_source = f->row.owner ? OWNER_LISTENER : OWNER_UNKNOWN;
	f->row.tx_flags = f->row.rx_flags = 0;
	f->accepted = f->owner_is_guess = 1;
}

/* When TCP last had to do with a packet, by the clock that it reads anyway. */
static __always_inline u64 latest_ns(struct flow_row *r, struct tcp_sock *tp)
{
	u64 latest = tp->tcp_mstamp * 1000;

	return latest > r->last_ns ? latest : r->last_ns;
}

/* The last row of a socket into `r`, which is f->row or a copy of it. */
static __noinline void finalize(struct flow_row *r, struct sock_flow *f, struct tcp_sock *tp, int old,
				struct totals *reported)
{
	struct sock *sk = (struct sock *)tp;
	struct totals now, before;

	if (!r || !f || !tp)
		return;
	if (!r->isn_remote) {
		set_key(r, sk, tp);
		if (is_one_of(old, HANDSHAKE_DONE))
			set_initial(r, initial_sent(f, tp), initial_received(tp));
	}
	r->mark |= read_totals(&now, f, r, sk, tp);
	before = reported ? *reported : reported_by(&f->row);
	set_deltas(r, &now, &before);
	set_gauges(r, sk, tp);
	r->tcp_state = TCP_CLOSE;
	r->mark |= MARK_CLOSED;
	if (is_one_of(old, FIN_SENT))
		r->tx_flags |= FLAG_FIN;
	if (fin_received(sk))
		r->rx_flags |= FLAG_FIN | FLAG_ACK;
	/* An orphan in FIN_WAIT2 goes on as a time-wait socket, where the peer's FIN and our last ACK
	 * are in no tcp_sock. */
	if (old == TCP_FIN_WAIT2 && !fin_received(sk) && !((r->tx_flags | r->rx_flags) & FLAG_RST)) {
		u32 header = (r->ip_version == 6 ? 40 : 20) + tp->tcp_header_len;

		r->tx_packets++;
		r->rx_packets++;
		r->tx_octets += header;
		r->rx_octets += header;
		r->rx_flags |= FLAG_FIN;
		r->mark |= MARK_ESTIMATED;
	}
}

static __always_inline void send_last_row(struct flow_row *last, struct tcp_sock *tp)
{
	struct sent_row *r = bpf_ringbuf_reserve(&flow_ring, sizeof(*r), 0);

	if (!r) {
		__sync_fetch_and_add(&losses.flow_ring_full, 1);
		return;
	}
	set_sent(r, last, tp);
	bpf_ringbuf_submit(r, ring_flags(&flow_ring, FLOWS_WAKEUP_OCTETS));
}

static __always_inline bool claim_last_row(struct sock_flow *f)
{
	u32 progress = f->progress;

	return (progress & PROGRESS_STATES) == (ENDED | LAST_ROW_READY) &&
	       __sync_val_compare_and_swap(&f->progress, progress, progress ^ (LAST_ROW_READY | LAST_ROW_SENT)) == progress;
}

/* The same descriptor may have tried to connect before. */
static __always_inline void reset_flow(struct sock_flow *f)
{
	u32 kept = f->progress & (SECOND_COPY | -GENERATION);

	if (!f->row.id)
		return;
	if (claim_last_row(f))
		send_last_row(&f->row, 0);
	else if (!(f->progress & (LAST_ROW_SENT | ENDED)))
		__sync_fetch_and_add(&losses.ends_missed, 1);
	__builtin_memset(f, 0, sizeof(*f));
	f->progress = kept;
}

/* A slot for a connection of the socket with this cookie; 0 when another one has it. */
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

/* Of a slot: from here on the snapshot reports it. */
static __always_inline void publish_slot(struct slot *slot, struct tcp_sock *tp)
{
	struct sock_flow *f = &slot->flow;

	slot->sk = (u64)tp;
	__sync_lock_test_and_set(&f->progress, (f->progress + GENERATION) | PUBLISHED);
}

/* Where the connection that this socket begins is remembered, as new but for the owner that an accepted
 * one has from its listener. */
static __always_inline struct sock_flow *new_flow(void *sk, u64 cookie, struct slot **slot)
{
	struct sock_flow *f = bpf_sk_storage_get(&sockets, sk, 0, 0);

	*slot = !f && use_slots ? claim_slot(cookie) : 0;
	if (*slot)
		f = &(*slot)->flow;
	else if (!f)
		f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (f)
		reset_flow(f);
	else
		__sync_fetch_and_add(&losses.storage_failed, 1);
	return f;
}

static __always_inline void on_listen(void *sk, u64 cookie, struct tcp_sock *tp)
{
	struct slot *slot;
	struct sock_flow *f = find_flow(sk, cookie, &slot);

	if (f)
		reset_flow(f);
	if (slot)
		release_slot(slot, cookie);
	if (use_slots && (!f || slot) && note_listener(tp, cookie, current_owner()))
		return;
	f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (f)
		set_owner(&f->row, OWNER_SOCKET_CALL);
	else
		__sync_fetch_and_add(&losses.storage_failed, 1);
}

/* Who has an MPTCP connection, by the address of its socket: a kernel worker opens further subflows. */
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

static __always_inline void on_connect(struct sock_flow *f, u64 cookie, struct tcp_sock *tp)
{
	begin_flow(&f->row, cookie, ROLE_INITIATOR);
	set_owner(&f->row, OWNER_SOCKET_CALL);
	if (is_mptcp(tp))
		share_owner(f, tp);
	f->owner_is_guess = !f->row.owner;
	f->opening_segments = 1;
	f->row.tx_flags = FLAG_SYN;
}

/* An orphan has nothing left to tell: its last row leaves at once. */
static __always_inline void send_orphan(struct sock_flow *f, struct tcp_sock *tp, int old,
					struct totals *reported)
{
	struct sent_row *r = bpf_ringbuf_reserve(&flow_ring, sizeof(*r), 0);

	f->progress |= LAST_ROW_SENT;
	if (!r) {
		__sync_fetch_and_add(&losses.flow_ring_full, 1);
		return;
	}
	set_sent(r, &f->row, tp);
	finalize(&r->row, f, tp, old, reported);
	r->row.last_ns = latest_ns(&r->row, tp);
	bpf_ringbuf_submit(r, ring_flags(&flow_ring, FLOWS_WAKEUP_OCTETS));
}

static __always_inline void on_close(struct sock_flow *f, struct slot *slot, struct sock *sk,
				     struct tcp_sock *tp, int old)
{
	struct totals *reported = 0;
	u32 before;

	if (f->progress & ENDED)
		return;
	f->closed_from = old;
	before = __sync_fetch_and_or(&f->progress, ENDED);
	if (before & LOCKED)
		return; /* the snapshot has it in hand and will finish it */
	if (slot && before & REPORTED)
		reported = &slot->reported[before & SECOND_COPY ? 1 : 0];
	if (!report_events && !sk->sk_socket) {
		send_orphan(f, tp, old, reported);
		return;
	}
	finalize(&f->row, f, tp, old, reported);
	f->row.last_ns = bpf_ktime_get_ns();
	if (report_events && (f->row.owner_source == OWNER_SOCKET_CALL || !sk->sk_socket))
		emit_end_event(f, tp);
	__sync_fetch_and_or(&f->progress, LAST_ROW_READY);
	/* A socket that a task still holds may send a reset and name its worker: its row leaves when
	 * it is destroyed. */
	if (!sk->sk_socket && claim_last_row(f))
		send_last_row(&f->row, tp);
}

static __always_inline bool is_of_interest(int state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_LAST_ACK || state == TCP_CLOSE;
}

static __always_inline void on_state(struct sock_flow *f, struct slot *slot, struct sock *sk,
				     struct tcp_sock *tp, int old, int new)
{
	switch (new) {
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
		if (f->owner_is_guess)
			refine_owner(f, sk);
		break;
	case TCP_CLOSE:
		on_close(f, slot, sk, tp, old);
	}
}

/* sock_ops rather than the tracepoint of the same name: a tracing program is skipped when a softirq
 * would re-enter it, and a skipped state is a lost flow. */
SEC("sockops")
int tcp_events(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *ref = ctx->sk;
	struct slot *slot = 0;
	struct sock_flow *f;
	struct tcp_sock *tp;
	u64 cookie;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		/* tcp_sock keeps all that follows from it, but for how many SYNs it took */
		if (!report_events && !ctx->total_retrans &&
		    ctx->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG)
			return 1;
		break;
	case BPF_SOCK_OPS_STATE_CB: /* half of them tell nothing, and a look-up costs */
		if (!is_of_interest(ctx->args[1]))
			return 1;
		break;
	default:
		return 1;
	}
	if (!ref)
		return 1;
	tp = bpf_skc_to_tcp_sock(ref);
	if (!tp)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ref, bpf_get_socket_cookie(ctx), tp);
		return 1;
	case BPF_SOCK_OPS_STATE_CB:
		cookie = cookie_of(tp);
		f = find_flow(ref, cookie, &slot);
		if (!f || !f->row.id)
			return 1;
		on_state(f, slot, (struct sock *)tp, tp, ctx->args[0], ctx->args[1]);
		if (slot && f->progress & LAST_ROW_SENT)
			release_slot(slot, cookie);
		return 1;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		f = find_flow(ref, cookie_of(tp), &slot);
		if (!f || !f->row.id)
			return 1;
		on_established(f, (struct sock *)tp, tp);
		break;
	default:
		cookie = bpf_get_socket_cookie(ctx);
		f = new_flow(ref, cookie, &slot);
		if (!f)
			return 1;
		if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
			on_connect(f, cookie, tp);
		} else {
			on_accepted(f, cookie, tp);
			on_established(f, (struct sock *)tp, tp);
		}
		if (slot)
			publish_slot(slot, tp);
	}
	if (report_events && ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		emit_established_event(f, tp);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroyed, struct sock *sk)
{
	u64 cookie = sk->__sk_common.skc_cookie.counter;
	struct slot *slot;
	struct sock_flow *f = find_flow(sk, cookie, &slot);
	struct tcp_sock *tp;

	if (!f || !f->row.id) {
		if (report_events)
			emit_unreachable_event(f, sk);
		return 0;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && !(f->progress & PROGRESS_STATES)) /* older than the probe: no state was ever announced */
		on_close(f, slot, sk, tp, TCP_CLOSE);
	if (claim_last_row(f)) {
		if (report_events)
			emit_late_end_event(f, sk);
		refine_owner(f, sk);
		send_last_row(&f->row, tp);
	}
	if (slot)
		release_slot(slot, cookie);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_reset_received, struct sock *sk)
{
	struct slot *slot;
	struct sock_flow *f = find_flow(sk, sk->__sk_common.skc_cookie.counter, &slot);

	if (f)
		f->row.rx_flags |= FLAG_RST;
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reset_sent, struct sock *sk)
{
	struct sock_flow *f;
	struct slot *slot;

	if (!sk || sk->__sk_common.skc_state == TCP_TIME_WAIT ||
	    sk->__sk_common.skc_state == TCP_NEW_SYN_RECV)
		return 0;
	f = find_flow(sk, sk->__sk_common.skc_cookie.counter, &slot);
	if (!f)
		return 0;
	f->row.tx_flags |= FLAG_RST;
	if ((f->progress & PROGRESS_STATES) == (ENDED | LAST_ROW_READY)) { /* close() resets after the state has changed */
		struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

		if (!tp)
			return 0;
		f->row.tx_packets++;
		f->row.tx_octets += (f->row.ip_version == 6 ? 40 : 20) + tp->tcp_header_len;
	}
	return 0;
}

#endif
