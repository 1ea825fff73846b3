/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between godwit and the lease's thread in the VMM: packets over a Unix socket (SOCK_SEQPACKET) that serves
 * no other purpose.  Integers are in host order.  BEAT has no answer; all others are answered with one packet.
 * The VMM's end says LAPSED by itself before it closes.
 *
 * Its versions are those of agent_proto.h, with the same rules: OPEN has the version that the agent's HELLO agreed on.
 */
#ifndef GODWIT_SHIM_LEASE_PROTO_H
#define GODWIT_SHIM_LEASE_PROTO_H

#include "base/clock.h"

#include <stdint.h>

#define LEASE_SOCKET "lease.sock" /* in the VM's run folder */
#define LEASE_MAGIC 0x47574c31u   /* "GWL1" */

/* Part of the protocol: the VMM of an older godwit has its own copy of the second one. */
#define LEASE_BEAT_NS (200 * GW_NS_PER_MS) /* the time between two beats of godwit */
#define LEASE_NS (2 * GW_NS_PER_S)         /* without a beat it lapses after this */

enum lease_type {
	LEASE_OPEN = 1,
	LEASE_BEAT = 2,
	LEASE_ARM = 3,    /* the guest is about to be paused */
	LEASE_DISARM = 4, /* the guest's owner is settled: COMMIT comes next, or the guest runs again */
	LEASE_LAPSED = 5,
};

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"

/* Magic, version, type and status are the same in all versions. */
struct lease_packet {
	uint32_t magic;
	uint16_t version; /* OPEN: the one that is spoken from now on; LAPSED, and an OPEN that is refused: any */
	uint16_t type;    /* of an answer: of its request */
	int32_t status;   /* of an answer: 0, or a negative errno */
	uint32_t resume;  /* ARM: 1: the guest ran, and is to run again; or 0 */
	uint64_t limit_ns; /* ARM: it lapses after this, however many beats come */
};

#pragma GCC diagnostic pop

#endif
