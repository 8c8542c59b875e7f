/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where a TCP connection is remembered. Most are short, and storage of a socket costs more to make, to
 * clone and to free than all else that is done for one. So a connection takes a slot: the entry of a plain
 * array that its socket cookie names, modulo. Cookies count up, so slots are taken in turn, and one is
 * free unless a connection has lived for a whole round. Then, and for everything that is older than the
 * probe, there is the socket's storage as ever.
 *
 * A slot is taken by its cookie in `slot_cookies` (0: free) and left by the programs of its socket. The snapshot
 * has nothing but an address to read such a socket by, and neither may wait for the other: it prepares its
 * row from what it finds, and the row counts if then `progress` is still what it was. Each holder's
 * differs, as each begins a new generation. What has been reported is kept twice, so that the snapshot
 * writes where nobody reads until its row counts. */
#ifndef SOCKFLOW_SLOTS_H
#define SOCKFLOW_SLOTS_H

#define SLOTS 16384

/* In sock_flow.progress of a slot, beside those of all flows */
#define PUBLISHED 16       /* its connection is complete enough to be reported */
#define REPORTED 32   /* there is a report: */
#define SECOND_COPY 64     /* in the second of the two places */
#define GENERATION 256

/* Of a TCP connection. */
struct totals {
	u64 tx_octets;
	u64 rx_octets;
	u32 tx_packets;
	u32 rx_packets;
	u32 retransmitted;
	u32 lost;
};

struct slot {
	struct sock_flow flow;
	u64 sk; /* its address */
	u32 isn_local; /* as in flow_row; of the snapshot alone, once REPORTED */
	u32 isn_remote;
	struct totals reported[2];
};
_Static_assert(sizeof(struct slot) == 256, "slot");

/* A line of the processor's cache each, so that a pass over free slots costs next to nothing. */
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

/* Who listens, by the address of the port's bind bucket, which accepted sockets share. */
struct listener {
	u64 cookie;
	u64 sk;
	u64 owner;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct listener);
} listeners SEC(".maps");

/* A socket by its address: reading is safe, but it may be another one, or none any more. */
void *bpf_rdonly_cast(const void *address, u32 type) __ksym __weak;

static __always_inline struct tcp_sock *socket_at(u64 address)
{
	return bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct tcp_sock));
}

static __always_inline u64 cookie_of(struct tcp_sock *tp)
{
	return tp->inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter;
}

/* A socket that is freed keeps what was in it until it is used again. */
static __always_inline bool is_gone(struct tcp_sock *tp, u64 cookie)
{
	return cookie_of(tp) != cookie ||
	       !tp->inet_conn.icsk_inet.sk.__sk_common.skc_refcnt.refs.counter;
}

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

static __always_inline struct slot *slot_of(u64 cookie)
{
	u32 at = cookie % SLOTS;
	u64 *holder = slot_cookie(at);

	return holder && cookie && *holder == cookie ? slot_at(at) : 0;
}

/* A free slot is not PUBLISHED: what is said of it belongs to nobody. */
static __always_inline void release_slot(struct slot *slot, u64 cookie)
{
	u64 *holder = slot_cookie(cookie % SLOTS);

	slot->flow.progress &= ~PUBLISHED;
	if (holder)
		__sync_val_compare_and_swap(holder, cookie, 0);
}

/* What is known of a socket's connection, 0 when nothing. `slot`: where, 0 for its storage. */
static __always_inline struct sock_flow *find_flow(void *sk, u64 cookie, struct slot **slot)
{
	*slot = use_slots ? slot_of(cookie) : 0;
	return *slot ? &(*slot)->flow : bpf_sk_storage_get(&sockets, sk, 0, 0);
}

static __always_inline struct listener *listener_at(struct tcp_sock *tp)
{
	u64 port = (u64)tp->inet_conn.icsk_bind_hash;

	return bpf_map_lookup_elem(&listeners, &port);
}

/* Who accepts at this socket, for the connections to come; false when the socket's storage, of which each
 * of them gets a copy, is what tells: where several listen at one port. */
static __always_inline bool note_listener(struct tcp_sock *tp, u64 cookie, u64 owner)
{
	struct listener *known, now = {
		.cookie = cookie,
		.sk = (u64)tp,
		.owner = owner,
	};
	u64 port = (u64)tp->inet_conn.icsk_bind_hash;

	if (!port)
		return false;
	known = listener_at(tp);
	if (known && known->cookie != cookie) {
		struct tcp_sock *other = socket_at(known->sk);

		if (!is_gone(other, known->cookie) &&
		    other->inet_conn.icsk_inet.sk.__sk_common.skc_state == TCP_LISTEN)
			return false;
	}
	return !bpf_map_update_elem(&listeners, &port, &now, BPF_ANY);
}

#endif
