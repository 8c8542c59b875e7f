// SPDX-License-Identifier: GPL-2.0
/* Sockflow's kernel half: flows metered where they begin and end, in the sockets.
 *
 *   TCP: a socket's storage is made at connect() or when a connection is accepted; its counters are
 *        those of tcp_sock, read in snapshots and at the end. No program runs for a TCP packet
 *        but the two for UDP, which return at once.
 *   UDP: cgroup_skb counts datagrams, the first peer of a socket in the socket's own storage, all
 *        others in a table of peers.
 *
 * Rows leave as deltas through two roads: the snapshot array (one pass over all sockets of all
 * network namespaces) and, when a flow ends, the flow ring. */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "flow.h"

char LICENSE[] SEC("license") = "GPL";

/* --- knobs, set before loading ---------------------------------------------------------------- */
const volatile u32 cgroup_v1_controller = 0; /* enum container_hierarchy */
const volatile u32 snapshot_capacity = 131072;
const volatile u32 jiffy_ns = 0; /* 0: unknown */
const volatile u32 page_kib = 4;
const volatile u64 udp_idle_ns = 60000000000ULL;
const volatile u64 hash_secret = 0; /* of this start: nobody can foresee which keys collide */
const volatile bool typed_task = false; /* cgroup programs may call bpf_get_current_task_btf */
const volatile bool use_slots = false; /* the kernel lets sockets be read by their address */
const volatile bool report_events = false; /* false: the verifier removes all that is for events */
const volatile int container_hierarchy_id = 0; /* of cgroup_v1_controller's; 0 is cgroup v2 */

#define OWNER_RING_OCTETS (1 << 19)
#define FLOW_RING_OCTETS (1 << 22)
#define EVENT_RING_OCTETS (1 << 23)

/* What the reader is woken up for: as many rows as are worth it, still in the processor's cache when it
 * reads them, and no core held up for long; of the others half a ring. */
#define OWNERS_WAKEUP_OCTETS (OWNER_RING_OCTETS / 2)
#define FLOWS_WAKEUP_OCTETS (FLOW_RING_OCTETS / 8)
#define EVENTS_WAKEUP_OCTETS (EVENT_RING_OCTETS / 2)

/* --- maps ------------------------------------------------------------------------------------- */
struct losses losses;     /* read by user space through .bss */
u32 snapshot_rows;        /* rows written in this pass */
u32 was_attributed;       /* the sockets that are older than the probe are known */
u32 is_last_pass;         /* nothing waits for later any more */
u32 reader_woken;          /* that a ring has enough; the reader clears it when it has read them */
u32 udp_peer_count;       /* entries of udp_peers: a pass over an empty table is not free */

/* Types of the ABI that no map names: kept in the object's BTF by being mentioned. */
const struct sent_row *btf_sent_row __attribute__((unused));
const struct owner_row *btf_owner_row __attribute__((unused));
const struct event_row *btf_event_row __attribute__((unused));
const enum event_kind *btf_event_kind __attribute__((unused));
const enum flow_mark *btf_flow_mark __attribute__((unused));
const enum flow_role *btf_flow_role __attribute__((unused));
const enum owner_source *btf_owner_source __attribute__((unused));
const enum path_source *btf_path_source __attribute__((unused));
const enum container_hierarchy *btf_container_hierarchy __attribute__((unused));

static __always_inline u64 ring_flags(void *ring, u32 enough)
{
	/* Wake the reader when the ring has so many octets; otherwise it comes by itself at every tick.
	 * Once: an interrupt for every row would not make it faster. */
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) < enough || reader_woken)
		return BPF_RB_NO_WAKEUP;
	reader_woken = 1;
	return BPF_RB_FORCE_WAKEUP;
}

#include "owner.h"

/* progress of a socket's end, in sock_flow.progress; slots.h has more */
#define LOCKED 1  /* the snapshot is reading the socket */
#define ENDED 2 /* it has reached TCP_CLOSE, or was released */
#define LAST_ROW_READY 4   /* its last row is complete and waits in sock_flow.row */
#define LAST_ROW_SENT 8    /* the last row has left */
#define PROGRESS_STATES (LOCKED | ENDED | LAST_ROW_READY | LAST_ROW_SENT)

/* A UDP socket's own slot */
#define PEER_NONE 0
#define PEER_CLAIMED 1
#define PEER_READY 2

/* What decides whether a snapshot has anything to report comes first: idle sockets are many, and
 * each line of the processor's cache costs. With what the kernel puts in front, 176 octets are what
 * fits into 256. */
struct sock_flow {
	u32 progress;
	union {
		u32 first_peer; /* UDP */
		u32 seen; /* TCP: segments sent and received, when they were last reported */
	};
	union {
		struct { /* TCP */
			u32 opening_segments; /* SYNs, or SYN-ACKs, that we sent */
			u8 accepted;
			u8 owner_is_guess;    /* the owner is not that of a task that called for it */
			u8 closed_from; /* the state before TCP_CLOSE */
			u8 deferred_acks;    /* ACKs that no socket has counted: 1, of TCP_DEFER_ACCEPT */
		};
		u64 user; /* UDP: the tag of who used it last; 0: nobody yet */
	};
	/* Identity, and counters. UDP: what is to be reported. TCP: what has been reported, until the
	 * last row is complete (LAST_ROW_READY, or LAST_ROW_SENT): then it is that row. */
	struct flow_row row;
};
_Static_assert(sizeof(struct sock_flow) == 176, "sock_flow");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sock_flow);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u64); /* peer_key() */
	__type(value, struct flow_row);
} udp_peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, FLOW_RING_OCTETS);
} flow_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, u32);
	__type(value, struct sent_row);
} snapshot SEC(".maps");

/* --- rows ------------------------------------------------------------------------------------- */
static __always_inline u64 new_id(u64 now)
{
	/* Unique: one CPU starts at most one flow in a nanosecond. */
	return (now << 8) | (bpf_get_smp_processor_id() & 0xff) | 1ULL << 63;
}

static __always_inline u32 *words(u8 *address)
{
	return (u32 *)address;
}

static __always_inline bool is_mapped(const struct in6_addr *a)
{
	return a->in6_u.u6_addr32[0] == 0 && a->in6_u.u6_addr32[1] == 0 &&
	       a->in6_u.u6_addr32[2] == bpf_htonl(0xffff);
}

static __always_inline void set_addresses(struct flow_row *r, struct sock *sk)
{
	struct sock_common *c = &sk->__sk_common;

	if (c->skc_family == AF_INET6 && !is_mapped(&c->skc_v6_daddr)) {
		r->ip_version = 6;
		for (int i = 0; i < 4; i++) {
			words(r->local_address)[i] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			words(r->remote_address)[i] = c->skc_v6_daddr.in6_u.u6_addr32[i];
		}
		return;
	}
	r->ip_version = 4;
	for (int i = 1; i < 4; i++)
		words(r->local_address)[i] = words(r->remote_address)[i] = 0;
	if (c->skc_family == AF_INET6) {
		words(r->local_address)[0] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
		words(r->remote_address)[0] = c->skc_v6_daddr.in6_u.u6_addr32[3];
	} else {
		words(r->local_address)[0] = c->skc_rcv_saddr;
		words(r->remote_address)[0] = c->skc_daddr;
	}
}

static __always_inline void set_namespace(struct flow_row *r, struct sock *sk)
{
	struct net *net = sk->__sk_common.skc_net.net;

	r->netns = net->net_cookie;
	r->netns_inode = net->ns.inum;
}

static __always_inline void set_key(struct flow_row *r, struct sock *sk, struct tcp_sock *tp)
{
	set_addresses(r, sk);
	/* skc_num is 0 once the port was given back; inet_sport keeps it */
	r->local_port = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	r->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	r->protocol = IPPROTO_TCP;
	set_namespace(r, sk);
}

static __always_inline void set_gauges(struct flow_row *r, struct sock *sk, struct tcp_sock *tp)
{
	struct ipv6_pinfo *six = tp->inet_conn.icsk_inet.pinet6;

	r->tcp_state = sk->__sk_common.skc_state;
	r->rtt_us = tp->srtt_us >> 3;
	r->rtt_var_us = tp->mdev_us >> 2;
	r->dscp = (r->ip_version == 6 && six ? six->tclass : tp->inet_conn.icsk_inet.tos) >> 2;
	if (bpf_core_field_exists(sk->sk_rx_dst_ifindex))
		r->ifindex = sk->sk_rx_dst_ifindex;
}

/* What only a row that leaves has. */
static __always_inline void set_sent(struct sent_row *to, struct flow_row *row,
				     struct tcp_sock *tp)
{
	u64 pace = tp ? ((struct sock *)tp)->sk_pacing_rate : 0;

	to->row = *row;
	to->pacing_rate = pace == ~0UL ? 0 : pace; /* no limit */
	to->delivery_rate = 0;
	to->unacknowledged = tp ? tp->packets_out : 0;
	to->congestion_window = tp ? tp->snd_cwnd : 0;
	if (tp && tp->rate_interval_us)
		to->delivery_rate = (u64)tp->rate_delivered * tp->mss_cache * 1000000 /
				    tp->rate_interval_us;
}

/* What these have to tell of, in events.h; to be called where report_events holds. */
struct datagram;
static __noinline void emit_established_event(struct sock_flow *f, struct tcp_sock *tp);
static __noinline void emit_end_event(struct sock_flow *f, struct tcp_sock *tp);
static __always_inline void emit_late_end_event(struct sock_flow *f, struct sock *sk);
static __always_inline void emit_unreachable_event(struct sock_flow *f, struct sock *sk);
static __always_inline void emit_datagram_event(struct flow_row *r, struct datagram *d, bool egress);

#include "slots.h"
#include "tcp.h"
#include "users.h"
#include "udp.h"
#include "events.h"
#include "snapshot.h"
#include "sweep.h"
