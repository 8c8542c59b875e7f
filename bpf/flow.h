/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The records that travel from the kernel half to Python: the only ABI between the two.
 * probe/kernel/btf.py reads these declarations back from the object's BTF into numpy dtypes, so
 * there is no second copy to keep in step. Fixed-width types, explicit padding, no holes. */
#ifndef SOCKFLOW_FLOW_H
#define SOCKFLOW_FLOW_H

#include <linux/types.h>

#define NAME_LENGTH 16   /* TASK_COMM_LEN */
#define PATH_LENGTH 256

enum flow_role { ROLE_UNKNOWN, ROLE_INITIATOR, ROLE_RESPONDER };

/* How the owner of a flow end was found. */
enum owner_source { /* OwnerSource in probe/flow/batch.py has some more */
	OWNER_UNKNOWN,
	OWNER_SOCKET_CALL, /* the task that called connect(), socket() or, at the end, close() */
	OWNER_LISTENER,    /* inherited from the listening socket */
	OWNER_DESCRIPTOR,  /* a task whose descriptor table holds the socket */
	OWNER_SHARED = 6,  /* one of several that take turns at using the socket */
};

enum path_source { PATH_NONE, PATH_WALKED, PATH_EXEC_ARGUMENT };

/* The cgroup hierarchy that containers are found in; chosen before loading. */
enum container_hierarchy { HIERARCHY_V2, HIERARCHY_MEMORY, HIERARCHY_PIDS, HIERARCHY_DEVICES };

enum flow_mark {
	MARK_CLOSED = 1,      /* the last row of this flow end */
	MARK_PREEXISTING = 2, /* older than the probe: counts from the probe's start */
	MARK_ESTIMATED = 4,   /* a part of the counters was added by estimate */
	MARK_GROUP = 16,      /* UDP: received copies of what was sent to many. 8 is in batch.py */
};

/* One end of a flow: a TCP socket, or a UDP socket with one of its peers. Counters are deltas
 * since the previous row of the same id; sums over all rows are the totals. */
struct flow_row {
	__u64 id;         /* this flow end, unique while the probe runs, never 0 */
	__u64 cookie;     /* socket cookie */
	__u64 owner;      /* struct owner_row.id, 0 when unknown */
	__u64 netns;      /* network namespace cookie */
	__u64 start_ns;   /* CLOCK_MONOTONIC */
	__u64 last_ns;    /* CLOCK_MONOTONIC, latest packet known */
	__u64 tx_octets;  /* IP layer: headers included */
	__u64 rx_octets;
	__u64 tx_packets;
	__u64 rx_packets;
	__u8 local_address[16];  /* IPv4 in the first four octets, the rest zero */
	__u8 remote_address[16];
	__u16 local_port;        /* host order */
	__u16 remote_port;
	__u32 netns_inode;
	__u32 ifindex;           /* the socket's own, in its namespace; 0 when unknown */
	__u32 isn_local;         /* initial sequence numbers + 1; both 0 when unknown */
	__u32 isn_remote;
	__u32 rtt_us;            /* smoothed round-trip time */
	__u32 rtt_var_us;        /* its mean deviation */
	__u32 retransmitted;     /* segments, delta */
	__u32 lost;              /* segments, delta */
	__u8 ip_version;         /* 4 or 6 */
	__u8 protocol;           /* 6 or 17 */
	__u8 tcp_state;          /* enum of include/net/tcp_states.h; 0 for UDP */
	__u8 role;               /* enum flow_role */
	__u8 tx_flags;           /* tcpControlBits that this end sent (since the flow began) */
	__u8 rx_flags;           /* ... and received */
	__u8 dscp;
	__u8 owner_source;       /* enum owner_source */
	__u8 mark;               /* enum flow_mark */
	__u8 user_changes;            /* UDP, in the kernel only: how often the socket's user changed */
	__u8 pad;
	__u8 udp_flags;               /* ... which first datagrams are events; UDP_RECEIVED */
};
_Static_assert(sizeof(struct flow_row) == 160, "flow_row");

/* A row as it leaves: with gauges of TCP that no socket has to remember. 0 where unknown. */
struct sent_row {
	struct flow_row row;
	__u64 pacing_rate;       /* octets a second; of delivery: the latest that was measured */
	__u64 delivery_rate;
	__u32 unacknowledged;    /* segments in flight */
	__u32 congestion_window; /* segments */
};
_Static_assert(sizeof(struct sent_row) == 184, "sent_row");

enum event_kind {
	EVENT_CONNECT = 1,
	EVENT_CONNECT_FAILED,
	EVENT_ACCEPT,
	EVENT_CLOSE,
	EVENT_RETRANSMIT,
	EVENT_SEND,
	EVENT_RECV,
	EVENT_CGROUP_MADE,
	EVENT_CGROUP_REMOVED,
	EVENT_CGROUP_ENTERED, /* the first program was executed in it */
};

/* What happened to a flow end, or to a cgroup that may be a container. The columns are those of
 * EVENT_DTYPE in probe/flow/event.py. */
struct event_row {
	__u64 time_ns;    /* CLOCK_MONOTONIC */
	__u64 flow_id;    /* struct flow_row.id */
	__u64 cookie;     /* of the socket; of a cgroup its id */
	__u64 owner;      /* struct owner_row.id, 0 when unknown */
	__u64 netns;
	__u64 tx_octets;  /* IP layer, since the flow began; UDP: of this datagram */
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
	__u32 error;      /* errno that the socket holds, 0 when unknown */
	__u32 count;      /* segments sent again since the flow's last RETRANSMIT, else 1 */
	__u8 kind;        /* enum event_kind */
	__u8 ip_version;  /* 0: a cgroup */
	__u8 protocol;
	__u8 tcp_state;
	__u8 role;
	__u8 owner_source;
	__u8 pad[2];
	__u32 remote_owner; /* for user space: whose the remote address is */
};
_Static_assert(sizeof(struct event_row) == 144, "event_row");

/* The identity behind flow ends, sent once per distinct identity, before any row that names it. One
 * without a pid is a cgroup as such. */
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
	__u64 vm_size;    /* virtual memory in KiB, and the most of it so far; 0 when unknown */
	__u64 vm_peak;
	__u64 parent_vm_size;
	__u64 parent_vm_peak;
	__u32 mount_ns;          /* inodes of namespaces; 0 when unknown */
	__u32 user_ns;
	__u32 parent_mount_ns;
	__u32 parent_user_ns;
	__u8 path_source;        /* enum path_source */
	__u8 parent_path_source;
	__u8 cgroup_v1;          /* 1: the cgroup is of a v1 hierarchy */
	__u8 cgroup_delegated;   /* innermost components from the outermost one on that is not root's */
	__u8 pad[4];
	__u8 name[NAME_LENGTH];
	__u8 parent_name[NAME_LENGTH];
	__u8 path[PATH_LENGTH];  /* NUL-terminated, as every string here */
	__u8 parent_path[PATH_LENGTH];
	__u8 cgroup[PATH_LENGTH];
};
_Static_assert(sizeof(struct owner_row) == 904, "owner_row");

/* What the kernel half could not keep, one counter per cause. */
struct losses {
	__u64 flow_ring_full;     /* flow ends whose last counters were lost */
	__u64 owner_ring_full;    /* identities not reported; tried again at the next socket */
	__u64 storage_failed;     /* sockets that could not be given storage */
	__u64 udp_peers_full;     /* datagrams not counted: table of UDP peers full */
	__u64 snapshot_full;      /* rows that had to wait for the next snapshot pass */
	__u64 unstored_datagrams; /* not counted: their socket could not be given storage */
	__u64 event_ring_full;    /* events not told; flows are not touched by it */
	__u64 ends_missed;        /* connections whose end no program saw: what came since their last row */
};
#endif
