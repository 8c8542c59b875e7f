/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who uses a UDP socket. Often that is not who made it: daemons fork, give up root and get sockets from
 * others. A program of ours runs in the task that sends; of receiving nobody tells, so there the tasks are
 * looked for that wait at the socket. */
#ifndef SOCKFLOW_USERS_H
#define SOCKFLOW_USERS_H

static __always_inline void drain_counters(struct flow_row *to, struct flow_row *from);

#define MAX_WAITERS 4 /* tasks at one socket that are looked at */

/* After so many changes the users of a socket take turns (workers of one server): then one of them is
 * named, and the source of the name says that there are others. */
#define MAX_USER_CHANGES 5
#define SHARED_SAMPLING 16 /* of a socket's datagrams that look at who sends, one in so many */

#define MOST_STACK_KIB 32 /* of a task, where pages are not larger than that */

/* An interrupt borrows whatever task was running, but has a stack of its own. */
static __noinline bool is_borrowed_task(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 stack = (u64)BPF_CORE_READ(task, stack), here = 0;
	u64 kib = page_kib > MOST_STACK_KIB ? page_kib : MOST_STACK_KIB;
	void *volatile frame = (void *)&frame;

	/* a copy, which the verifier takes for a number */
	bpf_probe_read_kernel(&here, sizeof(here), (void *)&frame);
	return here - stack >= kib << 10;
}

/* --- marks -------------------------------------------------------------------------------------- */
#define UDP_RECEIVED 4 /* in flow_row.told: something came since the last snapshot */

/* `told` is the last octet of the word that begins with `mark`: atomic operations take words only. */
static __always_inline u32 *udp_flags_word(struct flow_row *r)
{
	return (u32 *)&r->mark;
}

/* Whether it was set before. */
static __always_inline bool set_udp_flag(struct flow_row *r, u32 mark)
{
	u32 word = bpf_htonl(mark);

	return __sync_fetch_and_or(udp_flags_word(r), word) & word;
}

/* --- tags --------------------------------------------------------------------------------------- */
/* A number that changes with the identity of a task, for less than a look-up of its owner. Never 0. */
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

/* --- changes ------------------------------------------------------------------------------------ */
/* What has been counted leaves under the owner that it belongs to. Where the ring is full it stays, and
 * the next owner has it. */
static __noinline int flush_counters(struct flow_row *r)
{
	struct sent_row *part;

	if (!r)
		return 0;
	part = bpf_ringbuf_reserve(&flow_ring, sizeof(*part), 0);
	if (!part)
		return 0;
	set_sent(part, r, 0);
	drain_counters(&part->row, r);
	bpf_ringbuf_submit(part, ring_flags(&flow_ring, FLOWS_WAKEUP_OCTETS));
	return 0;
}

/* To be called before the owner of a flow changes. What only came in is the next owner's: who takes a
 * socket over does so to read. */
static __always_inline void flush_before_owner_change(struct flow_row *r, u64 next, u8 source)
{
	if (r->owner && r->owner != next && source != OWNER_SHARED && r->tx_packets)
		flush_counters(r);
}

/* This task uses the socket now. Who only made it is forgotten; who used it keeps what is counted. */
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

/* Who sends is not who was seen last. */
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

/* --- who waits ---------------------------------------------------------------------------------- */
/* `address`, if it is that of a task: the kernel's table of threads points back at it. */
static __always_inline struct task_struct *as_task(void *address)
{
	struct task_struct *task = address;
	struct pid *pid = BPF_CORE_READ(task, thread_pid);

	if (!pid || BPF_CORE_READ(pid, tasks[0].first) !=
			    (void *)task + bpf_core_field_offset(task->pid_links))
		return 0;
	return task;
}

/* The first that waits in epoll_wait for what this entry tells; none while all are at work. */
static __noinline struct task_struct *epoll_waiter(struct wait_queue_entry *entry,
						       wait_queue_head_t *queue)
{
	struct eppoll_entry *e = 0;
	struct wait_queue_entry *first = 0;
	struct eventpoll *ep;
	struct list_head *head, *node;

	e = (void *)entry - bpf_core_field_offset(e->wait);
	if (BPF_CORE_READ(e, whead) != queue)
		return 0; /* something else */
	ep = BPF_CORE_READ(e, base, ep);
	head = (void *)ep + bpf_core_field_offset(ep->wq.head);
	node = BPF_CORE_READ(head, next);
	if (!ep || !node || node == head)
		return 0;
	first = (void *)node - bpf_core_field_offset(first->entry);
	return as_task(BPF_CORE_READ(first, private));
}

/* recv() leaves the task itself in the queue, poll() and select() their table, io_uring its request. */
static __noinline struct task_struct *waiter_of_entry(void *private)
{
	struct io_kiocb *request = (void *)((u64)private & ~3ULL);
	struct task_struct *found;

	found = as_task(private);
	if (!found)
		found = as_task(BPF_CORE_READ((struct poll_wqueues *)private, polling_task));
	if (found)
		return found;
	if (bpf_core_field_exists(request->tctx))
		return as_task(BPF_CORE_READ(request, tctx, task));
	return as_task(BPF_CORE_READ((struct io_kiocb___before_6_13 *)request, task));
}

/* A task that waits for this socket, 0 where none does. */
static __noinline struct task_struct *find_waiter(struct sock *sk)
{
	struct socket_wq *wq = BPF_CORE_READ(sk, sk_wq);
	wait_queue_head_t *queue = (void *)wq + bpf_core_field_offset(wq->wait);
	struct list_head *head = (void *)queue + bpf_core_field_offset(queue->head);
	struct list_head *node;

	if (!wq)
		return 0;
	node = BPF_CORE_READ(head, next);
	for (int i = 0; i < MAX_WAITERS && node && node != head; i++) {
		struct wait_queue_entry *entry = 0;
		struct task_struct *task;
		void *private;

		entry = (void *)node - bpf_core_field_offset(entry->entry);
		private = BPF_CORE_READ(entry, private);
		task = private ? waiter_of_entry(private) : epoll_waiter(entry, queue);
		if (task)
			return task;
		node = BPF_CORE_READ(node, next);
	}
	return 0;
}

/* Names who waits for the socket's datagrams, if anybody is seen to. */
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
