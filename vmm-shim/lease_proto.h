/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between godwit and the lease's thread in the VMM: packets over a Unix socket (SOCK_SEQPACKET) that serves
 * no other purpose.  Integers are in host order.  BEAT has no answer; OPEN, ARM and DISARM are answered with one packet.
 * The VMM's end says LAPSED by itself before it closes.
 */
#ifndef GODWIT_SHIM_LEASE_PROTO_H
#define GODWIT_SHIM_LEASE_PROTO_H

#include "base/clock.h"

#include <stdint.h>

#define LEASE_SOCKET "lease.sock" /* in the VM's run folder */
#define LEASE_MAGIC 0x47574c31u   /* "GWL1" */

#define LEASE_BEAT_NS (200 * GW_NS_PER_MS) /* the time between two beats of godwit */
#define LEASE_NS (2 * GW_NS_PER_S)         /* without a beat it lapses after this */

enum lease_type {
	LEASE_OPEN = 1,
	LEASE_BEAT = 2,
	LEASE_ARM = 3,    /* the guest is about to be paused */
	LEASE_DISARM = 4, /* the guest's owner is settled: COMMIT comes next, or the guest runs again */
	LEASE_LAPSED = 5,
};

struct lease_packet {
	uint32_t magic;
	uint16_t type;
	uint16_t resume;   /* ARM: 1: the guest ran, and is to run again */
	int32_t status;    /* of an answer: 0 or -errno */
	uint32_t reserved;
	uint64_t limit_ns; /* ARM: it lapses after this, however many beats come */
};

#endif
