/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The dynamic linker finds these functions before those of libc, libaio and liburing, to which each passes its
 * call on.  A write that a call does is reported when the call has returned, well or badly, since part of it may
 * have been done (tracker/blocks.h says why after); writes that a call only submits are noted before.  While no
 * migration watches disks, a synchronous hook costs two loads and a jump.  Writers that are to be slowed wait here,
 * before their write.  Calls to KVM about its memory slots and its log go through tracker/kvm.h.  Memory that is given back is
 * reported as if it had been written to.
 *
 * errno and return values are those of the real function.  The functions are declared here and not taken from
 * the headers of libaio and liburing: nothing of theirs is needed but the names.
 */
#include "vmm-shim/hooks.h"

#include "vmm-shim/hook.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>

/* Stands in for a function that no library has: returns an error, where a call through a null pointer would end the VMM. */
static int missing(void)
{
	errno = ENOSYS;
	return -ENOSYS;
}

/* A VMM's module may have brought the library along for itself alone: then RTLD_NEXT does not find it. */
void *hooks_find_real(const char *name)
{
	static const char *const libraries[] = { "liburing.so.2", "libaio.so.1", "libaio.so.1t64" };
	void *found = dlsym(RTLD_NEXT, name);

	for (size_t i = 0; !found && i < sizeof(libraries) / sizeof(libraries[0]); i++) {
		void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);

		found = library ? dlsym(library, name) : NULL;
	}
	return found ? found : (void *)(uintptr_t)missing;
}

_Atomic bool hooks_enabled;
__thread bool hooks_own_thread; /* no thread of the VMM's */

void hooks_enable(void)
{
	atomic_store(&hooks_enabled, true);
}

void hooks_leave_alone(void)
{
	hooks_own_thread = true;
}
