/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into godwit.  Its clock is an hour ahead once the file $LATE_IF exists. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
	const char *only_if = getenv("LATE_IF");
	int rc = (int)syscall(SYS_clock_gettime, clock, now);

	if (rc == 0 && only_if && access(only_if, F_OK) == 0)
		now->tv_sec += 3600;
	return rc;
}
