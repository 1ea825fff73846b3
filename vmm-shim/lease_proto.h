/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between godwit and the lease's thread in the VMM: packets over a Unix socket
 * (SOCK_SEQPACKET) that serves no other purpose.  Integers are in host order.  BEAT has no answer.
 * Each other packet of godwit has one answer.  The VMM's end sends LAPSED unasked before it closes.
 *
 * Its versions are those of agent_proto.h, with the same rules.  OPEN has the version that the
 * agent's HELLO agreed on.
 */
#ifndef GODWIT_SHIM_LEASE_PROTO_H
#define GODWIT_SHIM_LEASE_PROTO_H

#include "base/clock.h"

#include <stdint.h>

#define LEASE_SOCKET "lease.sock" /* in the VM's run folder */
#define LEASE_MAGIC 0x47574c31u   /* "GWL1" */

/* Both are part of the protocol: the VMM of an older godwit has its own copy of LEASE_NS. */
#define LEASE_BEAT_NS (200 * GW_NS_PER_MS) /* time between two beats of godwit */
#define LEASE_NS (2 * GW_NS_PER_S)         /* the lease lapses after this time without a beat */

enum lease_type {
	LEASE_OPEN = 1,
	LEASE_BEAT = 2,
	LEASE_ARM = 3, /* the guest is about to be paused */
	/* the guest's owner is settled: COMMIT comes next, or the guest runs again */
	LEASE_DISARM = 4,
	LEASE_LAPSED = 5,
};

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"

/* Magic, version, type and status are the same in all versions. */
struct lease_packet {
	uint32_t magic;
	/* OPEN: the version of all later packets; LAPSED, or a refused OPEN: any */
	uint16_t version;
	uint16_t type;     /* in an answer: the type of its request */
	int32_t status;    /* in an answer: 0, or a negative errno */
	uint32_t resume;   /* ARM: 1: the guest ran, and must run again after a lapse; or 0 */
	uint64_t limit_ns; /* ARM: the lease lapses after this time, however many beats come */
};

#pragma GCC diagnostic pop

#endif
