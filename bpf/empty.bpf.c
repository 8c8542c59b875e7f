// SPDX-License-Identifier: GPL-2.0
/* Programs that do nothing, on the hooks that sockflow.bpf.c uses. They measure what the hooks alone
 * cost. Only `make bench` loads them. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

/* TCP calls a program at a change of state only if it asked for that. So asking is a part of the hook. */
SEC("sockops")
int tcp_events(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB ||
	    ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

SEC("tp_btf/tcp_destroy_sock")
int tcp_destroyed(void *ctx)
{
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int tcp_reset_received(void *ctx)
{
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int tcp_reset_sent(void *ctx)
{
	return 0;
}

SEC("cgroup_skb/ingress")
int udp_received(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/egress")
int udp_sent(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup/sock_create")
int udp_created(struct bpf_sock *ctx)
{
	return 1;
}

SEC("cgroup/sock_release")
int udp_released(struct bpf_sock *ctx)
{
	return 1;
}
