/* SPDX-License-Identifier: Apache-2.0 */
/* For the files that interpose functions (hook_*.c): how a hook is declared, and how it calls the real function.  Internal to vmm-shim. */
#ifndef GODWIT_SHIM_HOOK_H
#define GODWIT_SHIM_HOOK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))
/* The same function under its other name, for offsets of 64 bits; here they are one. */
#define ALSO(name) __attribute__((visibility("default"), alias(#name)))

/* The real function of this name, looked up once: whoever comes first stores what all would. */
#define REAL(name)                                                                                                     \
	({                                                                                                             \
		static __typeof__(&name) real_function;                                                                \
		__typeof__(&name) found = __atomic_load_n(&real_function, __ATOMIC_RELAXED);                           \
		if (!found) {                                                                                          \
			found = (__typeof__(&name))hooks_find_real(#name);                                                   \
			__atomic_store_n(&real_function, found, __ATOMIC_RELAXED);                                     \
		}                                                                                                      \
		found;                                                                                                 \
	})

/* The address of a real function.  One that no library has is replaced by a function that fails with ENOSYS. */
void *hooks_find_real(const char *name);

#define HIDDEN __attribute__((visibility("hidden"))) /* so that a hook reads it without the global offset table */

extern HIDDEN _Atomic bool hooks_enabled;         /* hooks_enable() was called */
extern HIDDEN __thread bool hooks_own_thread; /* the calling thread is none of the VMM's: hooks_leave_alone() */

static inline bool hooks_are_enabled(void)
{
	return atomic_load_explicit(&hooks_enabled, memory_order_relaxed);
}

#endif
