/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kvm/vmm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct own own[SLOTS];
int memory_fd = -1;
unsigned char *memory;
uint64_t vmm_manual;
static unsigned long long seed;

uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

int ask(unsigned long request, void *argument)
{
	int rc, kept;

	if (rnd() % 2)
		request = (unsigned long)(int)request;
	cr_assert(gw_kvm_wants(request));
	vmm_asks = (uint32_t)request != UFFDIO_REGISTER;
	rc = gw_kvm_ioctl(VM, request, argument, play);
	kept = errno;
	vmm_asks = false;
	errno = kept;
	return rc;
}

static void expect_all(struct own *slot)
{
	memset(slot->expected, 0, sizeof(slot->expected));
	for (unsigned p = 0; p < slot->pages && vmm_manual & KVM_DIRTY_LOG_INITIALLY_SET; p++)
		slot->expected[p / 64] |= 1ULL << p % 64;
}

void set_slot(unsigned id, bool logs)
{
	struct own *slot = &own[id];
	struct kvm_userspace_memory_region region = {
		.slot = id,
		.flags = (logs ? KVM_MEM_LOG_DIRTY_PAGES : 0) |
			 (slot->read_only ? KVM_MEM_READONLY : 0),
		.guest_phys_addr = slot->gpa,
		.memory_size = (uint64_t)slot->pages * PAGE,
		.userspace_addr = (uintptr_t)memory + (uint64_t)slot->first * PAGE,
	};

	if (logs && !slot->logs)
		expect_all(slot);
	slot->logs = logs;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
}

void delete_slot(unsigned id)
{
	struct kvm_userspace_memory_region region = { .slot = id };

	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	own[id] = (struct own){ .pages = 0 };
}

/* A vCPU writes through the address that KVM has for the slot. */
static void vcpu_writes(unsigned id)
{
	unsigned p = (unsigned)(rnd() % own[id].pages);
	struct played *slot = &slots[id];

	if (own[id].read_only) { /* KVM passes the write to the VMM, which may do it */
		memory[(uint64_t)(own[id].first + p) * PAGE] ^= 1;
		return;
	}
	((unsigned char *)(uintptr_t)
		 slot->addr)[(uint64_t)p * PAGE + rnd() % PAGE] = (unsigned char)rnd();
	if (slot->flags & KVM_MEM_LOG_DIRTY_PAGES)
		slot->dirty[p / 64] |= 1ULL << p % 64;
	if (own[id].logs)
		own[id].expected[p / 64] |= 1ULL << p % 64;
}

void vmm_reads_log(unsigned id)
{
	uint64_t seen[WORDS] = { 0 };
	struct kvm_dirty_log get = { .slot = id, .dirty_bitmap = seen };
	struct own *slot = &own[id];

	if (!slot->logs) {
		cr_assert_eq(ask(KVM_GET_DIRTY_LOG, &get), -1);
		cr_assert_eq(errno, ENOENT);
		return;
	}
	cr_assert_eq(ask(KVM_GET_DIRTY_LOG, &get), 0);
	for (unsigned w = 0; w < (slot->pages + 63) / 64; w++)
		cr_assert_eq(seen[w], slot->expected[w],
			     "the VMM's log of slot %u, word %u: %lx, not %lx", id, w, seen[w],
			     slot->expected[w]);
	if (!vmm_manual)
		memset(slot->expected, 0, sizeof(slot->expected));
}

static void vmm_clears_log(unsigned id)
{
	struct own *slot = &own[id];
	unsigned words = (slot->pages + 63) / 64, first = (unsigned)(rnd() % words),
		 count = 1 + (unsigned)(rnd() % (words - first));
	uint64_t mask[WORDS];
	struct kvm_clear_dirty_log clear = {
		.slot = id, .first_page = first * 64, .num_pages = count * 64, .dirty_bitmap = mask
	};

	if (first + count == words)
		clear.num_pages = slot->pages - first * 64;
	for (unsigned w = 0; w < count; w++)
		mask[w] = slot->expected[first + w] & rnd(); /* of the bits it has seen */
	if (!slot->logs)
		return;
	cr_assert_eq(ask(KVM_CLEAR_DIRTY_LOG, &clear), 0);
	for (unsigned w = 0; w < count; w++)
		slot->expected[first + w] &= ~mask[w];
}

void vmm_does_something(bool writing)
{
	unsigned id = (unsigned)(rnd() % SLOTS);

	if (own[id].pages == 0) {
		if (rnd() % 4 == 0) {
			own[id].first = (unsigned)(rnd() % (PAGES - 1));
			own[id].pages = 1 + (unsigned)(rnd() % (PAGES - own[id].first));
			own[id].read_only = rnd() % 8 == 0;
			own[id].gpa = (uint64_t)id << 32;
			set_slot(id, rnd() % 4 == 0);
		}
		return;
	}
	switch (rnd() % 16) {
	case 0:
		vmm_reads_log(id);
		break;
	case 1:
		if (vmm_manual) {
			vmm_reads_log(id);
			vmm_clears_log(id);
		}
		break;
	case 2:
		if (rnd() % 4 == 0)
			delete_slot(id);
		break;
	case 3:
		if (rnd() % 2 == 0)
			set_slot(id, !own[id].logs);
		break;
	case 6: /* moved; to resize a slot the VMM deletes it and makes a new one */
		own[id].gpa += PAGE;
		set_slot(id, own[id].logs);
		break;
	case 4:
	case 5:
		if (writing)
			memory[rnd() % (PAGES * PAGE)] = (unsigned char)rnd();
		break;
	default:
		if (writing)
			vcpu_writes(id);
	}
}

struct gw_wp_segment segment, watched[SLOTS + 1];
unsigned watched_count;
struct gw_bitmap shared, dirty;

void watch(void)
{
	watched[0] = segment;
	watched_count = 1;
	for (unsigned id = 0; id < SLOTS; id++)
		if (own[id].pages && slots[id].addr != (uintptr_t)memory + own[id].first * PAGE &&
		    !gw_kvm_is_logged(slots[id].addr))
			watched[watched_count++] = (struct gw_wp_segment){
				.addr = slots[id].addr,
				.bytes = own[id].pages * PAGE,
				.first_page = own[id].first
			};
	gw_kvm_watch(watched, watched_count);
}

void begin(unsigned long long number, bool kvm_has_manual, uint64_t vmm_chooses)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				      .args = { vmm_chooses } };
	struct gw_wp_async *wp;
	int fd = memfd_create("kvm", MFD_CLOEXEC);

	seed = number * 0x9E3779B97F4A7C15ULL + 1;
	gw_kvm_park_by(play_park, play_unpark);
	has_manual = kvm_has_manual;
	vmm_manual = vmm_chooses;
	if (has_manual)
		cr_assert_eq(ask(KVM_ENABLE_CAP, &cap), 0);
	cr_assert(fd >= 0 && ftruncate(fd, PAGES * PAGE) == 0);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(memory, MAP_FAILED);
	close(memory_fd);
	memory_fd = fd;
	segment = (struct gw_wp_segment){ .addr = (uintptr_t)memory, .bytes = PAGES * PAGE };
	cr_assert_eq(gw_bitmap_new(&shared, PAGES), 0);
	cr_assert_eq(gw_bitmap_new(&dirty, PAGES), 0);
	if (gw_wp_async_open(&wp, &segment, 1, NULL) < 0)
		cr_skip_test("no WP_ASYNC here");
	gw_wp_async_close(wp);
}

void end(void)
{
	for (unsigned id = 0; id < SLOTS; id++)
		if (own[id].pages)
			delete_slot(id);
	munmap(memory, PAGES * PAGE);
	gw_bitmap_free(&shared);
	gw_bitmap_free(&dirty);
}
