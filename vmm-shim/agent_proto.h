/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between godwit and the agent inside the VMM: packets over a private Unix socket
 * (SOCK_SEQPACKET).  Both ends are on one host, so integers are in host order.  docs/protocol.md
 * has the rules of its versions, and the requirements of a new version.
 *
 * A structure here is a packet.  Each field has a fixed width, and no byte lies between fields
 * (-Wpadded holds that).  Fields named zero are sent as 0 and not read.  A packet that is longer
 * than its structure comes from a later godwit: the rest is skipped.  A packet that is shorter ends
 * the connection.  A page is a page of the host's kernel.
 */
#ifndef GODWIT_SHIM_AGENT_PROTO_H
#define GODWIT_SHIM_AGENT_PROTO_H

#include <stdint.h>

#define AGENT_MAGIC 0x47574147u
/*
 * The versions that both ends of this build speak.  Versions 4 and below came before the first
 * release and are no longer spoken.
 */
#define AGENT_VERSION_OLDEST 5
#define AGENT_VERSION_NEWEST 5
#define AGENT_MAX_REGIONS 64
#define AGENT_MAX_SEGMENTS 256
#define AGENT_MAX_THREADS 1024
#define AGENT_TEXT_BYTES 384
#define AGENT_PATH_BYTES 384
#define AGENT_RELEASE_BYTES 32

#define AGENT_SOCKET "agent.sock" /* in the VM's run folder */
#define AGENT_QMP_SOCKET "qmp.sock"
#define AGENT_GUARD_SOCKET "guard.sock" /* a second QMP socket, for guard.c alone */
#define AGENT_PEEK_SOCKET "peek.sock"   /* a third QMP socket, for list and status */
#define AGENT_JUDGE_FILE "judge" /* locked by the process that judges the VMM (vmm/judge.c) */
/* QMP commands, one each line, that restore the VMM's settings (vmm/settings.h) */
#define AGENT_UNDO_FILE "settings.undo"

#define AGENT_ENV_DIR "GODWIT_VM_DIR" /* the VM's run folder, for the shim */
/* set: KVM gets its memory slots at the VMM's own addresses */
#define AGENT_ENV_NO_ALIAS "GODWIT_NO_ALIAS"

/*
 * The ways to track memory; GW_TRACKERS in vmm/vmm.h has their names.  The numbers are part of the
 * protocol.
 */
enum agent_tracker {
	AGENT_BEST = 0,
	AGENT_WP_ASYNC = 1,
	AGENT_WP_SYNC = 2,
	AGENT_KVM_ASYNC = 3,
	AGENT_KVM_SYNC = 4,
	AGENT_TRACKERS, /* the number of trackers; not part of the protocol */
};

/* 6 was the guard until version 4; see lease_proto.h. */
enum agent_type {
	AGENT_HELLO = 1, /* agent_hello, agent_hello_answer; first on a connection */
	/* agent_head, agent_regions_answer, then region_count packets of agent_region */
	AGENT_REGIONS = 2,
	/* agent_track, agent_track_answer with a descriptor of the bitmaps' file */
	AGENT_TRACK = 3,
	AGENT_COLLECT = 4, /* agent_head, agent_collect_answer */
	AGENT_UNTRACK = 5, /* agent_head, agent_answer */
	AGENT_IMAGE = 7,   /* agent_image_file, agent_answer with a descriptor of that file */
	/*
	 * agent_watch, then image_count packets of agent_watch_image; agent_watch_answer with a
	 * descriptor of the bitmaps' file
	 */
	AGENT_WATCH = 8,
	/* agent_head, agent_answer: the bitmaps of images are up to date then */
	AGENT_SYNC = 9,
	AGENT_UNWATCH = 10,  /* agent_head, agent_answer */
	AGENT_THROTTLE = 11, /* agent_throttle, agent_answer */
	AGENT_ARM = 12,      /* agent_arm, agent_answer: godwit reads these pages next */
	/* agent_head, agent_answer: the guest's memory is mapped as it arrives */
	AGENT_PREFAULT = 13,
	/* agent_head, agent_answer: whether every request that the VMM submits can be followed */
	AGENT_STOCK = 14,
	AGENT_REGION = 15,      /* not a request: follows the answer to REGIONS */
	AGENT_WATCH_IMAGE = 16, /* not a request: follows WATCH */
};

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"

/* Begins every packet.  The same in all versions. */
struct agent_head {
	uint32_t magic;
	/* agreed on by HELLO; in HELLO the newest that godwit speaks; in a refusal meaningless */
	uint16_t version;
	uint16_t type; /* in an answer: the type of its request */
};

/* Begins every answer.  The same in all versions. */
struct agent_answer {
	struct agent_head head;
	/* 0, or a negative errno: refused, text has the reason, and the answer may end after it */
	int32_t status;
	uint16_t oldest, newest; /* the versions that the agent speaks */
	int32_t vmm_pid;         /* the VMM's process, in its own pid namespace */
	uint32_t zero;
	char text[AGENT_TEXT_BYTES]; /* one line, ended by a zero byte */
};

/* The same in all versions. */
struct agent_hello {
	struct agent_head head;
	uint16_t oldest; /* godwit speaks the versions from this to head.version */
	uint16_t zero[3];
};

/* The same in all versions.  answer.head.version is the version of all later packets. */
struct agent_hello_answer {
	struct agent_answer answer;
	char release[AGENT_RELEASE_BYTES]; /* the agent's version of godwit, ended by a zero byte */
};

struct agent_regions_answer {
	struct agent_answer answer;
	uint32_t region_count; /* at most AGENT_MAX_REGIONS */
	uint32_t zero;
};

/* A file that the VMM has mapped shared and writable. */
struct agent_mapping {
	uint64_t bytes;         /* from the file's start to the end of its last mapping */
	uint64_t device, inode; /* as in /proc/PID/maps; the device as makedev(3) makes it */
	/* as in /proc/PID/maps, without " (deleted)"; ended by a zero byte */
	char path[AGENT_PATH_BYTES];
};

/* With a descriptor of the file, or without one when the VMM holds none open. */
struct agent_region {
	struct agent_head head;
	struct agent_mapping mapping;
};

struct agent_track {
	struct agent_head head;
	uint32_t tracker;                        /* an agent_tracker */
	uint32_t region_count;                   /* how many bytes of region_index are used */
	uint8_t region_index[AGENT_MAX_REGIONS]; /* into the last answer to REGIONS */
};

/*
 * The bitmaps lie in the file in the order of region_index.  A bitmap has one bit for each page, in
 * words of 64 bits, and fills whole pages.
 */
struct agent_track_answer {
	struct agent_answer answer;
	uint32_t tracker;       /* the agent_tracker in use */
	uint32_t sees_discards; /* 1: pages that the VMM frees in the file are marked too; or 0 */
	uint64_t bitmaps_bytes; /* of the file */
};

struct agent_collect_answer {
	struct agent_answer answer;
	uint64_t marked_pages;
};

struct agent_arm {
	struct agent_head head;
	uint32_t region_index; /* as in TRACK */
	uint32_t zero;
	uint64_t first_page, page_count;
};

struct agent_image_file {
	struct agent_head head;
	uint64_t device, inode; /* as in tracker/blocks.h */
};

struct agent_watch {
	struct agent_head head;
	uint32_t block_bytes;
	uint32_t image_count; /* at most AGENT_MAX_REGIONS */
};

/* An image to watch. */
struct agent_image {
	uint64_t device, inode; /* as in tracker/blocks.h */
	uint64_t blocks;        /* of block_bytes */
};

struct agent_watch_image {
	struct agent_head head;
	struct agent_image image;
};

/*
 * The bitmaps lie in the file in the order of the images.  A bitmap has one bit for each block, in
 * words of 64 bits, and fills whole pages.
 */
struct agent_watch_answer {
	struct agent_answer answer;
	uint64_t bitmaps_bytes; /* of the file */
};

/* How the guest is slowed from now on.  All fields zero: not slowed. */
struct agent_throttle {
	struct agent_head head;
	uint32_t stand_percent; /* the share of time for which each thread sleeps */
	uint32_t thread_count;  /* how many thread_ids are used */
	uint64_t disk_bytes_per_s;
	/* gettid(2) of the vCPU threads, in the VMM's pid namespace */
	int32_t thread_ids[AGENT_MAX_THREADS];
};

#pragma GCC diagnostic pop

#endif
