/* SPDX-License-Identifier: Apache-2.0 */
/* Run folders, starting a VMM, and the host's abilities.  A part of vmm.h, whose rules apply. */
#ifndef GODWIT_VMM_VMM_RUN_H
#define GODWIT_VMM_VMM_RUN_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* --- run folders ------------------------------------------------------------------------------ */

#define GW_VMM_GUEST_BYTES 256 /* the name of a VM, with its NUL */
#define GW_VMM_SHORT_BYTES 32

/*
 * Checks a VM's name: 1 to 255 bytes of UTF-8, without '/' and control characters.  Those of
 * Unicode that end a line or change the direction of text are refused too.  Return: 0, or -EINVAL
 * with @error set.
 */
GW_MUST_CHECK int gw_vmm_check_name(const char *name, struct gw_error *error);

/*
 * The folder of all run folders: $GODWIT_RUN_DIR, or /run/godwit for root, or
 * $XDG_RUNTIME_DIR/godwit, or /tmp/godwit-UID.  Return: a static string, which each call writes
 * anew; one thread.
 */
const char *gw_vmm_run_root(void);

/*
 * Writes the short name that stands for @name: letters, digits, '.', '_', '-', at most 31 bytes.
 * It is @name itself if that fits this form and does not begin with '.' or '-'.  Otherwise it has a
 * '~' and a hash.
 */
void gw_vmm_short_name(const char *name, char text[GW_VMM_SHORT_BYTES]);

/* Finds the name of the VM of run folder @folder, a short name.  Return: 0 or -errno. */
GW_MUST_CHECK int gw_vmm_name_of(const char *folder, char name[GW_VMM_GUEST_BYTES]);

/* Writes "ROOT/SHORT_NAME/FILE", or "ROOT/SHORT_NAME" with @file NULL; 192 bytes are enough. */
void gw_vmm_path(char *path, size_t path_bytes, const char *name, const char *file);

/*
 * Whether a VMM runs under that name, by the lock of its run folder (rundir.c).  Waits up to a
 * second for the agent of a VMM of an early version.  Return: 1, 0 or -errno.
 */
GW_MUST_CHECK int gw_vmm_is_alive(const char *name);

/*
 * As gw_vmm_is_alive(), with the reason as text.
 * Return: 0 when a VMM runs; or with @error set -EINVAL for the name, -ENOENT, -EACCES for another
 * user's VM, or another -errno.
 */
GW_MUST_CHECK int gw_vmm_find(const char *name, struct gw_error *error);

/* --- starting --------------------------------------------------------------------------------- */

/*
 * Judges the words about RAM on a VMM's command line.
 * Return: 0, and @advice is empty; or -EINVAL with @error set, and @advice names the words to add
 * or change.
 */
GW_MUST_CHECK int gw_vmm_check_ram_args(int argc, char **argv, char *advice, size_t advice_bytes,
					struct gw_error *error);

/*
 * Judges a whole command line, as gw_vmm_check_ram_args() does.  Options in a file (-readconfig)
 * are refused.
 */
GW_MUST_CHECK int gw_vmm_check_args(int argc, char **argv, char *advice, size_t advice_bytes,
				    struct gw_error *error);

/*
 * Makes the run folder of @name and takes its lock.  The name is taken while the lock is held.
 * Waits up to 5 s for a process that looks at the folder.
 * Return: the lock's descriptor, which the caller owns and executed programs inherit; -EEXIST when
 * a VMM of that name runs; or another -errno.  @error is set on failure.
 */
GW_MUST_CHECK int gw_vmm_claim(const char *name, struct gw_error *error);

/*
 * With -incoming on the command line, creates missing raw and qcow2 images, empty, and names each
 * on standard error.  Call gw_vmm_claim() before.  Waits for qemu-img.
 * Return: 0, also without a missing image; or -errno with @error set, as for a missing folder,
 * another format, or an image that a VMM uses or a godwit receives into.
 */
GW_MUST_CHECK int gw_vmm_make_images(int argc, char **argv, struct gw_error *error);

/* Whether LD_PRELOAD can hold path @shim.  Return: 0, or -EINVAL with the remedy in @error. */
GW_MUST_CHECK int gw_vmm_check_shim(const char *shim, struct gw_error *error);

/* How the observer treats a VMM that cannot be moved. */
enum gw_vmm_strict {
	GW_VMM_LENIENT,      /* the VMM runs on */
	GW_VMM_STRICT,       /* the VMM is killed */
	GW_VMM_STRICT_START, /* the VMM is killed; if it can be moved, its guest is started */
};

/*
 * Forks an observer of the VMM that this process is about to become.  The observer judges the VMM
 * once it answers, and writes one line to standard error if the VMM cannot be moved.  It is no
 * child of this process, and ends after its judgement or with the VMM.  With GW_VMM_LENIENT it also
 * ends after a minute without an answer, and its line says that the VMM was not judged.  Call
 * gw_vmm_claim() before.  @advice: the remedy if the reason is RAM; "": none.
 * Return: 0; or -ECHILD and no observer, for want of memory, or since orphans return to this
 * process.
 */
GW_MUST_CHECK int gw_vmm_observe(const char *name, const char *advice, enum gw_vmm_strict strict);

/*
 * Becomes the VMM: adds the QMP sockets to the command line, preloads @shim and executes.  Call
 * gw_vmm_claim() before.  @shim: path of the library, or NULL for none.  @no_alias: KVM maps the
 * guest's memory at the VMM's own addresses (tracker/kvm.h).  @stopped: the guest waits for "cont".
 * Returns only on failure: -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_exec(const char *name, int argc, char **argv, const char *shim,
			      bool no_alias, bool stopped, struct gw_error *error);

/* --- abilities of this host ------------------------------------------------------------------- */

/* Whether this process can use KVM.  Return: 0, or -errno with the remedy in @error. */
GW_MUST_CHECK int gw_vmm_probe_kvm(struct gw_error *error);

/*
 * Whether asynchronous write protection works on a test mapping.  Return: 0, or -errno with @error
 * set.
 */
GW_MUST_CHECK int gw_vmm_probe_wp_async(struct gw_error *error);

/*
 * Whether synchronous write protection works on a test mapping.  Return: 0, or -errno with @error
 * set.
 */
GW_MUST_CHECK int gw_vmm_probe_wp_sync(struct gw_error *error);

/*
 * Whether KVM's log can be cleared page by page.  Return: > 0; or -errno with the consequence in
 * @error.
 */
GW_MUST_CHECK int gw_vmm_probe_kvm_log(struct gw_error *error);

#endif
