/* SPDX-License-Identifier: Apache-2.0 */
/* Reading headers of images; see also gw_vmm_adopt_image() in vmm.h.  Internal to vmm. */
#ifndef GODWIT_VMM_HEADER_H
#define GODWIT_VMM_HEADER_H

#include <stdbool.h>
#include <stddef.h>

#define HEADER_NAME_BYTES 1024u
#define HEADER_FORMAT_BYTES 32u

/*
 * Reads the name of a qcow2 image's base, and the base's format ("": not given).  @block: the first
 * @bytes of the image; it is not changed.  Does not block.
 * Return: whether the block begins a qcow2 image that names a base.
 */
bool header_base(unsigned char *block, size_t bytes, char name[HEADER_NAME_BYTES],
		 char format[HEADER_FORMAT_BYTES]);

#endif
