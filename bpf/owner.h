/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Identities. A socket carries only the 64-bit id of its owner.
 *
 *   task --> owner_key --> owner_ids: key -> id      known: one look-up
 *                              | not there
 *                              v
 *                          announce_owner()          new: one owner_row with all names
 *
 * An identity is announced once, through a ring of its own, before any row that names it. */
#ifndef SOCKFLOW_OWNER_H
#define SOCKFLOW_OWNER_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "cgroups.h"
#include "flow.h"
#include "knobs.h"
#include "output.h"
#include "paths.h"
#include "protocols.h"

/* Everything that tells identities apart. An exec, a setuid and a move to another cgroup each make
 * a new identity. */
struct owner_key {
	u64 start_ns;
	u64 cgroup_id;
	u64 exec_id;
	u32 pid;
	u32 uid;
	u32 gid;
	u32 pad;
};

/* A key with the address of its task. A global function gets both by one pointer. */
struct keyed_task {
	struct owner_key key;
	u64 task;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct owner_key);
	__type(value, u64);
} owner_ids SEC(".maps");

static u64 next_owner_id = 1;

/* Reads a task's virtual memory in KiB, and the most that it has had: VmSize and VmPeak. */
static __always_inline void read_memory(struct task_struct *task, u64 *size, u64 *peak)
{
	u64 now = BPF_CORE_READ(task, mm, total_vm), most = BPF_CORE_READ(task, mm, hiwater_vm);

	*size = now * page_kib;
	*peak = (most > now ? most : now) * page_kib;
}

/* Reads the namespaces that say which users a task's ids mean, and which files name them. */
static __always_inline void read_namespaces(struct task_struct *task, u32 *mount_ns, u32 *user_ns)
{
	*mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	*user_ns = BPF_CORE_READ(task, cred, user_ns, ns.inum);
}

/* Fills numbers of a task and its parent. */
static __always_inline void set_numbers(struct owner_row *row, struct owner_key *key,
					struct task_struct *task, struct task_struct *parent)
{
	row->start_ns = key->start_ns;
	row->cgroup_id = key->cgroup_id;
	row->pid = key->pid;
	row->parent_pid = BPF_CORE_READ(parent, tgid);
	row->uid = key->uid;
	row->gid = key->gid;
	row->parent_uid = BPF_CORE_READ(parent, cred, uid.val);
	row->parent_gid = BPF_CORE_READ(parent, cred, gid.val);
	read_memory(task, &row->vm_size, &row->vm_peak);
	read_memory(parent, &row->parent_vm_size, &row->parent_vm_peak);
	read_namespaces(task, &row->mount_ns, &row->user_ns);
	read_namespaces(parent, &row->parent_mount_ns, &row->parent_user_ns);
	row->cgroup_v1 = cgroup_v1_controller != HIERARCHY_V2;
	__builtin_memset(row->pad, 0, sizeof(row->pad));
}

/* Fills names and paths of a task and its parent. Paths stay empty if a preempted program is writing
 * one on this processor. */
static __always_inline void set_names(struct owner_row *row, struct task_struct *task,
				      struct task_struct *parent)
{
	struct path_scratch *s;

	bpf_probe_read_kernel(row->name, NAME_LENGTH,
			      (void *)BPF_CORE_READ(task, group_leader) +
				      bpf_core_field_offset(task->comm));
	bpf_probe_read_kernel(row->parent_name, NAME_LENGTH,
			      (void *)parent + bpf_core_field_offset(task->comm));
	row->path[0] = row->parent_path[0] = row->cgroup[0] = 0;
	row->path_source = row->parent_path_source = PATH_NONE;
	row->cgroup_delegated = 0;
	s = scratch();
	if (s && !__sync_lock_test_and_set(&s->busy, 1)) {
		row->path_source = find_path(task, row->path);
		row->parent_path_source = find_path(parent, row->parent_path);
		row->cgroup_delegated = walk_cgroup(cgroup_node(task), row->cgroup);
		s->busy = 0;
	}
}

/* Sends the owner_row of a new identity. Returns its id, 0 if the ring is full. The function is
 * global (not static), so the verifier walks its paths once and not from every call. */
__noinline u64 announce_owner(struct keyed_task *of)
{
	struct task_struct *task, *parent;
	struct owner_key key;
	struct owner_row *row;
	u64 id;

	if (!of)
		return 0;
	key = of->key; /* Linux 6.1 accepts a map key from the stack only */
	task = (void *)of->task;
	row = bpf_ringbuf_reserve(&owner_ring, sizeof(*row), 0);
	if (!row) {
		__sync_fetch_and_add(&losses.owner_ring_full, 1);
		return 0;
	}
	row->id = id = __sync_fetch_and_add(&next_owner_id, 1);
	parent = BPF_CORE_READ(task, real_parent);
	set_numbers(row, &key, task, parent);
	set_names(row, task, parent);
	bpf_ringbuf_submit(row, ring_flags(&owner_ring, OWNERS_WAKEUP_OCTETS));
	bpf_map_update_elem(&owner_ids, &key, &id, BPF_ANY);
	return id;
}

/* Sends the owner_row of a cgroup as such, without a process. Returns its id. */
static __always_inline u64 announce_cgroup(struct kernfs_node *node, u64 cgroup_id)
{
	struct owner_row *row = bpf_ringbuf_reserve(&owner_ring, sizeof(*row), 0);
	struct path_scratch *s = scratch();
	u64 id;

	if (!row) {
		__sync_fetch_and_add(&losses.owner_ring_full, 1);
		return 0;
	}
	__builtin_memset(row, 0, sizeof(*row));
	id = row->id = __sync_fetch_and_add(&next_owner_id, 1);
	row->cgroup_id = cgroup_id;
	row->cgroup_v1 = cgroup_v1_controller != HIERARCHY_V2;
	if (s && !__sync_lock_test_and_set(&s->busy, 1)) {
		row->cgroup_delegated = walk_cgroup(node, row->cgroup);
		s->busy = 0;
	}
	bpf_ringbuf_submit(row, ring_flags(&owner_ring, OWNERS_WAKEUP_OCTETS));
	return id;
}

static __always_inline u64 identity(struct keyed_task *of)
{
	u64 *known = bpf_map_lookup_elem(&owner_ids, &of->key);

	return known ? *known : announce_owner(of);
}

/* Returns the id of a task's identity; 0 for a kernel thread, or if the ring is full. */
static __noinline u64 owner_of(struct task_struct *task)
{
	struct keyed_task of = {.task = (u64)task};

	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return 0;
	of.key.start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	of.key.cgroup_id = BPF_CORE_READ(cgroup_node(task), id);
	of.key.exec_id = BPF_CORE_READ(task, self_exec_id);
	of.key.pid = BPF_CORE_READ(task, tgid);
	of.key.uid = BPF_CORE_READ(task, cred, uid.val);
	of.key.gid = BPF_CORE_READ(task, cred, gid.val);
	return identity(&of);
}

/* Returns the id of the running task. With `typed_task` each member costs a load, not a call. */
static __noinline u64 current_owner(void)
{
	struct keyed_task of = {};
	struct task_struct *task;

	if (!typed_task)
		return owner_of((void *)bpf_get_current_task());
	task = bpf_get_current_task_btf();
	if (task->flags & PF_KTHREAD)
		return 0;
	of.task = (u64)task;
	of.key.cgroup_id = current_cgroup_id(task);
	of.key.start_ns = task->group_leader->start_boottime;
	of.key.exec_id = task->self_exec_id;
	of.key.pid = task->tgid;
	of.key.uid = task->cred->uid.val;
	of.key.gid = task->cred->gid.val;
	return identity(&of);
}

#endif
