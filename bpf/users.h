/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Names the task that uses a UDP socket. That is often not the task that made it: daemons fork, give up
 * root, and get sockets from others.
 *
 *   sending    the program at egress runs in the task that sends. It compares a tag of that task
 *              with the socket's; a difference means another user.
 *   receiving  no program runs in the task that receives. So a task that waits for the socket is
 *              looked for: at the first datagram, and in a snapshot after which something came.
 *
 *   user A --sends--> row of A counts --.
 *   user B --sends--> tag differs: the row of A leaves with its counters, the row is B's now
 *
 * After MAX_USER_CHANGES the users are workers that take turns. Then one of them is named, with
 * OWNER_SHARED as source, and rows no longer leave at each change. */
#ifndef SOCKFLOW_USERS_H
#define SOCKFLOW_USERS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "cgroups.h"
#include "flow.h"
#include "knobs.h"
#include "owner.h"
#include "socket_flow.h"
#include "udp_rows.h"
#include "waiters.h"

#define MAX_USER_CHANGES 5
#define SHARED_SAMPLING 16 /* of a shared socket one datagram in so many looks at its sender */
#define MAX_STACK_KIB 32   /* of a task's stack, unless a page is larger */

/* Returns whether an interrupt runs this program. The current task is then an arbitrary one. An
 * interrupt has a stack of its own, which shows it. */
static __noinline bool is_borrowed_task(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 stack = (u64)BPF_CORE_READ(task, stack), here = 0;
	u64 kib = page_kib > MAX_STACK_KIB ? page_kib : MAX_STACK_KIB;
	void *volatile frame = (void *)&frame;

	/* The verifier allows arithmetic with a copy of the pointer only. */
	bpf_probe_read_kernel(&here, sizeof(here), (void *)&frame);
	return here - stack >= kib << 10;
}

/* Returns a number that changes with the identity of a task, and is never 0. It costs less than a
 * look-up of the owner. */
static __always_inline u64 make_tag(u64 cgroup_id, u64 exec_id, u32 pid, u32 uid, u32 gid)
{
	u64 tag = (hash_secret ^ cgroup_id << 32 ^ exec_id << 24 ^ gid) * 0x9e3779b97f4a7c15ULL;

	tag = (tag ^ tag >> 32 ^ (u64)pid << 32 ^ uid) * 0xff51afd7ed558ccdULL;
	return (tag ^ tag >> 32) | 1;
}

static __noinline u64 tag_of(struct task_struct *task)
{
	return make_tag(BPF_CORE_READ(cgroup_node(task), id), BPF_CORE_READ(task, self_exec_id),
			BPF_CORE_READ(task, tgid), BPF_CORE_READ(task, cred, uid.val),
			BPF_CORE_READ(task, cred, gid.val));
}

static __always_inline u64 current_tag(void)
{
	struct task_struct *task;

	if (!typed_task)
		return tag_of((void *)bpf_get_current_task());
	task = bpf_get_current_task_btf();
	return make_tag(current_cgroup_id(task), task->self_exec_id, task->tgid,
			task->cred->uid.val, task->cred->gid.val);
}

/* Notes that a task with this tag and owner uses the socket. A maker that never used it is replaced; a
 * former user keeps what is counted. */
static __noinline int set_user(struct sock_flow *f, u64 tag, u64 owner)
{
	struct flow_row *r;
	u8 source = OWNER_SOCKET_CALL;
	bool was_used;

	if (!f || !owner)
		return 0;
	r = &f->row;
	was_used = f->user != 0;
	f->user = tag;
	if (was_used && r->owner != owner && r->user_changes < MAX_USER_CHANGES)
		r->user_changes++;
	if (r->user_changes == MAX_USER_CHANGES)
		source = OWNER_SHARED;
	if (was_used)
		flush_before_owner_change(r, owner, source);
	r->owner = owner;
	r->owner_source = source;
	return 0;
}

/* Notes the running task as user, unless an interrupt has borrowed it. */
static __noinline int change_sender(struct sock_flow *f, u64 tag)
{
	if (!f || is_borrowed_task())
		return 0;
	if (f->row.user_changes == MAX_USER_CHANGES && bpf_get_prandom_u32() % SHARED_SAMPLING)
		return 0;
	return set_user(f, tag, current_owner());
}

static __always_inline void note_sender(struct sock_flow *f)
{
	u64 tag = current_tag();

	if (f->user != tag)
		change_sender(f, tag);
}

/* Notes a task that waits for the socket's datagrams as its user, if there is one. */
static __noinline int find_receiver(struct sock_flow *f, struct sock *sk)
{
	struct task_struct *task = find_waiter(sk);
	u64 tag;

	if (!f || !task)
		return 0;
	tag = tag_of(task);
	return tag == f->user ? 0 : set_user(f, tag, owner_of(task));
}

#endif
