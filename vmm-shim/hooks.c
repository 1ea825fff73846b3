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

#include "tracker/blocks.h"
#include "tracker/inflight.h"
#include "tracker/kvm.h"
#include "tracker/pace.h"
#include "tracker/reads.h"
#include "vmm-shim/sigbus.h"
#include "vmm-shim/vcpus.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <pthread.h>
#include <scsi/scsi_ioctl.h>
#include <scsi/sg.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512u
#define NVME_TYPE 'N' /* of all ioctls in linux/nvme_ioctl.h */
#define EXPORT __attribute__((visibility("default")))
/* The same function under its other name, for offsets of 64 bits; here they are one. */
#define ALSO(name) __attribute__((visibility("default"), alias(#name)))

/* Stands in for a function that no library has: returns an error, where a call through a null pointer would end the VMM. */
static int missing(void)
{
	errno = ENOSYS;
	return -ENOSYS;
}

/* The real function of this name, looked up once: whoever comes first stores what all would. */
#define REAL(name)                                                                                                     \
	({                                                                                                             \
		static __typeof__(&name) real_function;                                                                \
		__typeof__(&name) found = __atomic_load_n(&real_function, __ATOMIC_RELAXED);                           \
		if (!found) {                                                                                          \
			found = (__typeof__(&name))find_real(#name);                                                   \
			__atomic_store_n(&real_function, found, __ATOMIC_RELAXED);                                     \
		}                                                                                                      \
		found;                                                                                                 \
	})

_Static_assert(sizeof(off_t) == 8, "offsets have 64 bits");

/* A VMM's module may have brought the library along for itself alone: then RTLD_NEXT does not find it. */
static void *find_real(const char *name)
{
	static const char *const libraries[] = { "liburing.so.2", "libaio.so.1", "libaio.so.1t64" };
	void *found = dlsym(RTLD_NEXT, name);

	for (size_t i = 0; !found && i < sizeof(libraries) / sizeof(libraries[0]); i++) {
		void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);

		found = library ? dlsym(library, name) : NULL;
	}
	return found ? found : (void *)(uintptr_t)missing;
}

static _Atomic bool enabled;
static __thread bool own_thread; /* no thread of the VMM's */

void hooks_enable(void)
{
	atomic_store(&enabled, true);
}

void hooks_leave_alone(void)
{
	own_thread = true;
}

/* --- writes ------------------------------------------------------------------------------------------------- */

static void wrote(int fd, off_t offset, size_t bytes)
{
	int kept = errno;

	if (offset >= 0)
		gw_blocks_wrote(fd, (uint64_t)offset, bytes);
	errno = kept;
}

/* What was written where the file's own position stood. */
static void wrote_here(int fd, ssize_t bytes)
{
	int kept = errno, file = bytes > 0 ? gw_blocks_find(fd) : -1;
	off_t end = file >= 0 ? lseek(fd, 0, SEEK_CUR) : -1;

	if (end >= bytes)
		gw_blocks_mark(file, (uint64_t)(end - bytes), (uint64_t)bytes);
	errno = kept;
}

/* Before a write that may have to wait (tracker/pace.h). */
static void will_write(int fd, off_t offset, size_t bytes)
{
	int kept = errno, file = offset >= 0 ? gw_blocks_find(fd) : -1;

	if (file >= 0) {
		gw_blocks_owe(file, (uint64_t)offset, bytes);
		gw_pace_pay();
	}
	errno = kept;
}

static size_t vector_bytes(const struct iovec *vector, int count)
{
	size_t bytes = 0;

	for (int i = 0; i < count; i++)
		bytes += vector[i].iov_len;
	return bytes;
}

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
	ssize_t rc;

	if (gw_pace_is_on())
		will_write(fd, offset, bytes);
	rc = REAL(pwrite)(fd, buffer, bytes, offset);
	if (gw_blocks_watching())
		wrote(fd, offset, bytes);
	return rc;
}
ALSO(pwrite) ssize_t pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset);

EXPORT ssize_t pwritev(int fd, const struct iovec *vector, int count, off_t offset)
{
	ssize_t rc;

	if (gw_pace_is_on())
		will_write(fd, offset, vector_bytes(vector, count));
	rc = REAL(pwritev)(fd, vector, count, offset);
	if (gw_blocks_watching())
		wrote(fd, offset, vector_bytes(vector, count));
	return rc;
}
ALSO(pwritev) ssize_t pwritev64(int fd, const struct iovec *vector, int count, off64_t offset);

EXPORT ssize_t pwritev2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
	ssize_t rc;

	if (gw_pace_is_on())
		will_write(fd, offset, vector_bytes(vector, count));
	rc = REAL(pwritev2)(fd, vector, count, offset, flags);
	if (gw_blocks_watching() && offset >= 0)
		wrote(fd, offset, vector_bytes(vector, count));
	else if (gw_blocks_watching())
		wrote_here(fd, rc);
	return rc;
}
ALSO(pwritev2) ssize_t pwritev64v2(int fd, const struct iovec *vector, int count, off64_t offset, int flags);

EXPORT ssize_t write(int fd, const void *buffer, size_t bytes)
{
	ssize_t rc = REAL(write)(fd, buffer, bytes);

	if (gw_blocks_watching())
		wrote_here(fd, rc);
	return rc;
}

EXPORT ssize_t writev(int fd, const struct iovec *vector, int count)
{
	ssize_t rc = REAL(writev)(fd, vector, count);

	if (gw_blocks_watching())
		wrote_here(fd, rc);
	return rc;
}

/* Memory that was given back. */
static void discarded(int fd, off_t offset, off_t bytes)
{
	int kept = errno;

	if (offset >= 0 && bytes >= 0)
		gw_reads_discarded(fd, (uint64_t)offset, (uint64_t)bytes);
	errno = kept;
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	int rc = REAL(fallocate)(fd, mode, offset, bytes);

	if (gw_reads_watching() && mode & ~FALLOC_FL_KEEP_SIZE)
		discarded(fd, offset, bytes);
	/* These two move what stands behind; a VMM has no use for them, but nobody is to find out by losing bytes. */
	if (gw_blocks_watching())
		wrote(fd, offset, mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) ? SIZE_MAX : (size_t)bytes);
	return rc;
}
ALSO(fallocate) int fallocate64(int fd, int mode, off64_t offset, off64_t bytes);

EXPORT int ftruncate(int fd, off_t bytes)
{
	bool watching = gw_blocks_watching();
	struct stat st = { 0 };
	int rc;

	if (watching && fstat(fd, &st) < 0)
		st.st_size = 0;
	rc = REAL(ftruncate)(fd, bytes);
	if (bytes < st.st_size) /* should it grow again, it has zeros there */
		wrote(fd, bytes, (size_t)(st.st_size - bytes));
	return rc;
}
ALSO(ftruncate) int ftruncate64(int fd, off64_t bytes);

EXPORT ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t bytes,
			       unsigned int flags)
{
	off64_t offset = to_offset ? *to_offset : -1;
	ssize_t rc = REAL(copy_file_range)(from, from_offset, to, to_offset, bytes, flags);

	if (gw_blocks_watching() && to_offset)
		wrote(to, offset, bytes);
	else if (gw_blocks_watching())
		wrote_here(to, rc);
	return rc;
}

/* --- reads -------------------------------------------------------------------------------------------------- */

static void have_read(const struct iovec *vector, int count)
{
	for (int i = 0; i < count && count <= IOV_MAX; i++)
		gw_reads_mark((uintptr_t)vector[i].iov_base, vector[i].iov_len);
}

EXPORT ssize_t read(int fd, void *buffer, size_t bytes)
{
	ssize_t rc = REAL(read)(fd, buffer, bytes);

	if (gw_reads_watching())
		gw_reads_mark((uintptr_t)buffer, bytes);
	return rc;
}

EXPORT ssize_t readv(int fd, const struct iovec *vector, int count)
{
	ssize_t rc = REAL(readv)(fd, vector, count);

	if (gw_reads_watching())
		have_read(vector, count);
	return rc;
}

EXPORT ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
	ssize_t rc = REAL(pread)(fd, buffer, bytes, offset);

	if (gw_reads_watching())
		gw_reads_mark((uintptr_t)buffer, bytes);
	return rc;
}
ALSO(pread) ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset);

EXPORT ssize_t preadv(int fd, const struct iovec *vector, int count, off_t offset)
{
	ssize_t rc = REAL(preadv)(fd, vector, count, offset);

	if (gw_reads_watching())
		have_read(vector, count);
	return rc;
}
ALSO(preadv) ssize_t preadv64(int fd, const struct iovec *vector, int count, off64_t offset);

EXPORT ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
	ssize_t rc = REAL(preadv2)(fd, vector, count, offset, flags);

	if (gw_reads_watching())
		have_read(vector, count);
	return rc;
}
ALSO(preadv2) ssize_t preadv64v2(int fd, const struct iovec *vector, int count, off64_t offset, int flags);

/* SG_IO: the kernel lets the device write to the buffer itself. */
static void have_read_sg(const struct sg_io_hdr *header)
{
	if (header->interface_id != 'S' || header->dxfer_direction == SG_DXFER_TO_DEV ||
	    header->dxfer_direction == SG_DXFER_NONE)
		return;
	if (header->iovec_count)
		have_read(header->dxferp, header->iovec_count);
	else
		gw_reads_mark((uintptr_t)header->dxferp, header->dxfer_len);
}

/* --- ioctls that change a disk ------------------------------------------------------------------------------- */

/* XFS's own ways to allocate, free and zero a range, from before fallocate(). */
static bool is_xfs_space(unsigned long request)
{
	unsigned long number = _IOC_NR(request);

	return _IOC_TYPE(request) == 'X' && (number == 10 || number == 11 || number == 36 || number == 37 || number == 41 ||
					     number == 43 || number == 57);
}

/* A disk that is passed through: commands of the guest's, whatever they are; or states of zones, which no copy has. */
static bool is_command(unsigned long request)
{
	return is_xfs_space(request) || request == SG_IO || request == SCSI_IOCTL_SEND_COMMAND || _IOC_TYPE(request) == NVME_TYPE ||
	       request == BLKOPENZONE || request == BLKCLOSEZONE || request == BLKFINISHZONE;
}

static void changed(int fd, unsigned long request, const void *argument)
{
	const uint64_t *range = argument; /* first and length, of bytes or sectors */
	const struct file_clone_range *clone = argument;
	int kept = errno;

	if (request == BLKDISCARD || request == BLKZEROOUT || request == BLKSECDISCARD)
		wrote(fd, (off_t)range[0], range[1]);
	else if (request == BLKRESETZONE)
		wrote(fd, (off_t)(range[0] * SECTOR), range[1] * SECTOR);
	else if (request == FICLONE)
		wrote(fd, 0, SIZE_MAX);
	else if (request == FICLONERANGE) /* of length 0: to the end */
		wrote(fd, (off_t)clone->dest_offset, clone->src_length ? clone->src_length : SIZE_MAX);
	else if (is_command(request))
		gw_blocks_distrust(fd);
	errno = kept;
}

/* --- ioctl and memory --------------------------------------------------------------------------------------- */

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list list;
	int rc;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (request == KVM_RUN) { /* the one that counts */
		vcpus_enter();
		rc = REAL(ioctl)(fd, request, argument);
		vcpus_leave();
		return rc;
	}
	if (gw_kvm_wants(request) && !own_thread && atomic_load_explicit(&enabled, memory_order_relaxed))
		return gw_kvm_ioctl(fd, request, argument, REAL(ioctl));
	rc = REAL(ioctl)(fd, request, argument);
	if (gw_blocks_watching() && (rc >= 0 || errno != EFAULT)) /* then the argument can be read */
		changed(fd, request, argument);
	if (gw_reads_watching() && request == SG_IO && (rc >= 0 || errno != EFAULT))
		have_read_sg(argument);
	return rc;
}

EXPORT int munmap(void *addr, size_t bytes)
{
	int rc = REAL(munmap)(addr, bytes);

	if (rc == 0 && atomic_load_explicit(&enabled, memory_order_relaxed))
		gw_kvm_unmapped((uintptr_t)addr, bytes);
	return rc;
}

EXPORT int madvise(void *addr, size_t bytes, int advice)
{
	int rc = REAL(madvise)(addr, bytes, advice);

	if (gw_reads_watching() && advice == MADV_REMOVE)
		gw_reads_mark((uintptr_t)addr, bytes);
	return rc;
}

/* --- what is only submitted --------------------------------------------------------------------------------- */

int io_setup(int events, aio_context_t *context);
int io_queue_init(int events, aio_context_t *context);
int io_submit(aio_context_t context, long count, struct iocb **list);
int io_destroy(aio_context_t context);
int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, void *params);
int io_uring_queue_init_mem(unsigned entries, struct io_uring *ring, void *params, void *memory, size_t bytes);
int io_uring_queue_mmap(int fd, void *params, struct io_uring *ring);
int io_uring_submit(struct io_uring *ring);
int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait);
int io_uring_submit_and_get_events(struct io_uring *ring);
int io_uring_submit_and_wait_timeout(struct io_uring *ring, void *cqe, unsigned wait, void *timeout, void *mask);
void io_uring_queue_exit(struct io_uring *ring);

static void note_uring(const struct io_uring *ring)
{
	int kept = errno;

	if (atomic_load_explicit(&enabled, memory_order_relaxed))
		gw_inflight_uring(ring);
	if (gw_pace_is_on())
		gw_pace_pay();
	errno = kept;
}

/* A ring is known from its creation: an unknown ring was made without these hooks (vmm-shim/stock.c). */
static int made_uring(const struct io_uring *ring, int rc)
{
	if (rc >= 0 && atomic_load_explicit(&enabled, memory_order_relaxed))
		gw_inflight_new_uring(ring);
	return rc;
}

static int made_aio(const aio_context_t *context, int rc)
{
	if (rc >= 0 && atomic_load_explicit(&enabled, memory_order_relaxed))
		gw_inflight_new_aio(*context);
	return rc;
}

EXPORT int io_setup(int events, aio_context_t *context)
{
	return made_aio(context, REAL(io_setup)(events, context));
}

EXPORT int io_queue_init(int events, aio_context_t *context)
{
	return made_aio(context, REAL(io_queue_init)(events, context));
}

EXPORT int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	return made_uring(ring, REAL(io_uring_queue_init)(entries, ring, flags));
}

EXPORT int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, void *params)
{
	return made_uring(ring, REAL(io_uring_queue_init_params)(entries, ring, params));
}

EXPORT int io_uring_queue_init_mem(unsigned entries, struct io_uring *ring, void *params, void *memory, size_t bytes)
{
	return made_uring(ring, REAL(io_uring_queue_init_mem)(entries, ring, params, memory, bytes));
}

EXPORT int io_uring_queue_mmap(int fd, void *params, struct io_uring *ring)
{
	return made_uring(ring, REAL(io_uring_queue_mmap)(fd, params, ring));
}

/* A call that is noted, or counted together with those of other threads. */
static __attribute__((noinline)) int submit_shared(aio_context_t context, long count, struct iocb **list)
{
	struct gw_inflight_call call;
	int kept = errno, rc;

	call = gw_inflight_aio(context, count, list);
	if (gw_pace_is_on())
		gw_pace_pay();
	errno = kept;
	rc = REAL(io_submit)(context, count, list);
	kept = errno;
	gw_inflight_aio_submitted(&call, count, list, rc);
	errno = kept;
	return rc;
}

EXPORT int io_submit(aio_context_t context, long count, struct iocb **list)
{
	struct gw_inflight_lane *lane;
	int rc;

	if (!atomic_load_explicit(&enabled, memory_order_relaxed))
		return REAL(io_submit)(context, count, list);
	lane = gw_inflight_aio_unwatched(context, count, list);
	if (!lane)
		return submit_shared(context, count, list);
	rc = REAL(io_submit)(context, count, list);
	gw_inflight_lane_submitted(lane, rc);
	return rc;
}

EXPORT int io_destroy(aio_context_t context)
{
	gw_inflight_drop((const void *)(uintptr_t)context);
	return REAL(io_destroy)(context);
}

EXPORT int io_uring_submit(struct io_uring *ring)
{
	note_uring(ring);
	return REAL(io_uring_submit)(ring);
}

EXPORT int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
	note_uring(ring);
	return REAL(io_uring_submit_and_wait)(ring, wait);
}

EXPORT int io_uring_submit_and_get_events(struct io_uring *ring)
{
	note_uring(ring);
	return REAL(io_uring_submit_and_get_events)(ring);
}

EXPORT int io_uring_submit_and_wait_timeout(struct io_uring *ring, void *cqe, unsigned wait, void *timeout, void *mask)
{
	note_uring(ring);
	return REAL(io_uring_submit_and_wait_timeout)(ring, cqe, wait, timeout, mask);
}

EXPORT void io_uring_queue_exit(struct io_uring *ring)
{
	gw_inflight_drop(ring);
	REAL(io_uring_queue_exit)(ring);
}

/* --- signals --------------------------------------------------------------------------------- */

/* Leaves our signal out of what is to be blocked. */
static const sigset_t *without_ours(int how, const sigset_t *set, sigset_t *copy)
{
	int number = vcpus_signal();

	if (!set || how == SIG_UNBLOCK || !number)
		return set;
	*copy = *set;
	sigdelset(copy, number);
	return copy;
}

EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	if (number != SIGBUS || !atomic_load_explicit(&enabled, memory_order_relaxed))
		return REAL(sigaction)(number, action, old);
	return sigbus_action(action, old, REAL(sigaction));
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	sigset_t copy;

	return REAL(pthread_sigmask)(how, without_ours(how, set, &copy), old);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	sigset_t copy;

	return REAL(sigprocmask)(how, without_ours(how, set, &copy), old);
}
