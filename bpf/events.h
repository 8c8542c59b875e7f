/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Lifecycle events: what happens, when it happens, through a ring of its own. When it is full the newest
 * are dropped and counted, and nothing waits for it. Without the knob report_events none of this is in
 * the loaded programs, and those at the end of this file are not loaded. */
#ifndef SOCKFLOW_EVENTS_H
#define SOCKFLOW_EVENTS_H

#define RETRANSMIT_NS 1000000000ULL /* at most one such event in this time per flow */
#define UDP_SEND_REPORTED 1
#define UDP_RECV_REPORTED 2

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_RING_OCTETS);
} event_ring SEC(".maps");

/* What the last RETRANSMIT of a socket told; only those that lose segments have it. */
struct retransmits {
	u64 event_ns;
	u32 total;
	u32 pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct retransmits);
} retransmits SEC(".maps");

/* Cgroups in which nothing was executed yet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u32);
} young_cgroups SEC(".maps");

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

static __always_inline void submit(struct event_row *e)
{
	bpf_ringbuf_submit(e, ring_flags(&event_ring, EVENTS_WAKEUP_OCTETS));
}

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

/* --- TCP --------------------------------------------------------------------------------------- */
static __always_inline struct event_row *new_tcp_event(struct sock_flow *f, struct tcp_sock *tp,
						       u8 kind, u64 now)
{
	struct event_row *e;
	struct totals t;

	if (!f->row.ip_version) /* a SYN that is sent again */
		set_key(&f->row, (struct sock *)tp, tp);
	read_totals(&t, f, &f->row, (struct sock *)tp, tp);
	e = new_event(kind, now);
	if (!e)
		return 0;
	set_end(e, &f->row);
	e->tx_octets = t.tx_octets;
	e->rx_octets = t.rx_octets;
	e->tx_packets = t.tx_packets;
	e->rx_packets = t.rx_packets;
	e->rtt_us = tp->srtt_us >> 3;
	e->rtt_var_us = tp->mdev_us >> 2;
	return e;
}

static __noinline void emit_established_event(struct sock_flow *f, struct tcp_sock *tp)
{
	u8 kind = f->accepted ? EVENT_ACCEPT : EVENT_CONNECT;
	struct event_row *e = new_tcp_event(f, tp, kind, bpf_ktime_get_ns());

	if (!e)
		return;
	e->tcp_state = TCP_ESTABLISHED; /* as it is about to be */
	submit(e);
}

/* Of a flow end whose last row is complete. */
static __noinline void emit_end_event(struct sock_flow *f, struct tcp_sock *tp)
{
	bool failed = f->row.role == ROLE_INITIATOR && !f->row.isn_remote; /* never established */
	u8 kind = failed ? EVENT_CONNECT_FAILED : EVENT_CLOSE;
	struct event_row *e = new_tcp_event(f, tp, kind, f->row.last_ns);

	if (!e)
		return;
	e->tcp_state = TCP_CLOSE;
	if (failed)
		e->error = ((struct sock *)tp)->sk_err;
	submit(e);
}

/* Of one that waited for the task that closes it, because only the listener was known. */
static __always_inline void emit_late_end_event(struct sock_flow *f, struct sock *sk)
{
	struct tcp_sock *tp;

	if (f->row.owner_source == OWNER_SOCKET_CALL)
		return;
	refine_owner(f, sk);
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		emit_end_event(f, tp);
}

/* A socket that goes without ever having sent a SYN: if connect() was called, as for a destination
 * without a route, IPv4's flow key in the socket still says where to. So no hook is needed that successful
 * connections would have to pass. IPv6 keeps the address only: its port is from connecting6. */
static __always_inline void emit_unreachable_event(struct sock_flow *f, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct sock_common *c = &sk->__sk_common;
	struct flow_row r;
	struct event_row *e;
	struct flowi4 *key;

	/* a connection that got further has a port in skc_dport */
	if (!tp || c->skc_dport || c->skc_state != TCP_CLOSE || !sk->sk_lock.owned)
		return;
	key = &tp->inet_conn.icsk_inet.cork.fl.u.ip4;
	__builtin_memset(&r, 0, sizeof(r));
	r.remote_port = bpf_ntohs(key->uli.ports.dport);
	if (c->skc_family == AF_INET6) {
		struct in6_addr *a = &c->skc_v6_daddr;

		if (!(a->in6_u.u6_addr32[0] | a->in6_u.u6_addr32[1] | a->in6_u.u6_addr32[2] |
		      a->in6_u.u6_addr32[3]))
			return;
		set_addresses(&r, sk);
		if (f)
			r.remote_port = f->row.remote_port;
	} else {
		if (!key->daddr)
			return;
		r.ip_version = 4;
		words(r.local_address)[0] = c->skc_rcv_saddr;
		words(r.remote_address)[0] = key->daddr;
	}
	r.id = new_id(bpf_ktime_get_ns());
	r.cookie = bpf_get_socket_cookie(sk);
	r.local_port = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	r.protocol = IPPROTO_TCP;
	r.role = ROLE_INITIATOR;
	set_namespace(&r, sk);
	set_owner(&r, OWNER_SOCKET_CALL);
	e = new_event(EVENT_CONNECT_FAILED, bpf_ktime_get_ns());
	if (!e)
		return;
	set_end(e, &r);
	e->tcp_state = TCP_CLOSE;
	submit(e);
}

/* Where to, in case that it fails before the socket knows; makes the storage a little earlier. */
SEC("cgroup/connect6")
int connecting6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock_flow *f;

	if (ctx->protocol != IPPROTO_TCP || !sk)
		return 1;
	f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (f && !f->row.id)
		f->row.remote_port = bpf_ntohs(ctx->user_port);
	return 1;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmitted, struct sock *sk)
{
	struct sock_flow *f = bpf_sk_storage_get(&sockets, sk, 0, 0);
	u64 now = bpf_ktime_get_ns();
	struct retransmits *seen;
	struct event_row *e;
	struct tcp_sock *tp;

	if (!f || !f->row.id || f->progress & ENDED)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	seen = bpf_sk_storage_get(&retransmits, sk, 0, 0);
	if (!seen) {
		seen = bpf_sk_storage_get(&retransmits, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!seen) {
			__sync_fetch_and_add(&losses.storage_failed, 1);
			return 0;
		}
		if (f->row.mark & MARK_PREEXISTING)
			seen->total = tp->total_retrans - 1;
	} else if (now - seen->event_ns < RETRANSMIT_NS) {
		return 0;
	}
	e = new_tcp_event(f, tp, EVENT_RETRANSMIT, now);
	if (!e)
		return 0;
	e->tcp_state = sk->__sk_common.skc_state;
	e->count = tp->total_retrans - seen->total;
	seen->event_ns = now;
	seen->total = tp->total_retrans;
	submit(e);
	return 0;
}

/* --- UDP --------------------------------------------------------------------------------------- */
static __always_inline void emit_datagram_event(struct flow_row *r, struct datagram *d, bool egress)
{
	u32 mark = egress ? UDP_SEND_REPORTED : UDP_RECV_REPORTED;
	struct event_row *e;

	if (r->udp_flags & mark || set_udp_flag(r, mark))
		return;
	e = new_event(egress ? EVENT_SEND : EVENT_RECV, bpf_ktime_get_ns());
	if (!e)
		return;
	set_end(e, r);
	if (egress) {
		e->tx_octets = d->octets;
		e->tx_packets = d->packets;
	} else {
		e->rx_octets = d->octets;
		e->rx_packets = d->packets;
	}
	submit(e);
}

/* --- containers -------------------------------------------------------------------------------- */
static __always_inline void emit_cgroup_event(struct cgroup *cgroup, u8 kind)
{
	struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);
	u64 id = BPF_CORE_READ(node, id);
	struct event_row *e;
	u32 one = 1;

	if (BPF_CORE_READ(cgroup, root, hierarchy_id) != container_hierarchy_id)
		return;
	if (kind == EVENT_CGROUP_MADE)
		bpf_map_update_elem(&young_cgroups, &id, &one, BPF_ANY);
	e = new_event(kind, bpf_ktime_get_ns());
	if (!e)
		return;
	e->cookie = id;
	e->owner = announce_cgroup(node, id);
	submit(e);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_made, struct cgroup *cgroup)
{
	emit_cgroup_event(cgroup, EVENT_CGROUP_MADE);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_removed, struct cgroup *cgroup)
{
	emit_cgroup_event(cgroup, EVENT_CGROUP_REMOVED);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(program_executed, struct task_struct *task)
{
	u64 id = BPF_CORE_READ(cgroup_node(task), id);
	struct event_row *e;

	if (bpf_map_delete_elem(&young_cgroups, &id))
		return 0;
	e = new_event(EVENT_CGROUP_ENTERED, bpf_ktime_get_ns());
	if (!e)
		return 0;
	e->cookie = id;
	e->owner = owner_of(task);
	e->owner_source = e->owner ? OWNER_SOCKET_CALL : OWNER_UNKNOWN;
	submit(e);
	return 0;
}

#endif
