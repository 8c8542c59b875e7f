/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The kernel structures that the programs read, each with the members that they use. CO-RE relocates
 * every access to the running kernel's BTF. So order and size of members do not matter here, and a
 * build needs neither BTF nor headers of the kernel but its UAPI. */
#ifndef SOCKFLOW_KERNEL_H
#define SOCKFLOW_KERNEL_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};
struct hlist_node {
	struct hlist_node *next;
};
struct hlist_head {
	struct hlist_node *first;
};

/* --- tasks and files ------------------------------------------------------------------------- */
struct qstr {
	u32 len;
	const unsigned char *name;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct path f_path;
};
struct fs_struct {
	struct path root;
};
struct mm_struct {
	struct file *exe_file;
	unsigned long saved_auxv[2];
	unsigned long total_vm;
	unsigned long hiwater_vm;
};
typedef struct {
	u32 val;
} kuid_t;
typedef struct {
	u32 val;
} kgid_t;
struct ns_common {
	unsigned int inum;
};
struct user_namespace {
	struct ns_common ns;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct cred {
	kuid_t uid;
	kgid_t gid;
	struct user_namespace *user_ns;
};
struct kernfs_iattrs {
	kuid_t ia_uid;
};
struct kernfs_node {
	struct kernfs_node *__parent; /* since 6.15 (633488947ef6) */
	const char *name;
	u64 id;
	struct kernfs_iattrs *iattr;
};
struct kernfs_node___before_6_15 {
	struct kernfs_node *parent;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
};
struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};
struct net;
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};
struct pid {
	struct hlist_head tasks[1]; /* PIDTYPE_PID */
};
struct task_struct {
	void *stack;
	unsigned int flags;
	int tgid;
	u64 start_boottime;
	u64 self_exec_id;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	const struct cred *cred;
	struct css_set *cgroups;
	struct fs_struct *fs;
	struct mm_struct *mm;
	struct nsproxy *nsproxy;
	struct pid *thread_pid;
	struct hlist_node pid_links[1];
	char comm[16];
};

/* --- wait queues --------------------------------------------------------------------------------- */
struct wait_queue_head {
	struct list_head head;
};
typedef struct wait_queue_head wait_queue_head_t;
struct wait_queue_entry {
	void *private;
	struct list_head entry;
};
typedef struct wait_queue_entry wait_queue_entry_t;
struct socket_wq {
	wait_queue_head_t wait;
};
struct poll_wqueues {
	struct task_struct *polling_task;
};
struct eventpoll {
	wait_queue_head_t wq;
};
struct epitem {
	struct eventpoll *ep;
};
struct eppoll_entry {
	struct epitem *base;
	wait_queue_entry_t wait;
	wait_queue_head_t *whead;
};
struct io_uring_task {
	struct task_struct *task;
};
struct io_kiocb {
	struct io_uring_task *tctx; /* since 6.13 (b6f58a3f4aa8) */
};
struct io_kiocb___before_6_13 {
	struct task_struct *task;
};

/* --- sockets --------------------------------------------------------------------------------- */
struct net {
	struct ns_common ns;
	u64 net_cookie;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};
typedef struct {
	s64 counter;
} atomic64_t;
typedef struct {
	struct {
		int counter;
	} refs;
} refcount_t;
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
	atomic64_t skc_cookie;
	refcount_t skc_refcnt;
};
typedef struct {
	int owned;
} socket_lock_t;
struct socket;
struct sock {
	struct sock_common __sk_common;
	struct socket_wq *sk_wq;
	struct socket *sk_socket;
	socket_lock_t sk_lock;
	struct {
		int counter;
	} sk_drops;
	u16 sk_protocol;
	u8 sk_userlocks : 4;
	unsigned long sk_pacing_rate;
	int sk_rx_dst_ifindex;
	void *sk_user_data;
	int sk_err;
};
struct socket {
	struct sock *sk;
};
struct sk_buff {
	struct sock *sk;
};
struct ipv6_pinfo {
	u8 tclass;
};
union flowi_uli {
	struct {
		__be16 dport;
	} ports;
};
struct flowi4 {
	__be32 daddr;
	union flowi_uli uli;
};
struct flowi {
	union {
		struct flowi4 ip4;
	} u;
};
struct inet_cork_full {
	struct flowi fl;
};
struct inet_sock {
	struct sock sk;
	struct ipv6_pinfo *pinet6;
	__be16 inet_sport;
	u8 tos;
	struct inet_cork_full cork;
};
struct inet_bind_bucket;
struct request_sock_queue {
	u8 rskq_defer_accept;
};
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
	struct inet_bind_bucket *icsk_bind_hash;
	void *icsk_ulp_data;
};
struct mptcp_subflow_context {
	struct sock *conn; /* the MPTCP socket, which the application has */
};
/* Bit-fields are read by BPF_CORE_READ_BITFIELD(): CO-RE does not relocate a plain access to one. */
struct tcp_options_received {
	u16 tstamp_ok : 1;
	u16 wscale_ok : 1;
	u16 sack_ok : 3;
};
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u16 tcp_header_len;
	struct tcp_options_received rx_opt;
	u32 snd_una;
	u32 snd_nxt;
	u32 rcv_nxt;
	u32 srtt_us;
	u32 mdev_us;
	u64 tcp_mstamp;
	u32 segs_in;
	u32 data_segs_in;
	u32 segs_out;
	u32 data_segs_out;
	u32 packets_out;
	u32 snd_cwnd;
	u32 mss_cache;
	u32 rate_delivered;
	u32 rate_interval_us;
	u32 total_retrans;
	u32 lost;
	u32 rcv_ooopack;
	u64 bytes_sent;
	u64 bytes_retrans;
	u64 bytes_acked;
	u64 bytes_received;
	u8 syn_data_acked : 1;
	bool is_mptcp;
};
enum sock_flags { SOCK_DONE = 1 };
enum cgroup_subsys_id { memory_cgrp_id, devices_cgrp_id, pids_cgrp_id };

/* --- socket storage, as its iterator walks it ---------------------------------------------------- */
struct bpf_local_storage {
	void *owner;
};
struct bpf_local_storage_data {
	u64 data[0];
};
struct bpf_local_storage_elem {
	struct hlist_node map_node;
	struct bpf_local_storage *local_storage;
	struct bpf_local_storage_data sdata;
};

/* --- iterators ------------------------------------------------------------------------------- */
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
	u64 seq_num;
};
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
};
struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *key;
	void *value;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct file *file;
};

#pragma clang attribute pop

#endif
