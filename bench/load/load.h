/* SPDX-License-Identifier: BSD-2-Clause */
/* Declares what the server and the clients of the benchmark's load share. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	ECHO_PORTS = 64,
	DISCARD_PORT = 64, /* offset from the first port */
	UDP_PORT = 65,     /* offset from the first port */
	REQUEST = 64,
	DATAGRAM = 100,
	UDP_SOCKETS = 8,
	WIDTH = 32,       /* connections at work at the same time */
	CONNECTING = 512, /* connections that `hold` opens at the same time */
	UNIT = 65536,
	BURST = 32,
	EVENTS = 256,
	DESCRIPTORS = 1 << 18,
	REFUSALS = 80000, /* a second */
};

enum kind { ECHO_LISTENER = 1, DISCARD_LISTENER, ECHO, DISCARD, UDP, CONNECTING_CLIENT, CLIENT };

extern volatile uint64_t *operations;
extern uint8_t kinds[DESCRIPTORS]; /* enum kind, by descriptor */
extern char buffer[4 * UNIT];
extern int epoll;
extern int first_port;

void fail(const char *what);
void say(const char *word);
struct sockaddr_in address_of(const char *host, int port);
void watch(int fd, enum kind kind, uint32_t events, int operation);
void loop(void (*step)(int));

void serve(void);
void sink(void);

void request(const char *host);
void connections(const char *host, int rate);
void bulk(const char *host);
void udp(const char *host);
void unreachable(void);
void hold(const char *host, int count);

#endif
