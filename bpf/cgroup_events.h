/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Events of cgroups that may be containers. User space turns them into CONTAINER_START and
 * CONTAINER_STOP. A container starts with the first program that is executed in its cgroup, so that
 * the event can name a process. */
#ifndef SOCKFLOW_CGROUP_EVENTS_H
#define SOCKFLOW_CGROUP_EVENTS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "cgroups.h"
#include "events.h"
#include "flow.h"
#include "knobs.h"
#include "owner.h"

/* Ids of cgroups in which nothing was executed yet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u32);
} young_cgroups SEC(".maps");

static __always_inline void emit_cgroup_event(struct cgroup *cgroup, u8 kind)
{
	struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);
	u64 id = BPF_CORE_READ(node, id);
	struct event_row *e;
	u32 one = 1;

	if (BPF_CORE_READ(cgroup, root, hierarchy_id) != container_hierarchy_id)
		return;
	if (kind == EVENT_CGROUP_MADE)
		bpf_map_update_elem(&young_cgroups, &id, &one, BPF_ANY);
	e = new_event(kind, bpf_ktime_get_ns());
	if (!e)
		return;
	e->cookie = id;
	e->owner = announce_cgroup(node, id);
	submit_event(e);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_made, struct cgroup *cgroup)
{
	emit_cgroup_event(cgroup, EVENT_CGROUP_MADE);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_removed, struct cgroup *cgroup)
{
	emit_cgroup_event(cgroup, EVENT_CGROUP_REMOVED);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(program_executed, struct task_struct *task)
{
	u64 id = BPF_CORE_READ(cgroup_node(task), id);
	struct event_row *e;

	if (bpf_map_delete_elem(&young_cgroups, &id))
		return 0;
	e = new_event(EVENT_CGROUP_ENTERED, bpf_ktime_get_ns());
	if (!e)
		return 0;
	e->cookie = id;
	e->owner = owner_of(task);
	e->owner_source = e->owner ? OWNER_SOCKET_CALL : OWNER_UNKNOWN;
	submit_event(e);
	return 0;
}

#endif
