/* SPDX-License-Identifier: BSD-2-Clause */
/* The benchmark's server and sink. */
#include "load.h"

static void grow_buffer(int fd, int option, int octets)
{
	if (setsockopt(fd, SOL_SOCKET, option, &octets, sizeof(octets)))
		fail("socket buffer");
}

static int bound(const char *host, int port, int type)
{
	struct sockaddr_in a = address_of(host, port);
	int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)))
		fail("bind");
	if (type == SOCK_STREAM && listen(fd, 4096))
		fail("listen");
	return fd;
}

static void receive(int fd)
{
	static char data[BURST][2048];
	static struct iovec parts[BURST];
	static struct mmsghdr messages[BURST];
	int got;

	for (int i = 0; i < BURST; i++) {
		parts[i] = (struct iovec){ data[i], sizeof(data[i]) };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	while ((got = recvmmsg(fd, messages, BURST, MSG_DONTWAIT, 0)) > 0)
		*operations += got;
}

static void accept_all(int listener, enum kind kind)
{
	int fd, one = 1;

	while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		watch(fd, kind, EPOLLIN, EPOLL_CTL_ADD);
	}
}

static void answer(int fd)
{
	ssize_t got = read(fd, buffer, sizeof(buffer));

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0 || (kinds[fd] == ECHO && write(fd, buffer, got) < 0))
		close(fd);
}

static void serve_one(int fd)
{
	switch (kinds[fd]) {
	case ECHO_LISTENER:
		return accept_all(fd, ECHO);
	case DISCARD_LISTENER:
		return accept_all(fd, DISCARD);
	case UDP:
		return receive(fd);
	default:
		return answer(fd);
	}
}

static void listen_on(int port, enum kind kind)
{
	watch(bound("0.0.0.0", first_port + port, SOCK_STREAM), kind, EPOLLIN, EPOLL_CTL_ADD);
}

void serve(void)
{
	int udp = bound("0.0.0.0", first_port + UDP_PORT, SOCK_DGRAM);

	for (int i = 0; i < ECHO_PORTS; i++)
		listen_on(i, ECHO_LISTENER);
	listen_on(DISCARD_PORT, DISCARD_LISTENER);
	grow_buffer(udp, SO_RCVBUFFORCE, 8 << 20);
	watch(udp, UDP, EPOLLIN, EPOLL_CTL_ADD);
	say("ready");
	loop(serve_one);
}

void sink(void)
{
	int fd = bound("127.0.0.1", first_port, SOCK_DGRAM);

	grow_buffer(fd, SO_RCVBUFFORCE, 64 << 20);
	watch(fd, UDP, EPOLLIN, EPOLL_CTL_ADD);
	say("ready");
	loop(serve_one);
}
