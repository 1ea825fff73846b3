/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks on disk images, by which processes that use one file know of each other.
 *
 * QEMU locks bytes 100 to 199 of an image, one byte for each permission (QEMU's
 * block/file-posix.c).  A VMM that waits for a guest holds no such lock, nor does one with
 * locking=off.  Godwit locks bytes of its own, beyond the end of any image.  All senders share one
 * byte; a single receiver holds two others.  The locks belong to an open file description, see
 * fcntl(2).  They end when its last descriptor is closed, so a killed process leaves none.
 *
 * Threads: any.  On a network file system each call asks the server.  gw_image_lock_received() and
 * gw_image_is_received() wait up to one second for a receiver whose process is unknown: it may have
 * been killed, and hold its lock until the kernel has ended its last request.
 */
#ifndef GODWIT_BASE_IMAGELOCK_H
#define GODWIT_BASE_IMAGELOCK_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

/* Return: whether a VMM reads or writes the image; false on a file system without locks. */
GW_PUBLIC bool gw_image_is_used(int fd);

/* Return: whether a VMM may write to the image, as with a running or paused guest on it. */
GW_PUBLIC bool gw_image_is_written(int fd);

/* Sender: takes the shared lock of senders, until @fd is closed.  Failure is ignored. */
GW_PUBLIC void gw_image_lock_sent(int fd);

/* Return: whether a godwit copies from the image. */
GW_PUBLIC bool gw_image_is_sent(int fd);

/*
 * Receiver: takes the image for this process alone, until @fd is closed.  @fd is open for writing.
 * Return: 0; -EBUSY when another process holds it; or another -errno, as on a file system without
 * locks.
 * With -EBUSY, *holder is the id of that process, or 0 when it is unknown (another host, a
 * container).
 */
GW_PUBLIC GW_MUST_CHECK int gw_image_lock_received(int fd, pid_t *holder);

/* Releases the lock of gw_image_lock_received(). */
GW_PUBLIC void gw_image_unlock_received(int fd);

/*
 * Whether another process receives into the image.
 * Return: 0 when none does; or -EBUSY, and *holder as gw_image_lock_received() sets it.
 */
GW_PUBLIC GW_MUST_CHECK int gw_image_is_received(int fd, pid_t *holder);

#endif
