/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image that is being received, from the moment that it is taken until it is whole, or undone.  Internal to files.
 */
#ifndef GODWIT_FILES_RECEIVED_H
#define GODWIT_FILES_RECEIVED_H

#include "files/imageset.h"

/* As the functions of gw_disk_ops. */
int received_take(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error) GW_MUST_CHECK;
void received_release(struct gw_disks *disks);
int received_prepare(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error) GW_MUST_CHECK;
int received_withhold(struct gw_disks *disks, unsigned image) GW_MUST_CHECK;
int received_adopt(struct gw_disks *disks, unsigned image, struct gw_error *error) GW_MUST_CHECK;

/* Of half a copy.  What cannot be undone stays half a copy, and is marked as such.  An image that a VMM uses is that VMM's. */
void received_undo(struct image_fds *fds);

#endif
