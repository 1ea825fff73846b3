/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks on disk images, by which processes that use one file know of each other.
 *
 * QEMU locks bytes 100 to 199 of an image for what it does with it (QEMU's block/file-posix.c); a VMM that waits for a guest
 * holds none, and neither does one that was told not to (locking=off).  Godwit locks bytes of its own, far behind any end: one
 * that all senders share, and one that a single receiver has.
 * These are locks of the open file description: they end when its last descriptor is closed, so a killed process leaves none.
 *
 * Threads: any.  A network file system asks its server.  Where an unknown process receives into an image, one that was killed
 * maybe, the last two functions wait a second for its end.
 */
#ifndef GODWIT_BASE_IMAGELOCK_H
#define GODWIT_BASE_IMAGELOCK_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

/* Whether a VMM uses the image, to read or to write.  A file system that knows no locks says no. */
GW_PUBLIC bool gw_image_is_used(int fd);

/* Whether a VMM may write to the image, as one does that has a running or paused guest on it. */
GW_PUBLIC bool gw_image_is_written(int fd);

/* Sender: marks an image that is copied from here, until @fd is closed.  Best effort: see gw_image_lock_received(). */
GW_PUBLIC void gw_image_lock_sent(int fd);

/* Whether a godwit copies from the image. */
GW_PUBLIC bool gw_image_is_sent(int fd);

/*
 * Receiver: takes the image, which @fd can write to, for this process alone, until @fd is closed.
 * Return: 0; -EBUSY when another has it, with *holder its process, 0 when that cannot be known (another host, a container); or
 * another -errno when the file system knows no locks.
 */
GW_PUBLIC GW_MUST_CHECK int gw_image_lock_received(int fd, pid_t *holder);

/* Gives up what gw_image_lock_received() took. */
GW_PUBLIC void gw_image_unlock_received(int fd);

/* Whether another process than this one receives into the image.  Return: 0; -EBUSY and *holder, as above. */
GW_PUBLIC GW_MUST_CHECK int gw_image_is_received(int fd, pid_t *holder);

#endif
