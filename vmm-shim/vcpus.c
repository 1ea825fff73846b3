/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A thread says where it is in a variable of its own: in KVM_RUN, or between two of them.  It enters a list when it first runs a
 * virtual processor, and leaves the list when it ends.
 *
 * A vCPU thread may sleep only in KVM_RUN, where the VMM holds no lock.  A signal ends KVM_RUN, and its handler sleeps.  A thread
 * that is signalled elsewhere sleeps before its next KVM_RUN.  A thread that interprets or translates the guest has no such
 * place.  Once marked, it sleeps where the signal finds it, for a few milliseconds.
 *
 * Parking: the flag is set, then each thread that is in KVM_RUN is signalled until none is.  A thread says that it enters before
 * it reads the flag, and the parker sets the flag before it reads where threads are.  The barrier between the two is the parker's
 * alone (membarrier(2)), so that KVM_RUN costs two stores and two loads.
 *
 * QEMU blocks all signals in its threads, so pthread_sigmask() and sigprocmask() are interposed and leave this one out (hooks.c).
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
#define SLICE_NS (2 * GW_NS_PER_MS) /* a thread that stands hears so soon that it may run */
#define PARK_NS (200 * GW_NS_PER_MS)
#define LOOK_NS (50 * 1000ULL)
#define LOOKS_A_SIGNAL 20 /* a thread is signalled anew every so many looks */

enum place { ELSEWHERE, BETWEEN, IN_KVM, PARKED };

struct vcpu {
	int id;
	_Atomic enum place place;
	_Atomic int tag;  /* which vcpus_tag() reached this thread last */
	struct vcpu *next;
	bool listed;
};

static struct {
	bool ready, can_park;
	_Atomic uint32_t parked; /* a futex */
	_Atomic uint64_t stand_until_ns;
	_Atomic int tags;
	pthread_mutex_t lock; /* guards the list */
	struct vcpu *list;
	pthread_key_t key; /* its destructor takes a thread off the list */
} vcpus = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread struct vcpu self __attribute__((tls_model("initial-exec")));

/* Sleeps a little if it is to stand.  Return: whether it was.  Async-signal-safe. */
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

/* The same for as long as it is to stand or all are parked, in the midst of KVM_RUN or right before.  Async-signal-safe. */
static void rest(void)
{
	bool rested;

	do {
		atomic_store(&self.place, PARKED);
		rested = stand();
		if (atomic_load(&vcpus.parked)) {
			(void)syscall(SYS_futex, &vcpus.parked, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
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
	atomic_signal_fence(memory_order_seq_cst); /* vcpus_park() has the processor's */
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
 * The child has one thread, and none that runs a virtual processor yet.  The lock is made anew: it is not taken before a fork, since
 * vcpus_park() takes it under a lock of its caller's, which forks take too.
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
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_RESTART | SA_SIGINFO }, was;

	if (real(SIGNAL, NULL, &was) < 0 || was.sa_handler != SIG_DFL)
		return -EBUSY;
	if (pthread_key_create(&vcpus.key, unlist) != 0)
		return -EAGAIN;
	sigemptyset(&action.sa_mask);
	if (real(SIGNAL, &action, NULL) < 0)
		return -errno;
	vcpus.can_park = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
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

/* Whether any thread is in KVM_RUN; each such is signalled when @tell. */
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
	(void)send(id, 0); /* one that has ended needs none */
}
