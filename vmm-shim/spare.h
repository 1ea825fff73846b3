/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepts connections in a process that may have no descriptor left.  A spare descriptor is given up then, so that the client
 * can be refused in words.  Without a spare the listener is left alone for a second, since poll() would report it at once.
 * Internal to vmm-shim, inside the VMM.  Threads: one for each door.
 */
#ifndef GODWIT_SHIM_SPARE_H
#define GODWIT_SHIM_SPARE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct door {
	int listener;
	int spare; /* a descriptor that may be closed at any time; -1: none is to be had */
	uint64_t rest_until_ns;
};

/* Takes over @listener, which listens already. */
void door_open(struct door *door, int listener);

/* What to poll for input.  Return: the listener, or -1 while it is to be left alone. */
int door_poll_fd(const struct door *door);

/* Gets the spare back if there is none.  Return: how long poll() may wait at most, in milliseconds; -1: for ever. */
int door_poll_ms(struct door *door);

/*
 * Accepts a client.  Does not block when door_poll_fd() had input.
 * Return: a descriptor, the caller's, or -errno.  *full is 0, or -EMFILE or -ENFILE: the client is to be refused by
 * door_refuse(), since the descriptor is the spare one.
 */
int door_accept(struct door *door, int *full) GW_MUST_CHECK;

/* Sends @count bytes to client @fd, closes it, and gets the spare back.  A client that does not read gets nothing. */
void door_refuse(struct door *door, int fd, const void *bytes, size_t count);

/* What is missing and what to do, for @full.  Return: @full with @error set. */
int door_full(int full, struct gw_error *error);

#endif
