/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a VMM that must learn of a broken page when its guest accesses the page, and not
 * as soon as the kernel knows.
 */
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int prctl(int option, ...)
{
	unsigned long arguments[4];
	va_list list;

	if (option == PR_MCE_KILL)
		return 0;
	va_start(list, option);
	for (int i = 0; i < 4; i++)
		arguments[i] = va_arg(list, unsigned long);
	va_end(list);
	return (int)syscall(SYS_prctl, option, arguments[0], arguments[1], arguments[2],
			    arguments[3]);
}
