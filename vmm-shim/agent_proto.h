/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What godwit and the agent inside the VMM say to each other: packets over a private Unix socket
 * (SOCK_SEQPACKET), both ends on one host, so integers are in host order.  Internal to vmm-shim.
 *
 * godwit sends an agent_request and gets an agent_reply; REGIONS is followed by reply.count packets of
 * agent_mapping, each with the descriptor of the file; TRACK and WATCH are answered with one descriptor, the bitmaps.
 * Any other size, magic or version ends the connection.
 */
#ifndef GODWIT_SHIM_AGENT_PROTO_H
#define GODWIT_SHIM_AGENT_PROTO_H

#include <stdint.h>

#define AGENT_MAGIC 0x47574147u
#define AGENT_VERSION 4
#define AGENT_MAX_REGIONS 64
#define AGENT_MAX_SEGMENTS 256

#define AGENT_SOCKET "agent.sock" /* in the VM's run folder */
#define AGENT_QMP_SOCKET "qmp.sock"
#define AGENT_GUARD_SOCKET "guard.sock" /* a second one, for guard.c alone */
#define AGENT_PEEK_SOCKET "peek.sock"   /* a third one, for list and status */
#define AGENT_JUDGE_FILE "judge"    /* locked by the process that judges the VMM (judge.c) */
#define AGENT_UNDO_FILE "settings.undo" /* QMP commands, one a line, that put the VMM's settings back (settings.h) */

#define AGENT_ENV_DIR "GODWIT_VM_DIR" /* tells the shim its run folder */
#define AGENT_ENV_NO_ALIAS "GODWIT_NO_ALIAS" /* set: KVM gets its memory slots where the VMM has them */

/* How memory is tracked; see GW_TRACKERS in vmm.h for their names. */
enum agent_tracker { AGENT_BEST, AGENT_WP_ASYNC, AGENT_WP_SYNC, AGENT_KVM_ASYNC, AGENT_KVM_SYNC, AGENT_TRACKERS };

enum agent_type {
	AGENT_HELLO = 1,   /* value: the VMM's pid */
	AGENT_REGIONS = 2, /* count: file mappings found, newly looked up */
	AGENT_TRACK = 3,   /* region[0..count): indices of the last REGIONS; value: an agent_tracker.  The answer's value: bytes
			    * of the bitmaps' file; count: the agent_tracker in use; status 1: what is given back is marked too */
	AGENT_COLLECT = 4, /* value: pages marked */
	AGENT_UNTRACK = 5,
	/* 6 was the guard: see lease_proto.h */
	AGENT_IMAGE = 7, /* device, inode: a descriptor of that file comes with the answer */
	AGENT_WATCH = 8, /* count packets of agent_image follow; value: bytes of a block, then of the bitmaps' file */
	AGENT_SYNC = 9,  /* the bitmaps of images are to be up to date */
	AGENT_UNWATCH = 10,
	AGENT_ARM = 12, /* region[0], device: first page, inode: pages: they are about to be read */
	AGENT_THROTTLE = 11, /* struct agent_throttle follows in a packet of its own */
	AGENT_PREFAULT = 13, /* what comes of the guest's memory is mapped from now on */
	AGENT_STOCK = 14, /* whether all that the VMM submits can be followed */
};

struct agent_request {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t count;
	uint32_t reserved;
	uint64_t value;
	uint64_t device, inode;
	uint8_t region[AGENT_MAX_REGIONS];
};

struct agent_reply {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	int32_t status; /* 0, or what the request says, or -errno, then text says why */
	uint32_t count;
	uint64_t value;
	char text[384];
};

/* A file that the VMM has mapped shared and writable. */
struct agent_mapping {
	uint64_t bytes; /* from the file's start to the end of its last mapping */
	uint64_t device, inode;
	char path[384]; /* as /proc/self/maps has it, without " (deleted)" */
};

/* An image to be watched; device and inode as in tracker/blocks.h. */
struct agent_image {
	uint64_t device, inode;
	uint64_t blocks;
};

#define AGENT_MAX_THREADS 1024

/* How the guest is to be slowed from now on; all zero: not at all. */
struct agent_throttle {
	uint32_t percent;
	uint32_t count; /* of ids */
	uint64_t disk_bytes_per_s;
	int32_t ids[AGENT_MAX_THREADS]; /* threads that run virtual processors */
};

#endif
