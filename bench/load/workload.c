/* SPDX-License-Identifier: BSD-2-Clause */
/* Makes load for the benchmark: a server, and clients that keep it busy in one way each.
 *
 *   workload serve   COUNTERS SECONDS PORT             echo on 64 ports, discard on one; UDP discarded
 *   workload bulk    COUNTERS SECONDS PORT HOST        one stream, counted in units of 64 KiB
 *   workload request COUNTERS SECONDS PORT HOST        64 octets there and back on 32 connections
 *   workload connect COUNTERS SECONDS PORT HOST [RATE] connect, one request, close; 32 at a time,
 *                                                      at most RATE a second
 *   workload udp     COUNTERS SECONDS PORT HOST        datagrams of 100 octets from 8 sockets
 *   workload hold    COUNTERS SECONDS PORT HOST COUNT  COUNT connections; "ready", then per line
 *                                                      read one request on each and "done"
 *   workload sink    COUNTERS SECONDS PORT             UDP on loopback, received and counted
 *
 * COUNTERS is a file of at least 8 octets. It holds the number of operations so far; the benchmark
 * maps it. PORT is the first port of the server.
 * Every process ends after SECONDS at the latest. */
#include "load.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

static void map_counters(const char *path)
{
	int fd = open(path, O_RDWR);

	if (fd < 0)
		fail(path);
	operations = mmap(0, sizeof(*operations), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (operations == MAP_FAILED)
		fail("mmap");
	close(fd);
}

int main(int count, char **arguments)
{
	const char *mode = count > 1 ? arguments[1] : "";
	const char *host = count > 5 ? arguments[5] : "";
	struct rlimit limit;

	if (count < 5)
		return 2;
	alarm(atoi(arguments[3]));
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	map_counters(arguments[2]);
	epoll = epoll_create1(0);
	first_port = atoi(arguments[4]);
	if (!strcmp(mode, "serve"))
		serve();
	else if (!strcmp(mode, "sink"))
		sink();
	else if (!strcmp(mode, "bulk"))
		bulk(host);
	else if (!strcmp(mode, "request"))
		request(host);
	else if (!strcmp(mode, "connect"))
		connections(host, count > 6 ? atoi(arguments[6]) : 0);
	else if (!strcmp(mode, "udp"))
		udp(host);
	else if (!strcmp(mode, "unreachable"))
		unreachable();
	else if (!strcmp(mode, "hold") && count > 6)
		hold(host, atoi(arguments[6]));
	else
		return 2;
	return 0;
}
