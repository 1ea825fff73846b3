/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between godwit and the agent inside the VMM: packets over a private Unix socket (SOCK_SEQPACKET), both ends
 * on one host, so integers are in host order.  docs/protocol.md has the rules of its versions, and what a new version needs.
 *
 * A structure here is a packet.  Each field has a fixed width, and no byte lies between fields (-Wpadded holds that).  Fields
 * named zero are sent as 0 and not read.  A packet that is longer than its structure is one of a later godwit: the rest is
 * skipped.  A packet that is shorter ends the connection.  A page is one of the host's kernel.
 */
#ifndef GODWIT_SHIM_AGENT_PROTO_H
#define GODWIT_SHIM_AGENT_PROTO_H

#include <stdint.h>

#define AGENT_MAGIC 0x47574147u
/* What both ends of this build speak.  4 and below came before the first release; they are spoken by nobody. */
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
#define AGENT_GUARD_SOCKET "guard.sock" /* a second one, for guard.c alone */
#define AGENT_PEEK_SOCKET "peek.sock"   /* a third one, for list and status */
#define AGENT_JUDGE_FILE "judge"    /* locked by the process that judges the VMM (judge.c) */
#define AGENT_UNDO_FILE "settings.undo" /* QMP commands, one a line, that put the VMM's settings back (settings.h) */

#define AGENT_ENV_DIR "GODWIT_VM_DIR" /* tells the shim its run folder */
#define AGENT_ENV_NO_ALIAS "GODWIT_NO_ALIAS" /* set: KVM gets its memory slots where the VMM has them */

/* How memory is tracked; see GW_TRACKERS in vmm.h for their names.  The numbers are part of the protocol. */
enum agent_tracker {
	AGENT_BEST = 0,
	AGENT_WP_ASYNC = 1,
	AGENT_WP_SYNC = 2,
	AGENT_KVM_ASYNC = 3,
	AGENT_KVM_SYNC = 4,
	AGENT_TRACKERS, /* their number, which is not said */
};

/* 6 was the guard until version 4: see lease_proto.h. */
enum agent_type {
	AGENT_HELLO = 1,        /* agent_hello, agent_hello_answer; first on a connection */
	AGENT_REGIONS = 2,      /* agent_head, agent_regions_answer, then region_count packets of agent_region */
	AGENT_TRACK = 3,        /* agent_track, agent_track_answer with the descriptor of the bitmaps' file */
	AGENT_COLLECT = 4,      /* agent_head, agent_collect_answer */
	AGENT_UNTRACK = 5,      /* agent_head, agent_answer */
	AGENT_IMAGE = 7,        /* agent_image_file, agent_answer with a descriptor of that file */
	AGENT_WATCH = 8,        /* agent_watch, then image_count packets of agent_watch_image; agent_watch_answer with the
				 * descriptor of the bitmaps' file */
	AGENT_SYNC = 9,         /* agent_head, agent_answer: the bitmaps of images are up to date then */
	AGENT_UNWATCH = 10,     /* agent_head, agent_answer */
	AGENT_THROTTLE = 11,    /* agent_throttle, agent_answer */
	AGENT_ARM = 12,         /* agent_arm, agent_answer: these pages are read next */
	AGENT_PREFAULT = 13,    /* agent_head, agent_answer: memory that the guest gets is mapped from now on */
	AGENT_STOCK = 14,       /* agent_head, agent_answer: whether all that the VMM submits can be followed */
	AGENT_REGION = 15,      /* not a request: follows the answer to REGIONS */
	AGENT_WATCH_IMAGE = 16, /* not a request: follows WATCH */
};

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"

/* Begins every packet.  The same in all versions. */
struct agent_head {
	uint32_t magic;
	uint16_t version; /* agreed on by HELLO; in HELLO the newest that godwit speaks; in a refusal not to be read */
	uint16_t type;    /* of an answer: of its request */
};

/* Begins every answer.  The same in all versions. */
struct agent_answer {
	struct agent_head head;
	int32_t status;          /* 0, or a negative errno: refused, text says why, and the answer may end after it */
	uint16_t oldest, newest; /* versions that the agent speaks */
	int32_t vmm_pid;         /* the process that the agent lives in, in its own pid namespace */
	uint32_t zero;
	char text[AGENT_TEXT_BYTES]; /* one line, ended by a zero byte */
};

/* The same in all versions. */
struct agent_hello {
	struct agent_head head;
	uint16_t oldest; /* versions that godwit speaks: from this to head.version */
	uint16_t zero[3];
};

/* The same in all versions.  answer.head.version: the version that is spoken from now on. */
struct agent_hello_answer {
	struct agent_answer answer;
	char release[AGENT_RELEASE_BYTES]; /* the version of godwit that the agent is of, ended by a zero byte */
};

struct agent_regions_answer {
	struct agent_answer answer;
	uint32_t region_count; /* at most AGENT_MAX_REGIONS */
	uint32_t zero;
};

/* A file that the VMM has mapped shared and writable. */
struct agent_mapping {
	uint64_t bytes;         /* from the file's start to the end of its last mapping */
	uint64_t device, inode; /* as /proc/PID/maps has them; the device as makedev(3) makes it */
	char path[AGENT_PATH_BYTES]; /* as /proc/PID/maps has it, without " (deleted)"; ended by a zero byte */
};

/* With a descriptor of the file, or without one when the VMM holds none open. */
struct agent_region {
	struct agent_head head;
	struct agent_mapping mapping;
};

struct agent_track {
	struct agent_head head;
	uint32_t tracker;                   /* an agent_tracker */
	uint32_t region_count;              /* of the bytes of region_index that count */
	uint8_t region_index[AGENT_MAX_REGIONS]; /* into the last answer to REGIONS */
};

/* The bitmaps lie in the file in the order of region_index, a bit a page, in words of 64 bits, each in whole pages. */
struct agent_track_answer {
	struct agent_answer answer;
	uint32_t tracker;       /* the agent_tracker in use */
	uint32_t sees_discards; /* 1: pages that are given back to the file system are marked too; or 0 */
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

/* An image to be watched. */
struct agent_image {
	uint64_t device, inode; /* as in tracker/blocks.h */
	uint64_t blocks;        /* of block_bytes */
};

struct agent_watch_image {
	struct agent_head head;
	struct agent_image image;
};

/* The bitmaps lie in the file in the order of the images, a bit a block, in words of 64 bits, each in whole pages. */
struct agent_watch_answer {
	struct agent_answer answer;
	uint64_t bitmaps_bytes; /* of the file */
};

/* How the guest is slowed from now on.  All zero: not at all. */
struct agent_throttle {
	struct agent_head head;
	uint32_t stand_percent; /* of its time each thread stands */
	uint32_t thread_count;  /* of the thread_ids that count */
	uint64_t disk_bytes_per_s;
	int32_t thread_ids[AGENT_MAX_THREADS]; /* gettid(2) of those that run virtual processors, as the VMM numbers them */
};

#pragma GCC diagnostic pop

#endif
