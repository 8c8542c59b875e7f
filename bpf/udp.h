/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* UDP: the only packets that are looked at. Octets and packets of the IP layer; a GSO or GRO packet
 * counts its segments, each with its header. */
#ifndef SOCKFLOW_UDP_H
#define SOCKFLOW_UDP_H

struct datagram {
	u32 source[4];
	u32 destination[4];
	u16 source_port; /* network order */
	u16 destination_port;
	u8 ip_version;
	u8 dscp;
	u8 is_copy; /* it came as multicast or broadcast: others may get it, too */
	u32 octets;
	u32 packets;
	u32 ifindex;
};

/* Keys next to each other that peers with the same key are looked for at. The keys depend on a secret, so
 * more than two peers with one key are next to impossible; those would count in losses.udp_peers_full. */
#define PEER_ATTEMPTS 4

/* include/uapi/linux/if_packet.h; the last one is the copy that a sender's own host gets */
#define PACKET_BROADCAST 1
#define PACKET_MULTICAST 2
#define PACKET_LOOPBACK 5

#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_DESTINATION 60

/* Reads an IPv6 header chain up to UDP; false when the packet is no UDP datagram. */
static __noinline int udp6_offset(struct __sk_buff *skb)
{
	u32 offset = 40;
	u8 next;

	if (bpf_skb_load_bytes(skb, 6, &next, 1))
		return -1;
	for (int i = 0; i < 4; i++) {
		u8 header[2];

		if (next == IPPROTO_UDP)
			return offset;
		if (next != NEXT_HOP_BY_HOP && next != NEXT_ROUTING && next != NEXT_DESTINATION &&
		    next != NEXT_FRAGMENT)
			return -1;
		if (bpf_skb_load_bytes(skb, offset, header, 2))
			return -1;
		offset += next == NEXT_FRAGMENT ? 8 : 8 + header[1] * 8;
		next = header[0];
	}
	return -1;
}

static __always_inline bool is_on_link(u32 *address, u8 ip_version)
{
	u8 *a = (u8 *)address;

	if (ip_version == 4)
		return (a[0] == 169 && a[1] == 254) || a[0] == 255;
	return (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) || (a[0] == 0xff && (a[1] & 15) <= 2);
}

/* The whole key of a flow end of one socket. An address that may be on every link is another one on each. */
static __always_inline bool same_peer(struct flow_row *r, struct datagram *d, bool egress)
{
	u32 *here = egress ? d->source : d->destination;
	u32 *there = egress ? d->destination : d->source;
	u16 local = bpf_ntohs(egress ? d->source_port : d->destination_port);
	u16 remote = bpf_ntohs(egress ? d->destination_port : d->source_port);

	if (r->remote_port != remote || r->local_port != local || r->ip_version != d->ip_version)
		return false;
	if (words(r->remote_address)[0] != there[0] || words(r->local_address)[0] != here[0])
		return false;
	if (d->ip_version == 6)
		for (int i = 1; i < 4; i++)
			if (words(r->remote_address)[i] != there[i] ||
			    words(r->local_address)[i] != here[i])
				return false;
	return r->ifindex == d->ifindex ||
	       !(is_on_link(here, d->ip_version) || is_on_link(there, d->ip_version));
}

/* include/net/sock.h: what bind() has chosen */
#define SOCK_BINDADDR_LOCK 4
#define SOCK_BINDPORT_LOCK 8
#define WELL_KNOWN 1024

static __always_inline struct sock *socket_of(struct __sk_buff *skb)
{
	struct sk_buff *packet = (void *)skb; /* in the kernel they are the same */
	struct sock *sk = 0;

	bpf_probe_read_kernel(&sk, sizeof(sk), (void *)packet + bpf_core_field_offset(packet->sk));
	return sk;
}

/* Who sent first is the client, unless an earlier part of the conversation may be forgotten: that of a
 * socket older than the probe, or before a silence. Then a server is who has the well-known port; else who
 * called bind(), or is spoken to by several, without being connected. */
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
	local = bpf_ntohs(egress ? d->source_port : d->destination_port) < WELL_KNOWN;
	remote = bpf_ntohs(egress ? d->destination_port : d->source_port) < WELL_KNOWN;
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

static __always_inline void set_peer(struct flow_row *r, struct datagram *d, bool egress, u8 role)
{
	for (int i = 0; i < 4; i++) {
		words(r->local_address)[i] = egress ? d->source[i] : d->destination[i];
		words(r->remote_address)[i] = egress ? d->destination[i] : d->source[i];
	}
	r->local_port = bpf_ntohs(egress ? d->source_port : d->destination_port);
	r->remote_port = bpf_ntohs(egress ? d->destination_port : d->source_port);
	r->ip_version = d->ip_version;
	r->protocol = IPPROTO_UDP;
	r->ifindex = d->ifindex;
	r->dscp = egress ? d->dscp : 0;
	if (d->is_copy)
		r->mark |= MARK_GROUP;
	r->role = role;
}

/* In the kernel last_ns counts jiffies, if we know how long one is: they have the resolution of the
 * coarse clock, but take a load where the clock takes longer than all the counting. */
static __always_inline u64 coarse_stamp(void)
{
	return jiffy_ns ? bpf_jiffies64() : bpf_ktime_get_coarse_ns();
}

static __always_inline u64 stamp_ns(u64 stamp)
{
	return jiffy_ns ? bpf_ktime_get_ns() - (bpf_jiffies64() - stamp) * jiffy_ns : stamp;
}

static __always_inline void count(struct flow_row *r, struct datagram *d, bool egress)
{
	__sync_fetch_and_add(egress ? &r->tx_octets : &r->rx_octets, d->octets);
	__sync_fetch_and_add(egress ? &r->tx_packets : &r->rx_packets, d->packets);
	r->last_ns = coarse_stamp();
	if (report_events)
		emit_datagram_event(r, d, egress);
}

static __always_inline void set_identity(struct flow_row *to, struct flow_row *from)
{
	to->owner = from->owner;
	to->owner_source = from->owner_source;
	to->netns = from->netns;
	to->netns_inode = from->netns_inode;
}

static __always_inline u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

/* Tells nearly all peers of all sockets apart, at a fraction of what hashing the whole 5-tuple and
 * comparing it costs; same_peer() decides. */
static __always_inline u64 peer_key(struct sock_flow *f, struct datagram *d, bool egress)
{
	u32 *here = egress ? d->source : d->destination;
	u32 *there = egress ? d->destination : d->source;
	u16 local = egress ? d->source_port : d->destination_port;
	u16 remote = egress ? d->destination_port : d->source_port;
	u64 key = mix(hash_secret, (u64)here[0] << 32 | there[0]);

	if (d->ip_version == 6)
		for (int i = 1; i < 4; i++)
			key = mix(key, (u64)here[i] << 32 | there[i]);
	return mix(key, (f->row.cookie ^ hash_secret) << 32 | (u32)local << 16 | remote);
}

static __noinline void add_peer(struct sock_flow *f, struct datagram *d, int egress, u64 *key, int role)
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

/* A datagram of any but the socket's first peer: counted in the table of peers. */
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
		if (r->owner != f->row.owner || !r->netns) { /* new, or the socket's user changed */
			flush_before_owner_change(r, f->row.owner, f->row.owner_source);
			set_identity(r, &f->row);
		}
		count(r, d, egress);
		return;
	}
	__sync_fetch_and_add(&losses.udp_peers_full, d->packets);
}

/* The socket's first peer gets the slot in its storage; true when it is this datagram's. */
static __always_inline bool claim_first_peer(struct sock_flow *f, struct datagram *d, bool egress,
				       struct __sk_buff *skb)
{
	if (f->first_peer == PEER_READY)
		return same_peer(&f->row, d, egress);
	if (__sync_val_compare_and_swap(&f->first_peer, PEER_NONE, PEER_CLAIMED) != PEER_NONE)
		return false;
	/* the fine clock: both ends of a conversation begin within microseconds, which tells it apart */
	f->row.start_ns = bpf_ktime_get_ns();
	f->row.id = new_id(f->row.start_ns);
	set_peer(&f->row, d, egress, find_role(f, d, egress, skb));
	__sync_val_compare_and_swap(&f->first_peer, PEER_CLAIMED, PEER_READY);
	return true;
}

/* Nobody has used the socket yet: who waits for what comes? Whether anything came is also for the next
 * snapshot to know, which asks the same. */
static __always_inline void note_arrival(struct sock_flow *f, struct __sk_buff *skb)
{
	if (!(f->row.udp_flags & UDP_RECEIVED || set_udp_flag(&f->row, UDP_RECEIVED) || f->user))
		find_receiver(f, socket_of(skb));
}

static __always_inline int meter(struct __sk_buff *skb, bool egress)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct datagram d = {};
	struct bpf_sock *sk;
	struct sock_flow *f;
	u8 *h = data;
	int offset;

	if (data + 28 > end)
		return 1;
	if (h[0] >> 4 == 4) {
		if (h[9] != IPPROTO_UDP)
			return 1;
		d.ip_version = 4;
		d.source[0] = *(u32 *)(h + 12);
		d.destination[0] = *(u32 *)(h + 16);
		d.dscp = h[1] >> 2;
		offset = (h[0] & 15) * 4;
	} else {
		if (h[6] == IPPROTO_TCP || data + 40 > end)
			return 1;
		d.ip_version = 6;
		__builtin_memcpy(d.source, h + 8, 16);
		__builtin_memcpy(d.destination, h + 24, 16);
		d.dscp = (bpf_ntohs(*(u16 *)h) >> 6) & 63;
		offset = h[6] == IPPROTO_UDP ? 40 : udp6_offset(skb);
		if (offset < 0)
			return 1;
	}
	if (offset == 20) {
		__builtin_memcpy(&d.source_port, h + 20, 4);
	} else if (bpf_skb_load_bytes(skb, offset, &d.source_port, 4)) {
		return 1;
	}
	sk = skb->sk;
	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return 1;
	f = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!f) {
		f = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!f) { /* the socket was counted when it was made */
			__sync_fetch_and_add(&losses.unstored_datagrams,
					     skb->gso_segs > 1 ? skb->gso_segs : 1);
			return 1;
		}
		f->row.cookie = bpf_get_socket_cookie(skb);
		f->row.mark = MARK_PREEXISTING; /* its creation was not seen */
	}
	d.packets = skb->gso_segs > 1 ? skb->gso_segs : 1;
	d.ifindex = skb->ifindex;
	d.is_copy = !egress && (skb->pkt_type == PACKET_MULTICAST || skb->pkt_type == PACKET_BROADCAST ||
				skb->pkt_type == PACKET_LOOPBACK);
	d.octets = skb->len + (d.packets - 1) * (offset + 8);
	if (egress)
		note_sender(f);
	else
		note_arrival(f, skb);
	/* What comes while the socket is released, or after, is in no row of the socket's any more. Asked
	 * after the claim: either udp_released() sees the slot that was claimed, or this sees ENDED. */
	if (claim_first_peer(f, &d, egress, skb) && !(*(volatile u32 *)&f->progress & ENDED))
		count(&f->row, &d, egress);
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

/* Moves the counters out: whatever a concurrent packet adds afterwards is in the next row. */
static __always_inline void drain_counters(struct flow_row *to, struct flow_row *from)
{
	to->tx_octets = __sync_lock_test_and_set(&from->tx_octets, 0);
	to->rx_octets = __sync_lock_test_and_set(&from->rx_octets, 0);
	to->tx_packets = __sync_lock_test_and_set(&from->tx_packets, 0);
	to->rx_packets = __sync_lock_test_and_set(&from->rx_packets, 0);
	to->last_ns = stamp_ns(from->last_ns);
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
		return 1; /* all that it carried is in the table of peers, what is coming too */
	if (!f->user) /* whoever closes it has the best claim */
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
