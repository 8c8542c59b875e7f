/* SPDX-License-Identifier: BSD-2-Clause */
/* The state and the steps that server and clients share. */
#include "load.h"

volatile uint64_t *operations;
uint8_t kinds[DESCRIPTORS];
char buffer[4 * UNIT];
int epoll;
int first_port;

void fail(const char *what)
{
	perror(what);
	exit(1);
}

void say(const char *word)
{
	puts(word);
	fflush(stdout);
}

struct sockaddr_in address_of(const char *host, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
		fail(host);
	return a;
}

void watch(int fd, enum kind kind, uint32_t events, int operation)
{
	struct epoll_event e = { .events = events, .data.fd = fd };

	if (fd >= DESCRIPTORS || epoll_ctl(epoll, operation, fd, &e))
		fail("watch");
	kinds[fd] = kind;
}

void loop(void (*step)(int))
{
	struct epoll_event events[EVENTS];

	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < count; i++)
			step(events[i].data.fd);
	}
}
