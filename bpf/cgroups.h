/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Finds a task's cgroup in the hierarchy where container runtimes put containers. On hosts with
 * cgroup v1 controllers that is not the v2 tree. */
#ifndef SOCKFLOW_CGROUPS_H
#define SOCKFLOW_CGROUPS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "flow.h"
#include "knobs.h"
#include "paths.h"

/* Returns the index of the chosen v1 controller in css_set.subsys. */
static __always_inline u32 v1_index(void)
{
	switch (cgroup_v1_controller) {
	case HIERARCHY_MEMORY:
		return bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	case HIERARCHY_PIDS:
		return bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
	default:
		return bpf_core_enum_value(enum cgroup_subsys_id, devices_cgrp_id);
	}
}

/* Returns the cgroup of any task. Reads each member by a helper call. */
static __always_inline struct kernfs_node *cgroup_node(struct task_struct *task)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css = 0;

	if (cgroup_v1_controller == HIERARCHY_V2)
		return BPF_CORE_READ(set, dfl_cgrp, kn);
	bpf_probe_read_kernel(&css, sizeof(css), (void *)set + bpf_core_field_offset(set->subsys) +
							 v1_index() * sizeof(css));
	return BPF_CORE_READ(css, cgroup, kn);
}

/* Returns the cgroup's id of a task that the verifier knows as typed pointer. A member then costs
 * a load instead of a call. */
static __always_inline u64 current_cgroup_id(struct task_struct *task)
{
	struct css_set *set = task->cgroups;
	struct cgroup_subsys_state *css;

	if (cgroup_v1_controller == HIERARCHY_V2)
		return set->dfl_cgrp->kn->id;
	css = *(struct cgroup_subsys_state **)((void *)set + bpf_core_field_offset(set->subsys) +
					       v1_index() * sizeof(css));
	return css->cgroup->kn->id;
}

/* Returns whether a user other than root owns the cgroup's directory. Its owner may make cgroups
 * of any name in it. The kernel keeps attributes only for directories that somebody changed. */
static __always_inline bool is_delegated(struct kernfs_node *node)
{
	struct kernfs_iattrs *own = 0;

	if (!bpf_core_field_exists(own->ia_uid))
		return false;
	own = BPF_CORE_READ(node, iattr);
	return own && BPF_CORE_READ(own, ia_uid.val);
}

/* Writes the cgroup's path. If it is too long, the innermost components are kept. Returns the
 * number of components from the innermost one up to the outermost that is delegated; 0: none. */
static __noinline u8 walk_cgroup(struct kernfs_node *node, u8 *to)
{
	struct path_scratch *s = scratch();
	u32 at = PATH_LENGTH - 1;
	u8 delegated = 0;

	if (!s || !to)
		return 0;
	s->text[at] = 0;
	for (int i = 0; i < PATH_DEPTH && node; i++) {
		const char *name = BPF_CORE_READ(node, name);
		struct kernfs_node *parent;
		u32 next;
		long n;

		if (bpf_core_field_exists(node->__parent))
			parent = BPF_CORE_READ(node, __parent);
		else
			parent = BPF_CORE_READ((struct kernfs_node___before_6_15 *)node, parent);
		if (!parent)
			break; /* the root has no name */
		if (is_delegated(node))
			delegated = i + 1;
		n = bpf_probe_read_kernel_str(s->component, sizeof(s->component), name);
		next = n > 1 ? prepend(s, at, s->component, n - 1) : 0;
		if (!next)
			break;
		at = next;
		node = parent;
	}
	copy_path(to, s, at);
	return delegated;
}

#endif
