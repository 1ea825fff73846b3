/* SPDX-License-Identifier: Apache-2.0 */
/* Whether mincore(2) can be trusted for a file. */
#ifndef GODWIT_BASE_INCORE_H
#define GODWIT_BASE_INCORE_H

#include <stdbool.h>

/*
 * Whether mincore(2) tells this process which pages of the file are in memory.  Since Linux 5.2 it
 * tells only a process that owns the file or may open it for writing.  To others it reports every
 * page as resident.  The kernel checks the present credentials, not how @fd was opened.  Any
 * thread.  Does not block on a local file system.
 */
bool gw_incore_is_told(int fd);

#endif
