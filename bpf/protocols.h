/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Numbers of protocols, TCP states, address families and socket flags, under the kernel's names.
 * They stand here once. Each group names the kernel header that it follows. */
#ifndef SOCKFLOW_PROTOCOLS_H
#define SOCKFLOW_PROTOCOLS_H

#include <linux/bpf.h>

/* include/net/tcp_states.h. The UAPI promises eBPF programs that the numbers stay. */
enum {
	TCP_ESTABLISHED = BPF_TCP_ESTABLISHED,
	TCP_SYN_SENT = BPF_TCP_SYN_SENT,
	TCP_SYN_RECV = BPF_TCP_SYN_RECV,
	TCP_FIN_WAIT1 = BPF_TCP_FIN_WAIT1,
	TCP_FIN_WAIT2 = BPF_TCP_FIN_WAIT2,
	TCP_TIME_WAIT = BPF_TCP_TIME_WAIT,
	TCP_CLOSE = BPF_TCP_CLOSE,
	TCP_CLOSE_WAIT = BPF_TCP_CLOSE_WAIT,
	TCP_LAST_ACK = BPF_TCP_LAST_ACK,
	TCP_LISTEN = BPF_TCP_LISTEN,
	TCP_CLOSING = BPF_TCP_CLOSING,
	TCP_NEW_SYN_RECV = BPF_TCP_NEW_SYN_RECV,
};

/* include/net/tcp.h: flags of the TCP header */
#define TCPHDR_FIN 0x01
#define TCPHDR_SYN 0x02
#define TCPHDR_RST 0x04
#define TCPHDR_ACK 0x10

/* include/linux/socket.h */
#define AF_INET 2
#define AF_INET6 10

/* include/uapi/linux/in.h and in6.h. These headers define in6_addr, as kernel.h does. */
enum {
	IPPROTO_HOPOPTS = 0,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_DSTOPTS = 60,
};

/* Octets of headers without options. */
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER 20
#define UDP_HEADER 8

/* include/uapi/linux/if_packet.h: skb->pkt_type. PACKET_LOOPBACK is the copy of a multicast
 * datagram that the sender's own host gets. */
#define PACKET_BROADCAST 1
#define PACKET_MULTICAST 2
#define PACKET_LOOPBACK 5

/* include/net/sock.h: sk_userlocks tells whether bind() chose the address, and the port. */
#define SOCK_BINDADDR_LOCK 4
#define SOCK_BINDPORT_LOCK 8

/* include/net/sock.h: ports below need privilege, so servers use them. */
#define PROT_SOCK 1024

/* include/linux/skmsg.h: flag in sk_user_data of a socket in a sockmap */
#define SK_USER_DATA_PSOCK 4

/* include/linux/sched.h: flag of a kernel thread */
#define PF_KTHREAD 0x00200000

#endif
