/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Identity, stamped when it happens. A socket carries only the 64-bit id of its owner; the names
 * travel once per distinct identity, through a ring of their own, before any row that names them. */
#ifndef SOCKFLOW_OWNER_H
#define SOCKFLOW_OWNER_H

#define PATH_DEPTH 40
#define AUXV_PAIRS 24
#define AT_EXECFN 31
#define PF_KTHREAD 0x00200000

/* Everything that makes two identities differ; exec, setuid and a move to another cgroup do. */
struct owner_key {
	u64 start_ns;
	u64 cgroup_id;
	u64 exec_id;
	u32 pid;
	u32 uid;
	u32 gid;
	u32 pad;
};

/* Whose it is, too: by address, as the verifier takes it. */
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

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, OWNER_RING_OCTETS);
} owner_ring SEC(".maps");

/* Names are written from the end of `text` towards its start; a component that begins below
 * PATH_LENGTH still fits whole above it. */
struct path_scratch {
	u8 text[2 * PATH_LENGTH];
	u8 component[PATH_LENGTH];
	u32 busy; /* a program that was preempted here is still writing */
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct path_scratch);
} path_scratch SEC(".maps");

static u64 next_owner_id = 1;

static __always_inline struct path_scratch *scratch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&path_scratch, &zero);
}

/* Puts "/name" in front of what is at `at`; returns the new start, 0 when it does not fit. */
static __always_inline u32 prepend(struct path_scratch *s, u32 at, const void *name, u32 length)
{
	if (length == 0 || length >= PATH_LENGTH || length + 1 > at)
		return 0;
	at = (at - length - 1) & (PATH_LENGTH - 1);
	s->text[at] = '/';
	bpf_probe_read_kernel(&s->text[at + 1], length & (PATH_LENGTH - 1), name);
	return at;
}

static __always_inline void copy_path(u8 *to, struct path_scratch *s, u32 at)
{
	bpf_probe_read_kernel(to, PATH_LENGTH, &s->text[at & (PATH_LENGTH - 1)]);
	to[PATH_LENGTH - 1] = 0;
}

/* The path of the executable as the process itself would see it: up to its root directory, across
 * mounts. Bounded; false when it is deeper or longer than that. */
static __noinline bool walk_executable(struct task_struct *task, u8 *to)
{
	struct path_scratch *s = scratch();
	struct vfsmount *mnt, *root_mnt;
	struct dentry *dentry, *root;
	struct file *exe;
	u32 at = PATH_LENGTH - 1;

	exe = BPF_CORE_READ(task, mm, exe_file);
	if (!s || !exe || !to)
		return false;
	s->text[at] = 0;
	dentry = BPF_CORE_READ(exe, f_path.dentry);
	mnt = BPF_CORE_READ(exe, f_path.mnt);
	root = BPF_CORE_READ(task, fs, root.dentry);
	root_mnt = BPF_CORE_READ(task, fs, root.mnt);
	for (int i = 0; i < PATH_DEPTH; i++) {
		if (dentry == root && mnt == root_mnt)
			goto found;
		if (dentry == BPF_CORE_READ(mnt, mnt_root)) {
			struct mount *m = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
			struct mount *parent = BPF_CORE_READ(m, mnt_parent);

			if (parent == m)
				goto found; /* the namespace's root: outside a chroot */
			dentry = BPF_CORE_READ(m, mnt_mountpoint);
			mnt = (void *)parent + bpf_core_field_offset(struct mount, mnt);
			continue;
		}
		at = prepend(s, at, BPF_CORE_READ(dentry, d_name.name),
			     BPF_CORE_READ(dentry, d_name.len));
		if (!at)
			return false;
		dentry = BPF_CORE_READ(dentry, d_parent);
	}
	return false;
found:
	copy_path(to, s, at);
	return to[0] != 0;
}

/* The file name that was given to exec: the kernel leaves it on the process's own stack and its
 * address in the auxiliary vector. Only readable in the process's own context. */
static __noinline bool read_exec_argument(struct task_struct *task, u8 *to)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	unsigned long pair[2];

	if (!mm || !to)
		return false;
	for (int i = 0; i < AUXV_PAIRS; i++) {
		if (bpf_probe_read_kernel(pair, sizeof(pair),
					  (void *)mm + bpf_core_field_offset(mm->saved_auxv) +
						  i * sizeof(pair)) ||
		    !pair[0])
			return false;
		if (pair[0] == AT_EXECFN)
			return bpf_probe_read_user_str(to, PATH_LENGTH, (void *)pair[1]) > 1;
	}
	return false;
}

static __noinline u8 find_path(struct task_struct *task, u8 *to)
{
	if (!to)
		return PATH_NONE;
	if (walk_executable(task, to))
		return PATH_WALKED;
	if (task == (void *)bpf_get_current_task() && read_exec_argument(task, to))
		return PATH_EXEC_ARGUMENT;
	to[0] = 0;
	return PATH_NONE;
}

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

/* Where the container runtime puts containers: on v1 and hybrid hosts that is not the v2 tree. */
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

/* Whoever owns a cgroup's directory may make cgroups of any name in it. One that root made has no
 * attributes of its own unless somebody changed them. */
static __always_inline bool is_delegated(struct kernfs_node *node)
{
	struct kernfs_iattrs *own = 0;

	if (!bpf_core_field_exists(own->ia_uid))
		return false;
	own = BPF_CORE_READ(node, iattr);
	return own && BPF_CORE_READ(own, ia_uid.val);
}

/* The cgroup's path, innermost components kept where it is too long. Returns how many components,
 * counted from the innermost, it takes to reach the outermost that is not root's; 0: all are. */
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

/* Virtual memory of a task in KiB, and the most that it has had: what /proc calls VmSize, VmPeak. */
static __always_inline void read_memory(struct task_struct *task, u64 *size, u64 *peak)
{
	u64 now = BPF_CORE_READ(task, mm, total_vm), most = BPF_CORE_READ(task, mm, hiwater_vm);

	*size = now * page_kib;
	*peak = (most > now ? most : now) * page_kib;
}

/* Whose databases of users a task sees, and whom its ids mean. */
static __always_inline void read_namespaces(struct task_struct *task, u32 *mount_ns, u32 *user_ns)
{
	*mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	*user_ns = BPF_CORE_READ(task, cred, user_ns, ns.inum);
}

/* Not static, so that the verifier walks all its paths once, and not from every call. */
__noinline u64 announce_owner(struct keyed_task *of)
{
	struct task_struct *task, *parent;
	struct owner_key key;
	struct path_scratch *s;
	struct owner_row *row;
	u64 id;

	if (!of)
		return 0;
	key = of->key; /* Linux 6.1 takes a key of a map from nowhere but the stack */
	task = (void *)of->task;
	row = bpf_ringbuf_reserve(&owner_ring, sizeof(*row), 0);
	if (!row) {
		__sync_fetch_and_add(&losses.owner_ring_full, 1);
		return 0;
	}
	id = __sync_fetch_and_add(&next_owner_id, 1);
	parent = BPF_CORE_READ(task, real_parent);
	row->id = id;
	row->start_ns = key.start_ns;
	row->cgroup_id = key.cgroup_id;
	row->pid = key.pid;
	row->parent_pid = BPF_CORE_READ(parent, tgid);
	row->uid = key.uid;
	row->gid = key.gid;
	row->parent_uid = BPF_CORE_READ(parent, cred, uid.val);
	row->parent_gid = BPF_CORE_READ(parent, cred, gid.val);
	read_memory(task, &row->vm_size, &row->vm_peak);
	read_memory(parent, &row->parent_vm_size, &row->parent_vm_peak);
	read_namespaces(task, &row->mount_ns, &row->user_ns);
	read_namespaces(parent, &row->parent_mount_ns, &row->parent_user_ns);
	row->cgroup_v1 = cgroup_v1_controller != HIERARCHY_V2;
	__builtin_memset(row->pad, 0, sizeof(row->pad));
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
	bpf_ringbuf_submit(row, ring_flags(&owner_ring, OWNERS_WAKEUP_OCTETS));
	bpf_map_update_elem(&owner_ids, &key, &id, BPF_ANY);
	return id;
}

/* The id of a cgroup as such, without any process. */
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

/* The id of a task's identity, announced if it is new. 0: none (kernel thread, ring full). */
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

/* As current_owner() reads it: through typed pointers. */
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

/* The same for the running task. A typed pointer, where the kernel gives cgroup programs one, costs a load
 * for each member instead of a call. */
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
