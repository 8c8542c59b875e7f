/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reads the path of a process's executable.
 *
 * Paths are written backwards, because dentries and cgroups name their parents only:
 *
 *   text:  | ... free ... | /usr | /bin | /curl | 0 |
 *                         ^ at                  ^ PATH_LENGTH - 1
 *
 * `text` has twice PATH_LENGTH. A component that starts below PATH_LENGTH therefore always fits,
 * and the verifier can see that from a mask instead of a comparison. */
#ifndef SOCKFLOW_PATHS_H
#define SOCKFLOW_PATHS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <linux/auxvec.h>
#include "flow.h"

#define PATH_DEPTH 40 /* components and mounts; user space distrusts paths that may be deeper */
#define AUXV_PAIRS 24

struct path_scratch {
	u8 text[2 * PATH_LENGTH];
	u8 component[PATH_LENGTH];
	u32 busy; /* a program that was preempted on this processor is still writing */
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct path_scratch);
} path_scratch SEC(".maps");

static __always_inline struct path_scratch *scratch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&path_scratch, &zero);
}

/* Puts "/name" in front of what begins at `at`. Returns the new start, 0 if it does not fit. */
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

/* Writes the executable's path as the process itself would see it: up to its root directory,
 * across mounts. Returns false if the path has more than PATH_DEPTH components or does not fit. */
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
				goto found; /* the root of the namespace: outside of a chroot */
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

/* Reads the file name that was given to exec. The kernel leaves it on the process's own stack and
 * its address in the auxiliary vector. Only the process itself can read it. */
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

/* Writes a task's path, or an empty string. Returns how it was found: enum path_source. */
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

#endif
