/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Events of UDP flows: SEND and RECV, for the first datagram of each way. */
#ifndef SOCKFLOW_UDP_EVENTS_H
#define SOCKFLOW_UDP_EVENTS_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "datagram.h"
#include "events.h"
#include "flow.h"
#include "udp_rows.h"

static __always_inline void emit_datagram_event(struct flow_row *r, struct datagram *d, bool egress)
{
	u32 mark = egress ? UDP_SEND_REPORTED : UDP_RECV_REPORTED;
	struct event_row *e;

	if (r->udp_flags & mark || set_udp_flag(r, mark))
		return;
	e = new_event(egress ? EVENT_SEND : EVENT_RECV, bpf_ktime_get_ns());
	if (!e)
		return;
	set_end(e, r);
	if (egress) {
		e->tx_octets = d->octets;
		e->tx_packets = d->packets;
	} else {
		e->rx_octets = d->octets;
		e->rx_packets = d->packets;
	}
	submit_event(e);
}

#endif
