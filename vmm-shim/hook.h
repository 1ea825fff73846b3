/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the files that interpose functions (hook_*.c): declares a hook, and finds the real function.
 * Internal to vmm-shim.
 */
#ifndef GODWIT_SHIM_HOOK_H
#define GODWIT_SHIM_HOOK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))
/*
 * The same function under its second name, for offsets of 64 bits.  off_t has 64 bits here, so both
 * are one.
 */
#define ALSO(name) __attribute__((visibility("default"), alias(#name)))

/* The real function of this name, looked up once.  Threads that race all store the same value. */
#define REAL(name)                                                                             \
	({                                                                                     \
		static __typeof__(&(name)) real_function;                                      \
		__typeof__(&(name)) found = __atomic_load_n(&real_function, __ATOMIC_RELAXED); \
		if (!found) {                                                                  \
			found = (__typeof__(&(name)))hooks_find_real(#name);                   \
			__atomic_store_n(&real_function, found, __ATOMIC_RELAXED);             \
		}                                                                              \
		found;                                                                         \
	})

/*
 * Finds the real function @name.  Return: its address; for a missing function the address of one
 * that fails with ENOSYS.
 */
void *hooks_find_real(const char *name);

/* spares the read through the global offset table */
#define HIDDEN __attribute__((visibility("hidden")))

extern HIDDEN _Atomic bool hooks_enabled;     /* set by hooks_enable() */
extern HIDDEN __thread bool hooks_own_thread; /* set by hooks_leave_alone() */

static inline bool hooks_are_enabled(void)
{
	return atomic_load_explicit(&hooks_enabled, memory_order_relaxed);
}

#endif
