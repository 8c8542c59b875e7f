// SPDX-License-Identifier: GPL-2.0
/* Sockflow's kernel half: flows metered in the sockets, where they begin and end.
 *
 *   TCP   tcp.h: programs at the changes of a connection's state. Counters are those of tcp_sock, read
 *         in snapshots and at the end. The two programs for UDP packets return at once for TCP.
 *   UDP   udp.h: programs that count each datagram.
 *   both  snapshot.h, attribution.h, sweep.h: passes that user space starts.
 *
 * Rows leave as deltas, through the snapshot array and, when a flow ends, through a ring (output.h).
 * flow.h declares all that leaves.
 *
 * Each header includes what it uses and calls down only:
 *
 *   snapshot  attribution  sweep  tcp  udp  cgroup_events           programs
 *   snapshot_tcp  tcp_events  udp_events  users                     what they share
 *   tcp_rows  listeners  slots  tcp_counters  udp_rows  datagram    rows, places, counters
 *   events  owner  cgroups  paths  waiters                          identity
 *   rows  output  socket_flow  tcp_socket  knobs                    columns, rings, state
 *   flow  kernel  protocols                                         declarations */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "attribution.h"
#include "cgroup_events.h"
#include "flow.h"
#include "snapshot.h"
#include "sweep.h"
#include "tcp.h"
#include "udp.h"

char LICENSE[] SEC("license") = "GPL";

/* Keeps types of the ABI that no map names in the object's BTF, by mentioning them. */
const struct sent_row *btf_sent_row __attribute__((unused));
const struct owner_row *btf_owner_row __attribute__((unused));
const struct event_row *btf_event_row __attribute__((unused));
const enum event_kind *btf_event_kind __attribute__((unused));
const enum flow_mark *btf_flow_mark __attribute__((unused));
const enum flow_role *btf_flow_role __attribute__((unused));
const enum owner_source *btf_owner_source __attribute__((unused));
const enum path_source *btf_path_source __attribute__((unused));
const enum container_hierarchy *btf_container_hierarchy __attribute__((unused));
