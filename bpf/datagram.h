/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One UDP datagram: read from a packet, compared with a flow end, written into a row. */
#ifndef SOCKFLOW_DATAGRAM_H
#define SOCKFLOW_DATAGRAM_H

#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "protocols.h"
#include "rows.h"
#include "socket_flow.h"

#define IPV6_EXTENSIONS 4 /* headers before UDP that are read */

struct datagram {
	u32 source[4];
	u32 destination[4];
	u16 source_port; /* network order */
	u16 destination_port;
	u8 ip_version;
	u8 dscp;
	u8 is_copy; /* came by multicast or broadcast: others may get it, too */
	u32 octets; /* of the IP layer; each segment of a GSO or GRO packet with its header */
	u32 packets;
	u32 ifindex;
};

/* Returns the offset of the UDP header behind IPv6 extension headers, -1 if there is none. */
static __noinline int udp6_offset(struct __sk_buff *skb)
{
	u32 offset = IPV6_HEADER;
	u8 next;

	if (bpf_skb_load_bytes(skb, 6, &next, 1))
		return -1;
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		u8 header[2];

		if (next == IPPROTO_UDP)
			return offset;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			return -1;
		if (bpf_skb_load_bytes(skb, offset, header, 2))
			return -1;
		offset += next == IPPROTO_FRAGMENT ? 8 : 8 + header[1] * 8;
		next = header[0];
	}
	return -1;
}

/* Reads addresses and ports. Returns the offset of the UDP header, -1 for any other packet. */
static __always_inline int read_headers(struct datagram *d, struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u8 *h = data;
	int offset;

	if (data + IPV4_HEADER + UDP_HEADER > end)
		return -1;
	if (h[0] >> 4 == 4) {
		if (h[9] != IPPROTO_UDP)
			return -1;
		d->ip_version = 4;
		d->source[0] = *(u32 *)(h + 12);
		d->destination[0] = *(u32 *)(h + 16);
		d->dscp = h[1] >> 2;
		offset = (h[0] & 15) * 4;
	} else {
		if (h[6] == IPPROTO_TCP || data + IPV6_HEADER > end)
			return -1;
		d->ip_version = 6;
		__builtin_memcpy(d->source, h + 8, 16);
		__builtin_memcpy(d->destination, h + 24, 16);
		d->dscp = (bpf_ntohs(*(u16 *)h) >> 6) & 63;
		offset = h[6] == IPPROTO_UDP ? IPV6_HEADER : udp6_offset(skb);
		if (offset < 0)
			return -1;
	}
	if (offset == IPV4_HEADER)
		__builtin_memcpy(&d->source_port, h + IPV4_HEADER, 4);
	else if (bpf_skb_load_bytes(skb, offset, &d->source_port, 4))
		return -1;
	return offset;
}

/* Reads how much the packet carries. `offset`: of the UDP header. */
static __always_inline void read_size(struct datagram *d, struct __sk_buff *skb, int offset,
				      bool egress)
{
	d->packets = skb->gso_segs > 1 ? skb->gso_segs : 1;
	d->ifindex = skb->ifindex;
	d->is_copy = !egress && (skb->pkt_type == PACKET_MULTICAST || skb->pkt_type == PACKET_BROADCAST ||
				 skb->pkt_type == PACKET_LOOPBACK);
	d->octets = skb->len + (d->packets - 1) * (offset + UDP_HEADER);
}

/* Returns whether the same address may be on every link: link-local, limited broadcast, or multicast
 * with at most the scope of a link. */
static __always_inline bool is_on_link(u32 *address, u8 ip_version)
{
	u8 *a = (u8 *)address;

	if (ip_version == 4)
		return (a[0] == 169 && a[1] == 254) || a[0] == 255;
	return (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) || (a[0] == 0xff && (a[1] & 15) <= 2);
}

/* Compares the whole key of a flow end. An address that may be on every link is another one on each. */
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

static __always_inline u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

/* Returns a key that tells nearly all peers of all sockets apart; same_peer() decides. Hashing the
 * whole tuple and comparing it would cost several times as much. */
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

#endif
