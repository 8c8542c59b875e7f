/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is remembered of a socket's flow, and the word that says how far it is.
 *
 * The programs of the socket and the snapshot meet in `progress`. They never wait for each other.
 *
 *                  snapshot: LOCKED
 *               .------------------.
 *               v                  |
 *   begin --> 0 (alive) -----------'
 *               |
 *               | the socket reaches TCP_CLOSE, or is released
 *               v
 *             ENDED ----> ENDED|LAST_ROW_READY ----> ENDED|LAST_ROW_SENT
 *                         the row waits in .row      the row is in the ring or the snapshot
 *
 * If the socket ends while the snapshot has it LOCKED, ENDED is added to the word. The snapshot
 * finds it there when it unlocks, and then makes the last row itself. Whoever moves
 * LAST_ROW_READY to LAST_ROW_SENT by compare-and-exchange sends the row; all others leave it.
 *
 * LOCKED is for flows in a socket's storage. A connection slot has no lock: see slots.h. */
#ifndef SOCKFLOW_SOCKET_FLOW_H
#define SOCKFLOW_SOCKET_FLOW_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "flow.h"

/* Bits of sock_flow.progress; slots.h has more. */
#define LOCKED 1         /* the snapshot is reading the socket */
#define ENDED 2          /* the socket has reached TCP_CLOSE, or was released */
#define LAST_ROW_READY 4 /* the last row is complete and waits in sock_flow.row */
#define LAST_ROW_SENT 8  /* the last row has left */
#define PROGRESS_STATES (LOCKED | ENDED | LAST_ROW_READY | LAST_ROW_SENT)

/* The members that decide whether a snapshot has anything to report come first. Idle sockets are
 * many, and each line of the processor's cache costs. The kernel puts a header in front: 176 octets
 * are what still fits into its allocation of 256. */
struct sock_flow {
	u32 progress;
	union {
		u32 first_peer; /* UDP: PEER_* of udp_rows.h */
		u32 seen;       /* TCP: segments sent and received, at the last report */
	};
	union {
		struct { /* TCP */
			u32 opening_segments; /* SYNs, or SYN-ACKs, that this end sent */
			u8 accepted;
			u8 owner_is_guess; /* no task called for this connection */
			u8 closed_from;    /* the state before TCP_CLOSE */
			u8 deferred_acks;  /* 1: TCP_DEFER_ACCEPT dropped an ACK uncounted */
		};
		u64 user; /* UDP: the tag of the task that used it last; 0: none yet */
	};
	/* UDP: identity, and counters that are not reported yet. TCP: identity, and counters that
	 * have been reported. With LAST_ROW_READY or LAST_ROW_SENT it is the last row instead. */
	struct flow_row row;
};
_Static_assert(sizeof(struct sock_flow) == 176, "sock_flow");

/* Cloned for accepted connections, which so get the owner of their listener. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sock_flow);
} sockets SEC(".maps");

#endif
