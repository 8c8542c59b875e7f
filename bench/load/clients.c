/* SPDX-License-Identifier: BSD-2-Clause */
/* The benchmark's clients. */
#include "load.h"
#include <time.h>

static const char *server_host;
static int most_a_second; /* 0: as many as there is time for */

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Rests once the load is a millisecond ahead. */
static void keep_to_rate(void)
{
	static double began;
	double ahead;

	if (!most_a_second)
		return;
	if (!began)
		began = now_s();
	ahead = began + (double)*operations / most_a_second - now_s();
	if (ahead > 1e-3)
		usleep(ahead * 1e6);
}

static void open_connection(void)
{
	static unsigned int next;
	struct sockaddr_in a = address_of(server_host, first_port + next++ % ECHO_PORTS);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

	if (fd < 0)
		fail("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) && errno != EINPROGRESS)
		fail("connect");
	watch(fd, CONNECTING_CLIENT, EPOLLOUT, EPOLL_CTL_ADD);
}

static void ask(int fd)
{
	if (write(fd, buffer, REQUEST) != REQUEST)
		fail("request");
}

/* One event of a connection; true when it brought an answer. */
static int progress(int fd)
{
	if (kinds[fd] == CONNECTING_CLIENT) {
		watch(fd, CLIENT, EPOLLIN, EPOLL_CTL_MOD);
		ask(fd);
		return 0;
	}
	if (read(fd, buffer, UNIT) <= 0) {
		if (errno == EAGAIN)
			return 0;
		fail("answer");
	}
	return 1;
}

static void ask_again(int fd)
{
	if (!progress(fd))
		return;
	++*operations;
	ask(fd);
}

static void connect_again(int fd)
{
	if (!progress(fd))
		return;
	++*operations;
	close(fd);
	keep_to_rate();
	open_connection();
}

static void keep_busy(const char *host, void (*step)(int))
{
	server_host = host;
	for (int i = 0; i < WIDTH; i++)
		open_connection();
	loop(step);
}

static int connected(const char *host, int type, int port)
{
	struct sockaddr_in a = address_of(host, first_port + port);
	int fd = socket(AF_INET, type, 0);

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
		fail("connect");
	return fd;
}

void request(const char *host)
{
	keep_busy(host, ask_again);
}

void connections(const char *host, int rate)
{
	most_a_second = rate;
	keep_busy(host, connect_again);
}

void bulk(const char *host)
{
	int fd = connected(host, SOCK_STREAM, DISCARD_PORT);
	uint64_t octets = 0;

	for (;;) {
		ssize_t sent = write(fd, buffer, sizeof(buffer));

		if (sent < 0)
			fail("write");
		octets += sent;
		*operations = octets / UNIT;
	}
}

void udp(const char *host)
{
	struct iovec part = { buffer, DATAGRAM };
	struct mmsghdr messages[BURST];
	int fds[UDP_SOCKETS];

	for (int i = 0; i < UDP_SOCKETS; i++)
		fds[i] = connected(host, SOCK_DGRAM, UDP_PORT);
	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < BURST; i++)
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &part, .msg_iovlen = 1 };
	for (unsigned int i = 0;; i++) {
		int sent = sendmmsg(fds[i % UDP_SOCKETS], messages, BURST, 0);

		if (sent > 0)
			*operations += sent;
	}
}

/* Connects to where there is no route, REFUSALS times a second. */
void unreachable(void)
{
	struct sockaddr_in a = address_of("203.0.113.7", first_port);
	double began = now_s();

	for (;;) {
		uint64_t due = (now_s() - began) * REFUSALS;

		while (*operations < due) {
			int fd = socket(AF_INET, SOCK_STREAM, 0);

			if (fd < 0 || !connect(fd, (struct sockaddr *)&a, sizeof(a)))
				fail("unreachable");
			close(fd);
			++*operations;
		}
		usleep(1000);
	}
}

/* Waits until `count` answers came; opens `unopened` further connections as others succeed. */
static void await_answers(int count, int unopened, int *fds)
{
	struct epoll_event events[EVENTS];

	while (count > 0) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++) {
			if (!progress(events[i].data.fd))
				continue;
			++*operations;
			if (fds)
				fds[--count] = events[i].data.fd;
			else
				count--;
			if (unopened-- > 0)
				open_connection();
		}
	}
}

void hold(const char *host, int count)
{
	int *fds = calloc(count, sizeof(*fds));
	int first = count < CONNECTING ? count : CONNECTING;
	char line[16];

	server_host = host;
	for (int i = 0; i < first; i++)
		open_connection();
	await_answers(count, count - first, fds);
	say("ready");
	while (fgets(line, sizeof(line), stdin)) {
		for (int i = 0; i < count; i++)
			ask(fds[i]);
		await_answers(count, 0, 0);
		say("done");
	}
}
