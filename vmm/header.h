/* SPDX-License-Identifier: Apache-2.0 */
/* Reads headers of images.  Internal to vmm; see gw_vmm_adopt_image() in vmm.h, too. */
#ifndef GODWIT_VMM_HEADER_H
#define GODWIT_VMM_HEADER_H

#include <stdbool.h>
#include <stddef.h>

#define HEADER_NAME_BYTES 1024u
#define HEADER_FORMAT_BYTES 32u

/*
 * The base that a qcow2 image names, and the format of the base by that header ("": not said).  @block: the first @bytes of the image.
 * Return: whether the block begins a qcow2 image that names a base.
 */
bool header_base(unsigned char *block, size_t bytes, char name[HEADER_NAME_BYTES], char format[HEADER_FORMAT_BYTES]);

#endif
