/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Finds a task that waits for a socket, from the socket's wait queue.
 *
 *   recv()        entry.private -----------------> task
 *   poll, select  entry.private -> poll_wqueues -> task
 *   io_uring      entry.private -> io_kiocb -----> task
 *   epoll         entry is in an eppoll_entry -> eventpoll.wq -> first entry.private -> task
 *
 * An entry without `private` is one of epoll. The kernel does not note which kind the others are. So
 * each is tried, and as_task() checks the result. */
#ifndef SOCKFLOW_WAITERS_H
#define SOCKFLOW_WAITERS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define MAX_WAITERS 4 /* entries of a wait queue that are read */

/* Returns `address` if a task is there, else 0. The kernel's table of threads points back at a task. */
static __always_inline struct task_struct *as_task(void *address)
{
	struct task_struct *task = address;
	struct pid *pid = BPF_CORE_READ(task, thread_pid);

	if (!pid || BPF_CORE_READ(pid, tasks[0].first) !=
			    (void *)task + bpf_core_field_offset(task->pid_links))
		return 0;
	return task;
}

/* Returns the first task in epoll_wait for this entry, 0 if all are at work. */
static __noinline struct task_struct *epoll_waiter(struct wait_queue_entry *entry,
						   wait_queue_head_t *queue)
{
	struct eppoll_entry *e = 0;
	struct wait_queue_entry *first = 0;
	struct eventpoll *ep;
	struct list_head *head, *node;

	e = (void *)entry - bpf_core_field_offset(e->wait);
	if (BPF_CORE_READ(e, whead) != queue)
		return 0; /* no entry of epoll */
	ep = BPF_CORE_READ(e, base, ep);
	head = (void *)ep + bpf_core_field_offset(ep->wq.head);
	node = BPF_CORE_READ(head, next);
	if (!ep || !node || node == head)
		return 0;
	first = (void *)node - bpf_core_field_offset(first->entry);
	return as_task(BPF_CORE_READ(first, private));
}

/* Returns the task of an entry with `private`: of recv(), poll(), select() or io_uring. */
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

/* Returns a task that waits for this socket, 0 if none does. */
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

#endif
