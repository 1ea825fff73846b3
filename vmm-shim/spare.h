/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepts connections in a process that may have no free descriptor.  Then a spare descriptor is
 * given up, so that the client gets a refusal with a reason.  Without a spare the listener is not
 * polled for a second, since poll() would report it at once.  Internal to vmm-shim, inside the VMM.
 * Threads: one for each door.
 */
#ifndef GODWIT_SHIM_SPARE_H
#define GODWIT_SHIM_SPARE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct door {
	int listener;
	int spare; /* a descriptor to give up; -1: none could be had */
	uint64_t rest_until_ns;
};

/* Takes over @listener, which listens already, and opens the spare. */
void door_open(struct door *door, int listener);

/* The descriptor to poll for input.  Return: the listener, or -1 while the door rests. */
int door_poll_fd(const struct door *door);

/*
 * Opens a new spare if there is none.  Return: the longest time that poll() may wait, in
 * milliseconds; -1: no limit.
 */
int door_poll_ms(struct door *door);

/*
 * Accepts a client.  Does not block when the descriptor of door_poll_fd() had input.
 * Return: a descriptor, which the caller closes, or -errno.  *full is 0, or -EMFILE or -ENFILE:
 * then the descriptor is the spare one, and the caller must refuse the client by door_refuse().
 */
int door_accept(struct door *door, int *full) GW_MUST_CHECK;

/*
 * Sends @count bytes to client @fd, closes @fd, and opens a new spare.  Does not block: a client
 * that does not read gets nothing.
 */
void door_refuse(struct door *door, int fd, const void *bytes, size_t count);

/* Sets @error to the shortage @full and its remedy.  Return: @full. */
int door_full(int full, struct gw_error *error);

#endif
