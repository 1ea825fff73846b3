/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A thread keeps its place in a variable of its own: in KVM_RUN, or between two of them.  A thread
 * enters a list before its first KVM_RUN, and leaves the list when it ends.
 *
 * A vCPU thread may sleep only in KVM_RUN, where the VMM holds no lock.  A signal ends KVM_RUN, and
 * the signal's handler sleeps.  A thread that is signalled elsewhere sleeps before its next
 * KVM_RUN.  A thread that interprets or translates the guest has no such place.  Once tagged, it
 * sleeps where the signal finds it, for a few milliseconds.
 *
 * Parking: the flag is set, then each thread in KVM_RUN is signalled until none is there.  A thread
 * stores its place before it reads the flag.  The parker sets the flag before it reads the places.
 * The barrier between the two is the parker's alone (membarrier(2)), so that KVM_RUN costs two
 * stores and two loads.
 *
 * QEMU blocks all signals in its threads, so pthread_sigmask() and sigprocmask() are interposed and
 * leave this signal out (hook_signals.c).
 */
#include "vmm-shim/vcpus.h"

#include "base/clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIGNAL (SIGRTMAX - 6)
/* longest sleep, after which a thread looks whether it may run */
#define SLICE_NS (2 * GW_NS_PER_MS)
#define PARK_NS (200 * GW_NS_PER_MS)
#define LOOK_NS (50 * 1000ULL)
#define LOOKS_A_SIGNAL 20 /* a thread is signalled again every so many looks */

enum place { ELSEWHERE, BETWEEN, IN_KVM, PARKED };

struct vcpu {
	int id;
	_Atomic enum place place;
	_Atomic int tag; /* the last tag that reached this thread */
	struct vcpu *next;
	bool listed;
};

static struct {
	bool ready, can_park;
	_Atomic uint32_t parked; /* 0 or 1; a futex */
	_Atomic uint64_t stand_until_ns;
	_Atomic int tags;
	pthread_mutex_t lock; /* guards the list */
	struct vcpu *list;
	pthread_key_t key; /* its destructor removes a thread from the list */
} vcpus = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread struct vcpu self __attribute__((tls_model("initial-exec")));

/*
 * Sleeps for SLICE_NS at most, if the guest is to stand now.  Return: whether it slept.
 * Async-signal-safe.
 */
static bool stand(void)
{
	uint64_t now = gw_now_ns(&gw_clock_real), until = atomic_load(&vcpus.stand_until_ns);
	struct timespec slice = { .tv_nsec = (long)SLICE_NS };

	if (now >= until)
		return false;
	if (until - now < SLICE_NS)
		slice.tv_nsec = (long)(until - now);
	(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &slice, NULL);
	return true;
}

/*
 * Sleeps until the guest may run and is not parked, in KVM_RUN or right before it.
 * Async-signal-safe.
 */
static void rest(void)
{
	bool rested;

	do {
		atomic_store(&self.place, PARKED);
		rested = stand();
		if (atomic_load(&vcpus.parked)) {
			(void)syscall(SYS_futex, &vcpus.parked, FUTEX_WAIT_PRIVATE, 1, NULL, NULL,
				      0);
			rested = true;
		}
		atomic_store(&self.place, IN_KVM);
	} while (rested || atomic_load(&vcpus.parked));
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	enum place place = atomic_load_explicit(&self.place, memory_order_relaxed);
	int kept = errno;

	(void)number;
	(void)context;
	if (info->si_code == SI_QUEUE && info->si_value.sival_int)
		atomic_store(&self.tag, info->si_value.sival_int);
	else if (place == IN_KVM)
		rest();
	else if (place == ELSEWHERE && atomic_load(&self.tag) == atomic_load(&vcpus.tags))
		while (stand())
			;
	errno = kept;
}

static void unlist(void *thread)
{
	pthread_mutex_lock(&vcpus.lock);
	for (struct vcpu **at = &vcpus.list; *at; at = &(*at)->next)
		if (*at == thread) {
			*at = (*at)->next;
			break;
		}
	pthread_mutex_unlock(&vcpus.lock);
}

static void list(void)
{
	self.id = (int)syscall(SYS_gettid);
	self.listed = true;
	pthread_mutex_lock(&vcpus.lock);
	self.next = vcpus.list;
	vcpus.list = &self;
	pthread_mutex_unlock(&vcpus.lock);
	(void)pthread_setspecific(vcpus.key, &self);
}

void vcpus_enter(void)
{
	if (!self.listed && vcpus.ready)
		list();
	atomic_store_explicit(&self.place, IN_KVM, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst); /* the processor's fence is in vcpus_park() */
	if (atomic_load_explicit(&vcpus.parked, memory_order_relaxed) ||
	    atomic_load_explicit(&vcpus.stand_until_ns, memory_order_relaxed))
		rest();
}

void vcpus_leave(void)
{
	atomic_store_explicit(&self.place, BETWEEN, memory_order_release);
}

int vcpus_signal(void)
{
	return vcpus.ready ? SIGNAL : 0;
}

/*
 * A fork's child has one thread, which has run no vCPU yet.  The lock is initialised anew, since
 * forks do not take it: vcpus_park() takes it under a lock of its caller's, which forks take too.
 */
static void forget_threads(void)
{
	vcpus.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	vcpus.list = NULL;
	self.listed = false;
	atomic_store(&vcpus.parked, 0);
	atomic_store(&vcpus.stand_until_ns, 0);
}

int vcpus_init(int (*real)(int number, const struct sigaction *action, struct sigaction *old))
{
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_RESTART | SA_SIGINFO };
	struct sigaction was;
	int rc;

	if (real(SIGNAL, NULL, &was) < 0 || was.sa_handler != SIG_DFL)
		return -EBUSY;
	if (pthread_key_create(&vcpus.key, unlist) != 0)
		return -EAGAIN;
	sigemptyset(&action.sa_mask);
	if (real(SIGNAL, &action, NULL) < 0)
		return -errno;
	rc = (int)syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	vcpus.can_park = rc == 0;
	(void)pthread_atfork(NULL, NULL, forget_threads);
	vcpus.ready = true;
	return 0;
}

static int send(int id, int tag)
{
	siginfo_t info = { .si_signo = SIGNAL, .si_code = SI_QUEUE };

	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_int = tag;
	return syscall(SYS_rt_tgsigqueueinfo, getpid(), id, SIGNAL, &info) < 0 ? -errno : 0;
}

/* Whether any thread is in KVM_RUN.  With @tell each such thread is signalled. */
static bool is_any_inside(bool tell)
{
	bool any = false;

	pthread_mutex_lock(&vcpus.lock);
	for (struct vcpu *vcpu = vcpus.list; vcpu; vcpu = vcpu->next)
		if (atomic_load(&vcpu->place) == IN_KVM) {
			any = true;
			if (tell)
				(void)send(vcpu->id, 0);
		}
	pthread_mutex_unlock(&vcpus.lock);
	return any;
}

int vcpus_park(void)
{
	uint64_t until_ns = gw_now_ns(&gw_clock_real) + PARK_NS;
	const struct timespec look = { .tv_nsec = (long)LOOK_NS };

	if (!vcpus.ready || !vcpus.can_park)
		return -EOPNOTSUPP;
	atomic_store(&vcpus.parked, 1);
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) < 0) {
		vcpus_unpark();
		return -EOPNOTSUPP;
	}
	for (unsigned looks = 0; is_any_inside(looks % LOOKS_A_SIGNAL == 0); looks++) {
		if (gw_now_ns(&gw_clock_real) >= until_ns) {
			vcpus_unpark();
			return -ETIMEDOUT;
		}
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &look, NULL);
	}
	return 0;
}

void vcpus_unpark(void)
{
	atomic_store(&vcpus.parked, 0);
	(void)syscall(SYS_futex, &vcpus.parked, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void vcpus_stand_until(uint64_t ns)
{
	atomic_store(&vcpus.stand_until_ns, ns);
}

int vcpus_tag(int id)
{
	return send(id, atomic_load(&vcpus.tags));
}

void vcpus_forget_tags(void)
{
	if (atomic_fetch_add(&vcpus.tags, 1) == INT32_MAX - 1)
		atomic_store(&vcpus.tags, 1);
}

void vcpus_tell(int id)
{
	(void)send(id, 0); /* fails for a thread that has ended */
}
