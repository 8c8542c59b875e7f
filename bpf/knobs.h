/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Knobs: constants that user space sets before it loads the object. The verifier sees their values
 * and removes the code that they make unreachable. */
#ifndef SOCKFLOW_KNOBS_H
#define SOCKFLOW_KNOBS_H

#include "kernel.h"

const volatile u32 cgroup_v1_controller = 0; /* enum container_hierarchy */
const volatile int container_hierarchy_id = 0; /* of that controller; cgroup v2 has 0 */
const volatile u32 snapshot_capacity = 131072; /* rows of one pass */
const volatile u32 jiffy_ns = 0; /* length of a jiffy; 0 means unknown */
const volatile u32 page_kib = 4;
const volatile u64 udp_idle_ns = 60000000000ULL; /* a silent UDP peer is removed after this */
/* A random number of this start. It keeps others from choosing addresses whose keys collide. */
const volatile u64 hash_secret = 0;
const volatile bool typed_task = false; /* cgroup programs may call bpf_get_current_task_btf */
const volatile bool use_slots = false; /* the kernel has bpf_rdonly_cast (since 6.2) */
const volatile bool report_events = false; /* if false, the verifier removes all code for events */

#endif
