/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The records that the kernel half sends to Python: the only ABI between the two.
 * probe/kernel/btf.py reads these declarations from the object's BTF into numpy dtypes, so there is
 * no second copy. All types have a fixed width, padding is explicit, and there are no holes. */
#ifndef SOCKFLOW_FLOW_H
#define SOCKFLOW_FLOW_H

#include <linux/types.h>

#define NAME_LENGTH 16 /* TASK_COMM_LEN */
#define PATH_LENGTH 256 /* with its NUL */

enum flow_role { ROLE_UNKNOWN, ROLE_INITIATOR, ROLE_RESPONDER };

/* How the owner of a flow end was found. OwnerSource in probe/flow/codes.py has further values. */
enum owner_source {
	OWNER_UNKNOWN,
	OWNER_SOCKET_CALL, /* the task that called connect(), socket() or, at the end, close() */
	OWNER_LISTENER,    /* the owner of the listening socket */
	OWNER_DESCRIPTOR,  /* a task whose descriptor table holds the socket */
	OWNER_SHARED = 6,  /* one of several tasks that use the socket in turn */
};

enum path_source { PATH_NONE, PATH_WALKED, PATH_EXEC_ARGUMENT };

/* The cgroup hierarchy that containers are found in. User space chooses it before it loads. */
enum container_hierarchy { HIERARCHY_V2, HIERARCHY_MEMORY, HIERARCHY_PIDS, HIERARCHY_DEVICES };

enum flow_mark {
	MARK_CLOSED = 1,      /* this is the last row of the flow end */
	MARK_PREEXISTING = 2, /* older than the probe; counted since the probe's start */
	MARK_ESTIMATED = 4,   /* a part of the counters is an estimate */
	MARK_GROUP = 16,      /* UDP: gets copies of multicast or broadcast; Mark in Python has 8 */
};

/* One end of a flow: a TCP socket, or a UDP socket with one of its peers. Counters are deltas since
 * the previous row of the same id; the sums over all rows are the totals. */
struct flow_row {
	__u64 id;         /* this flow end, unique while the probe runs, never 0 */
	__u64 cookie;     /* socket cookie */
	__u64 owner;      /* struct owner_row.id, 0 when unknown */
	__u64 netns;      /* network namespace cookie */
	__u64 start_ns;   /* CLOCK_MONOTONIC */
	__u64 last_ns;    /* CLOCK_MONOTONIC, of the latest known packet */
	__u64 tx_octets;  /* IP layer: headers included */
	__u64 rx_octets;
	__u64 tx_packets;
	__u64 rx_packets;
	__u8 local_address[16];  /* IPv4 in the first four octets, the rest zero */
	__u8 remote_address[16];
	__u16 local_port;        /* host order */
	__u16 remote_port;
	__u32 netns_inode;
	__u32 ifindex;           /* in the namespace of the socket; 0 when unknown */
	__u32 isn_local;         /* initial sequence numbers + 1; both 0 when unknown */
	__u32 isn_remote;
	__u32 rtt_us;            /* smoothed round-trip time */
	__u32 rtt_var_us;        /* its mean deviation */
	__u32 retransmitted;     /* segments, delta */
	__u32 lost;              /* segments, delta */
	__u8 ip_version;         /* 4 or 6 */
	__u8 protocol;           /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 tcp_state;          /* TCP_* of protocols.h; 0 for UDP */
	__u8 role;               /* enum flow_role */
	__u8 tx_flags;           /* tcpControlBits that this end sent since the flow began */
	__u8 rx_flags;           /* tcpControlBits that it received */
	__u8 dscp;
	__u8 owner_source;       /* enum owner_source */
	__u8 mark;               /* enum flow_mark */
	__u8 user_changes;       /* UDP, in the kernel only: how often the socket's user changed */
	__u8 pad;
	__u8 udp_flags;          /* UDP, in the kernel only: UDP_* of udp_rows.h */
};
_Static_assert(sizeof(struct flow_row) == 160, "flow_row");

/* A row as it leaves: with gauges of TCP, which the socket has at that moment. 0 when unknown. */
struct sent_row {
	struct flow_row row;
	__u64 pacing_rate;       /* octets a second */
	__u64 delivery_rate;     /* octets a second, the latest that TCP measured */
	__u32 unacknowledged;    /* segments in flight */
	__u32 congestion_window; /* segments */
};
_Static_assert(sizeof(struct sent_row) == 184, "sent_row");

/* EventKind in probe/flow/codes.py has the same numbers for flows. What happens to cgroups has numbers of
 * its own: user space makes CONTAINER_START and CONTAINER_STOP of it, and never sees one for the other. */
enum event_kind {
	EVENT_CONNECT = 1,
	EVENT_CONNECT_FAILED,
	EVENT_ACCEPT,
	EVENT_CLOSE,
	EVENT_RETRANSMIT,
	EVENT_SEND,
	EVENT_RECV,
	EVENT_CGROUP_MADE = 64,
	EVENT_CGROUP_REMOVED,
	EVENT_CGROUP_ENTERED, /* the first program was executed in it */
};

/* What happened to a flow end, or to a cgroup that may be a container. EVENT_DTYPE in
 * EVENT_KINDS in probe/flow/columns.py has the same columns, in any order. */
struct event_row {
	__u64 time_ns;    /* CLOCK_MONOTONIC */
	__u64 flow_id;    /* struct flow_row.id */
	__u64 cookie;     /* of the socket; for a cgroup its id */
	__u64 owner;      /* struct owner_row.id, 0 when unknown */
	__u64 netns;
	__u64 tx_octets;  /* IP layer; TCP: since the flow began, UDP: of this datagram */
	__u64 rx_octets;
	__u64 tx_packets;
	__u64 rx_packets;
	__u8 local_address[16];
	__u8 remote_address[16];
	__u16 local_port;
	__u16 remote_port;
	__u32 netns_inode;
	__u32 ifindex;
	__u32 rtt_us;
	__u32 rtt_var_us;
	__u32 error;      /* errno of the socket, 0 when unknown */
	__u32 count;      /* RETRANSMIT: segments sent again since the last one; else 1 */
	__u8 kind;        /* enum event_kind */
	__u8 ip_version;  /* 0 for a cgroup */
	__u8 protocol;
	__u8 tcp_state;
	__u8 role;
	__u8 owner_source;
	__u8 pad[2];
	__u32 remote_owner; /* always 0; user space fills in the owner of the remote address */
};
_Static_assert(sizeof(struct event_row) == 144, "event_row");

/* An identity that owns flow ends. It is sent once, before any row that names it. An identity without a
 * pid is a cgroup as such. */
struct owner_row {
	__u64 id;
	__u64 start_ns;   /* start of the process, CLOCK_BOOTTIME */
	__u64 cgroup_id;
	__u32 pid;
	__u32 parent_pid;
	__u32 uid;
	__u32 gid;
	__u32 parent_uid;
	__u32 parent_gid;
	__u64 vm_size;    /* virtual memory in KiB; 0 when unknown */
	__u64 vm_peak;    /* the most that it has had, in KiB */
	__u64 parent_vm_size;
	__u64 parent_vm_peak;
	__u32 mount_ns;          /* inodes of namespaces; 0 when unknown */
	__u32 user_ns;
	__u32 parent_mount_ns;
	__u32 parent_user_ns;
	__u8 path_source;        /* enum path_source */
	__u8 parent_path_source;
	__u8 cgroup_v1;          /* 1: the cgroup is in a v1 hierarchy */
	__u8 cgroup_delegated;   /* components from the innermost to the outermost delegated one */
	__u8 pad[4];
	__u8 name[NAME_LENGTH];
	__u8 parent_name[NAME_LENGTH];
	__u8 path[PATH_LENGTH];  /* NUL-terminated, as every string here */
	__u8 parent_path[PATH_LENGTH];
	__u8 cgroup[PATH_LENGTH];
};
_Static_assert(sizeof(struct owner_row) == 904, "owner_row");

/* What the kernel half could not keep, one counter for each cause. */
struct losses {
	__u64 flow_ring_full;     /* flow ends whose last counters were lost */
	__u64 owner_ring_full;    /* identities not sent; the next socket tries again */
	__u64 storage_failed;     /* sockets that got no storage */
	__u64 udp_peers_full;     /* datagrams not counted: the table of UDP peers was full */
	__u64 snapshot_full;      /* rows that had to wait for the next snapshot pass */
	__u64 unstored_datagrams; /* datagrams not counted: their socket got no storage */
	__u64 event_ring_full;    /* events that were dropped; flows have lost nothing */
	__u64 ends_missed;        /* connections whose end no program saw; lost since their last row */
};

#endif
