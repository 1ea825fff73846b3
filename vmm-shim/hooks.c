/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The dynamic linker finds these functions before those of libc, libaio and liburing.  Each passes
 * its call on to the real one.  A synchronous write is reported after the call returns, even when
 * it failed, since a part may have been written (tracker/blocks.h explains why after).  A write
 * that a call only submits is noted before the call.  While no migration watches disks, a
 * synchronous hook costs two loads and a jump.  Writers that godwit slows wait here, before their
 * write.  KVM calls about memory slots and the dirty log go through tracker/kvm.h.  Memory that the
 * VMM frees in its file is reported like written memory.
 *
 * errno and return values are those of the real function.  The hooks declare the functions of
 * libaio and liburing themselves, without those libraries' headers: only the names are needed.
 *
 * The files: hook_files.c (read and write), hook_ioctl.c (ioctl, munmap, madvise), hook_rings.c
 * (libaio, liburing), hook_signals.c.
 */
#include "vmm-shim/hooks.h"

#include "vmm-shim/hook.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>

/*
 * Replaces a function that no library has.  Returns an error, where a call through a null pointer
 * would end the VMM.
 */
static int missing(void)
{
	errno = ENOSYS;
	return -ENOSYS;
}

/*
 * A module of the VMM may have loaded the library for itself alone: then RTLD_NEXT does not find
 * the function.
 */
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
__thread bool hooks_own_thread;

void hooks_enable(void)
{
	atomic_store(&hooks_enabled, true);
}

void hooks_leave_alone(void)
{
	hooks_own_thread = true;
}
