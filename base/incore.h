/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GODWIT_BASE_INCORE_H
#define GODWIT_BASE_INCORE_H

#include <stdbool.h>

/*
 * Whether mincore(2) tells this process which pages of the file are in memory.  Since Linux 5.2 it tells only those who own the file
 * or may open it for writing (whatever they did: it asks who they are now), and says of every page that it is there to others.
 */
bool gw_incore_is_told(int fd);

#endif
