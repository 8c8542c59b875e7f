/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* TCP: octets and packets of the IP layer come from tcp_sock, never from packets. What tcp_sock leaves
 * out (docs/architecture.md has the list) is added back, and marked where that is an estimate. */
#ifndef SOCKFLOW_TCP_H
#define SOCKFLOW_TCP_H

struct totals {
	u64 tx_octets;
	u64 rx_octets;
	u32 tx_packets;
	u32 rx_packets;
};

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

	/* each duplicate counts with the mean payload of the others */
	e->rx_octets = 0;
	if (duplicates && duplicates < tp->data_segs_in)
		e->rx_octets = tp->bytes_received / (tp->data_segs_in - duplicates) * duplicates;
	/* what came out of order was answered by an ACK with at least one SACK block, as far as there
	 * were ACKs (the kernel compresses them) */
	if (bpf_core_field_exists(tp->rcv_ooopack))
		sacks = tp->rcv_ooopack;
	e->tx_octets = tp->rx_opt.sack_ok ? 12 * (u64)(sacks < acks ? sacks : acks) : 0;
}

static __always_inline void read_totals(struct totals *t, struct sock_flow *f, struct sock *sk,
					struct tcp_sock *tp)
{
	u32 ip = f->row.ip_version == 6 ? 40 : 20;
	u32 header = ip + tp->tcp_header_len;
	u32 opening = f->opening_segments;
	struct estimates e;

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
	} else if (f->row.role == ROLE_INITIATOR) {
		if (!f->row.isn_remote) { /* never established */
			t->tx_octets = (u64)tp->segs_out * (ip + SYN_HEADER);
			t->rx_octets = (u64)tp->segs_in * (ip + 20); /* a refusing RST */
		} else {
			t->tx_octets += (u64)opening * (ip + SYN_HEADER - header);
			t->rx_octets += ip + syn_ack_header(tp) - header;
		}
	}
	estimate(&e, sk, tp);
	t->tx_octets += e.tx_octets;
	t->rx_octets += e.rx_octets;
	if (e.tx_octets | e.rx_octets)
		f->row.mark |= MARK_ESTIMATED;
}

static __always_inline u64 ahead(u64 now, u64 seen)
{
	return now > seen ? now - seen : 0;
}

/* Deltas since the last report into `r`, and the totals remembered as reported: by f->row, if that is
 * not `r` itself. */
static __always_inline void report_totals(struct flow_row *r, struct sock_flow *f, struct sock *sk,
					  struct tcp_sock *tp)
{
	struct flow_row *seen = &f->row;
	struct totals t, old = {
		.tx_octets = seen->tx_octets,
		.rx_octets = seen->rx_octets,
		.tx_packets = seen->tx_packets,
		.rx_packets = seen->rx_packets,
	};
	u32 old_retransmitted = seen->retransmitted, old_lost = seen->lost;
	u32 retransmitted = tp->total_retrans, lost = tp->lost;

	read_totals(&t, f, sk, tp);
	seen->tx_octets = t.tx_octets;
	seen->rx_octets = t.rx_octets;
	seen->tx_packets = t.tx_packets;
	seen->rx_packets = t.rx_packets;
	seen->retransmitted = retransmitted;
	seen->lost = lost;
	r->tx_octets = ahead(t.tx_octets, old.tx_octets);
	r->rx_octets = ahead(t.rx_octets, old.rx_octets);
	r->tx_packets = t.tx_packets - old.tx_packets;
	r->rx_packets = t.rx_packets - old.rx_packets;
	r->retransmitted = retransmitted - old_retransmitted;
	r->lost = lost - old_lost;
}

#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

/* --- from connect() or accept to the end --------------------------------------------------------- */
static __always_inline void begin(struct flow_row *r, u64 cookie, u8 role)
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

static __always_inline void on_established(struct sock_flow *f, struct sock *sk,
					   struct tcp_sock *tp)
{
	set_key(&f->row, sk, tp);
	/* an accepted socket's are the request socket's SYN-ACKs, else its own SYNs */
	f->opening_segments = 1 + tp->total_retrans;
	/* the active opener has counted its SYN in bytes_acked */
	f->row.isn_local = tp->snd_una - (u32)tp->bytes_acked + (f->accepted ? 0 : 1);
	f->row.isn_remote = tp->rcv_nxt - (u32)tp->bytes_received;
	f->row.tx_flags = f->row.rx_flags = FLAG_SYN | FLAG_ACK;
}

static __always_inline void on_accepted(struct sock_flow *f, u64 cookie)
{
	begin(&f->row, cookie, ROLE_RESPONDER);
	f->row.owner_source = f->row.owner ? OWNER_LISTENER : OWNER_UNKNOWN;
	f->accepted = 1;
	f->progress = 0;
}

static __always_inline void finalize(struct sock_flow *f, struct sock *sk, struct tcp_sock *tp,
				     int old)
{
	if (!f->row.ip_version)
		set_key(&f->row, sk, tp);
	report_totals(&f->row, f, sk, tp);
	set_gauges(&f->row, sk, tp);
	f->row.tcp_state = TCP_CLOSE;
	f->row.last_ns = bpf_ktime_get_ns();
	f->row.mark |= MARK_CLOSED;
	if (fin_received(sk))
		f->row.rx_flags |= FLAG_FIN | FLAG_ACK;
	/* An orphan in FIN_WAIT2 goes on as a time-wait socket, where the peer's FIN and our last ACK
	 * are in no tcp_sock. */
	if (old == TCP_FIN_WAIT2 && !fin_received(sk) &&
	    !((f->row.tx_flags | f->row.rx_flags) & FLAG_RST)) {
		u32 header = (f->row.ip_version == 6 ? 40 : 20) + tp->tcp_header_len;

		f->row.tx_packets++;
		f->row.rx_packets++;
		f->row.tx_octets += header;
		f->row.rx_octets += header;
		f->row.rx_flags |= FLAG_FIN;
		f->row.mark |= MARK_ESTIMATED;
	}
}

static __always_inline void send_last_row(struct flow_row *last)
{
	struct flow_row *r = bpf_ringbuf_reserve(&flow_ring, sizeof(*r), 0);

	if (!r) {
		__sync_fetch_and_add(&losses.flow_ring_full, 1);
		return;
	}
	*r = *last;
	bpf_ringbuf_submit(r, ring_flags(&flow_ring, FLOW_RING_OCTETS));
}

static __always_inline bool take_final(struct sock_flow *f)
{
	return __sync_val_compare_and_swap(&f->progress, CLOSING | FINAL, CLOSING | DONE) ==
	       (CLOSING | FINAL);
}

/* The same descriptor may have tried to connect before. */
static __always_inline void start_over(struct sock_flow *f)
{
	if (!f->row.id)
		return;
	if (take_final(f))
		send_last_row(&f->row);
	__builtin_memset(f, 0, sizeof(*f));
}

static __always_inline void on_connect(struct sock_flow *f, u64 cookie)
{
	start_over(f);
	begin(&f->row, cookie, ROLE_INITIATOR);
	set_owner(&f->row, OWNER_SOCKET_CALL);
	f->row.tx_flags = FLAG_SYN;
}

static __always_inline void on_close(struct sock_flow *f, struct sock *sk, struct tcp_sock *tp,
				     int old)
{
	if (__sync_fetch_and_or(&f->progress, CLOSING))
		return; /* done before, or the snapshot has it in hand and will finish it */
	finalize(f, sk, tp, old);
	if (report_events && (f->row.owner_source == OWNER_SOCKET_CALL || !sk->sk_socket))
		tell_end(f, tp);
	__sync_fetch_and_or(&f->progress, FINAL);
	/* An orphan has nothing left to tell. A socket that a task still holds may send a reset and
	 * name its worker: its row leaves when it is destroyed. */
	if (!sk->sk_socket && take_final(f))
		send_last_row(&f->row);
}

static __always_inline bool is_of_interest(int state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_LAST_ACK || state == TCP_CLOSE;
}

static __always_inline void on_state(struct sock_flow *f, struct sock *sk, struct tcp_sock *tp,
				     int old, int new)
{
	switch (new) {
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
		f->row.tx_flags |= FLAG_FIN;
		refine_owner(f, sk);
		break;
	case TCP_CLOSE:
		on_close(f, sk, tp, old);
	}
}

/* sock_ops rather than the tracepoint of the same name: a tracing program is skipped when a softirq
 * would re-enter it, and a skipped state is a lost flow. */
SEC("sockops")
int tcp_events(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *ref = ctx->sk;
	struct sock_flow *f;
	struct tcp_sock *tp;
	u64 create = 0;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		create = BPF_SK_STORAGE_GET_F_CREATE;
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
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
	f = bpf_sk_storage_get(&sockets, ref, 0, create);
	if (!f) {
		if (create)
			__sync_fetch_and_add(&losses.storage_failed, 1);
		return 1;
	}
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		start_over(f);
		set_owner(&f->row, OWNER_SOCKET_CALL);
		return 1;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(f, bpf_get_socket_cookie(ctx));
		goto follow;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_accepted(f, bpf_get_socket_cookie(ctx));
	}
	tp = bpf_skc_to_tcp_sock(ref);
	if (!tp || !f->row.id)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_STATE_CB) {
		on_state(f, (struct sock *)tp, tp, ctx->args[0], ctx->args[1]);
		return 1;
	}
	on_established(f, (struct sock *)tp, tp);
	if (report_events)
		tell_established(f, tp);
follow:
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroyed, struct sock *sk)
{
	struct sock_flow *f = bpf_sk_storage_get(&sockets, sk, 0, 0);
	struct tcp_sock *tp;

	if (!f || !f->row.id) {
		if (report_events)
			tell_unreachable(f, sk);
		return 0;
	}
	if (!f->progress) { /* older than the probe: no state was ever announced */
		tp = bpf_skc_to_tcp_sock(sk);
		if (tp)
			on_close(f, sk, tp, TCP_CLOSE);
	}
	if (!take_final(f))
		return 0;
	if (report_events)
		tell_late_end(f, sk);
	refine_owner(f, sk);
	send_last_row(&f->row);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_reset_received, struct sock *sk)
{
	struct sock_flow *f = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (f)
		f->row.rx_flags |= FLAG_RST;
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reset_sent, struct sock *sk)
{
	struct sock_flow *f;

	if (!sk || sk->__sk_common.skc_state == TCP_TIME_WAIT ||
	    sk->__sk_common.skc_state == TCP_NEW_SYN_RECV)
		return 0;
	f = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!f)
		return 0;
	f->row.tx_flags |= FLAG_RST;
	if (f->progress == (CLOSING | FINAL)) { /* close() resets after the state has changed */
		struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

		if (!tp)
			return 0;
		f->row.tx_packets++;
		f->row.tx_octets += (f->row.ip_version == 6 ? 40 : 20) + tp->tcp_header_len;
	}
	return 0;
}

#endif
