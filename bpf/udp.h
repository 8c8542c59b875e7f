/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* UDP: the only packets that programs look at.
 *
 * A socket has a row for each of its peers:
 *
 *   socket storage: row of the first peer        (most sockets have no other)
 *   udp_peers:      rows of all further peers, by peer_key()
 *
 * Two processors may meet the first datagrams of a socket at once. One of them claims the row in
 * storage by PEER_NONE -> PEER_CLAIMED, writes the key, and sets PEER_READY. While the row is
 * claimed, the other processor counts in the table of peers.
 *
 *   meter()                                  udp_released()
 *   1 claim the first peer                   1 progress |= ENDED
 *   2 is progress ENDED?                     2 is the first peer READY? then send its row
 *       yes: count in udp_peers
 *
 * Each side writes before it reads, so at least one of them sees the other. Either
 * udp_released() sends the row that was claimed, or meter() counts in the table.
 *
 * If both ends of a conversation are on this host, user space needs their rows in one batch. It keeps the
 * rows of ended UDP sockets until the next snapshot, which has the other ends. When a socket changes
 * its user, the row leaves under the former owner first (users.h). */
#ifndef SOCKFLOW_UDP_H
#define SOCKFLOW_UDP_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "datagram.h"
#include "flow.h"
#include "knobs.h"
#include "output.h"
#include "owner.h"
#include "protocols.h"
#include "rows.h"
#include "socket_flow.h"
#include "udp_events.h"
#include "udp_rows.h"
#include "users.h"

/* Peers with the same key are kept at consecutive keys, so many at most. The keys depend on a secret:
 * more than two peers with one key are next to impossible. They would count in udp_peers_full. */
#define PEER_ATTEMPTS 4

/* Returns the packet's socket. */
static __always_inline struct sock *socket_of(struct __sk_buff *skb)
{
	struct sk_buff *packet = (void *)skb; /* the program's context is the kernel's sk_buff */
	struct sock *sk = 0;

	bpf_probe_read_kernel(&sk, sizeof(sk), (void *)packet + bpf_core_field_offset(packet->sk));
	return sk;
}

/* Returns the role of this end. Who sent first is the client, unless an earlier part of the
 * conversation may be forgotten: that of a socket older than the probe, or before a silence. Then a
 * server is who has the well-known port. Otherwise a server is who called bind(), or is spoken to by
 * several peers without being connected. */
static __noinline int find_role(struct sock_flow *f, struct datagram *d, int egress,
				struct __sk_buff *skb)
{
	int first = egress ? ROLE_INITIATOR : ROLE_RESPONDER;
	bool is_young, local, remote;
	struct sock *sk;
	u32 locks;

	if (!f || !d)
		return first;
	is_young = f->first_peer != PEER_READY || bpf_ktime_get_ns() - f->row.start_ns < udp_idle_ns;
	if (is_young && !(f->row.mark & MARK_PREEXISTING))
		return first;
	local = bpf_ntohs(egress ? d->source_port : d->destination_port) < PROT_SOCK;
	remote = bpf_ntohs(egress ? d->destination_port : d->source_port) < PROT_SOCK;
	if (local != remote)
		return local ? ROLE_RESPONDER : ROLE_INITIATOR;
	sk = socket_of(skb);
	locks = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks);
	if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_ESTABLISHED)
		return locks & SOCK_BINDPORT_LOCK ? first : ROLE_INITIATOR;
	if (locks & (SOCK_BINDADDR_LOCK | SOCK_BINDPORT_LOCK))
		return ROLE_RESPONDER;
	return f->first_peer == PEER_READY ? first : ROLE_INITIATOR;
}

static __always_inline void count_datagram(struct flow_row *r, struct datagram *d, bool egress)
{
	__sync_fetch_and_add(egress ? &r->tx_octets : &r->rx_octets, d->octets);
	__sync_fetch_and_add(egress ? &r->tx_packets : &r->rx_packets, d->packets);
	r->last_ns = coarse_stamp();
	if (report_events)
		emit_datagram_event(r, d, egress);
}

/* Copies the identity of the socket's row to another row of the same socket. */
static __always_inline void set_identity(struct flow_row *to, struct flow_row *from)
{
	to->owner = from->owner;
	to->owner_source = from->owner_source;
	to->netns = from->netns;
	to->netns_inode = from->netns_inode;
}

/* Adds a row to the table of peers. Changes nothing if another processor was first. */
static __noinline void add_peer(struct sock_flow *f, struct datagram *d, int egress, u64 *key,
				int role)
{
	struct flow_row fresh;

	if (!f || !d || !key)
		return;
	__builtin_memset(&fresh, 0, sizeof(fresh));
	fresh.start_ns = bpf_ktime_get_ns();
	fresh.last_ns = coarse_stamp();
	fresh.id = new_id(fresh.start_ns);
	fresh.cookie = f->row.cookie;
	set_peer(&fresh, d, egress, role);
	if (!bpf_map_update_elem(&udp_peers, key, &fresh, BPF_NOEXIST))
		__sync_fetch_and_add(&udp_peer_count, 1);
}

/* Counts a datagram of any but the socket's first peer. */
static __always_inline void count_other_peer(struct sock_flow *f, struct datagram *d, bool egress,
					     struct __sk_buff *skb)
{
	struct flow_row *r;
	u64 key = peer_key(f, d, egress);

	for (int i = 0; i < PEER_ATTEMPTS; i++, key++) {
		r = bpf_map_lookup_elem(&udp_peers, &key);
		if (!r) {
			add_peer(f, d, egress, &key, find_role(f, d, egress, skb));
			r = bpf_map_lookup_elem(&udp_peers, &key);
		}
		if (!r)
			break; /* full */
		if (r->cookie != f->row.cookie || !same_peer(r, d, egress))
			continue;
		if (r->owner != f->row.owner || !r->netns) { /* a new peer, or a new user */
			flush_before_owner_change(r, f->row.owner, f->row.owner_source);
			set_identity(r, &f->row);
		}
		count_datagram(r, d, egress);
		return;
	}
	__sync_fetch_and_add(&losses.udp_peers_full, d->packets);
}

/* Claims the row in storage for the socket's first peer. Returns whether it is this datagram's. */
static __always_inline bool claim_first_peer(struct sock_flow *f, struct datagram *d, bool egress,
					     struct __sk_buff *skb)
{
	if (f->first_peer == PEER_READY)
		return same_peer(&f->row, d, egress);
	if (__sync_val_compare_and_swap(&f->first_peer, PEER_NONE, PEER_CLAIMED) != PEER_NONE)
		return false;
	/* By the fine clock: user space pairs ends that began within microseconds of each other. */
	f->row.start_ns = bpf_ktime_get_ns();
	f->row.id = new_id(f->row.start_ns);
	set_peer(&f->row, d, egress, find_role(f, d, egress, skb));
	__sync_val_compare_and_swap(&f->first_peer, PEER_CLAIMED, PEER_READY);
	return true;
}

/* Looks for the receiver of a socket that nobody has used yet. Notes the arrival, so that the next
 * snapshot looks again. */
static __always_inline void note_arrival(struct sock_flow *f, struct __sk_buff *skb)
{
	if (!(f->row.udp_flags & UDP_RECEIVED || set_udp_flag(&f->row, UDP_RECEIVED) || f->user))
		find_receiver(f, socket_of(skb));
}

/* Returns what is remembered of the packet's socket. A socket without storage is older than the probe, or
 * its storage failed when it was made; that was counted then. */
static __always_inline struct sock_flow *udp_flow(struct bpf_sock *sk, struct __sk_buff *skb)
{
	struct sock_flow *f = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (f)
		return f;
	f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!f) {
		__sync_fetch_and_add(&losses.unstored_datagrams,
				     skb->gso_segs > 1 ? skb->gso_segs : 1);
		return 0;
	}
	f->row.cookie = bpf_get_socket_cookie(skb);
	f->row.mark = MARK_PREEXISTING; /* its creation was not seen */
	return f;
}

/* Counts a packet if it is a UDP datagram of a socket. Always lets it pass. */
static __always_inline int meter(struct __sk_buff *skb, bool egress)
{
	struct datagram d = {};
	struct bpf_sock *sk;
	struct sock_flow *f;
	int offset = read_headers(&d, skb);

	if (offset < 0)
		return 1;
	sk = skb->sk;
	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return 1;
	f = udp_flow(sk, skb);
	if (!f)
		return 1;
	read_size(&d, skb, offset, egress);
	if (egress)
		note_sender(f);
	else
		note_arrival(f, skb);
	/* ENDED is asked for after the claim; the drawing at the top says why. */
	if (claim_first_peer(f, &d, egress, skb) && !(*(volatile u32 *)&f->progress & ENDED))
		count_datagram(&f->row, &d, egress);
	else
		count_other_peer(f, &d, egress, skb);
	return 1;
}

SEC("cgroup_skb/ingress")
int udp_received(struct __sk_buff *skb)
{
	return meter(skb, false);
}

SEC("cgroup_skb/egress")
int udp_sent(struct __sk_buff *skb)
{
	return meter(skb, true);
}

SEC("cgroup/sock_create")
int udp_created(struct bpf_sock *ctx)
{
	struct task_struct *task;
	struct sock_flow *f;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	f = bpf_sk_storage_get(&sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!f) {
		__sync_fetch_and_add(&losses.storage_failed, 1);
		return 1;
	}
	task = (void *)bpf_get_current_task();
	f->row.cookie = bpf_get_socket_cookie(ctx);
	f->row.netns = bpf_get_netns_cookie(ctx);
	f->row.netns_inode = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	f->row.owner = current_owner();
	f->row.owner_source = f->row.owner ? OWNER_SOCKET_CALL : OWNER_UNKNOWN;
	return 1;
}

SEC("cgroup/sock_release")
int udp_released(struct bpf_sock *ctx)
{
	struct sock_flow *f;
	struct sent_row *r;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	f = bpf_sk_storage_get(&sockets, ctx, 0, 0);
	if (!f || __sync_fetch_and_or(&f->progress, ENDED) & ENDED)
		return 1;
	if (*(volatile u32 *)&f->first_peer != PEER_READY)
		return 1; /* everything is counted in the table of peers, and will be */
	if (!f->user) /* no user is known: the task that closes it is the best guess */
		set_user(f, current_tag(), current_owner());
	r = bpf_ringbuf_reserve(&flow_ring, sizeof(*r), 0);
	if (!r) {
		__sync_fetch_and_add(&losses.flow_ring_full, 1);
		return 1;
	}
	set_sent(r, &f->row, 0);
	drain_counters(&r->row, &f->row);
	r->row.mark |= MARK_CLOSED;
	bpf_ringbuf_submit(r, ring_flags(&flow_ring, FLOWS_WAKEUP_OCTETS));
	return 1;
}

#endif
