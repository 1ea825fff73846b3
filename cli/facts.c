/* SPDX-License-Identifier: Apache-2.0 */
/* Gives the engine the facts that must be equal at both ends, as vmm describes them. */
#include "cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Whether the source moves the disk of device @front.  Then the receiver's disk takes the
 * properties of the source's disk.
 */
static bool moves(const struct cli_vm *vm, const char *front)
{
	for (unsigned i = 0; vm->is_source && vm->disks && i < vm->image_count; i++)
		if (strcmp(vm->images[i].front, front) == 0)
			return true;
	return false;
}

int cli_facts(void *context, const struct gw_fact **facts, unsigned *count, struct gw_error *error)
{
	struct cli_vm *vm = context;
	int rc;

	static_assert(GW_VMM_MAX_FACTS <= GW_FACTS_MAX &&
			      sizeof(vm->described->key) <= GW_FACT_KEY_BYTES &&
			      sizeof(vm->described->value) <= GW_FACT_VALUE_BYTES,
		      "what is described can be sent");

	if (!vm->described)
		vm->described = calloc(GW_VMM_MAX_FACTS, sizeof(*vm->described));
	if (!vm->facts)
		vm->facts = calloc(GW_VMM_MAX_FACTS, sizeof(*vm->facts));
	if (!vm->described || !vm->facts)
		return gw_error_set(error, -ENOMEM, "no memory to describe VM '%s'", vm->name);
	/* First, so that changes between the two looks are seen by later checks. */
	rc = vm->is_source && !vm->parts ? gw_vmm_note_parts(vm->vmm, &vm->parts, error) : 0;
	if (rc == 0)
		rc = gw_vmm_describe(vm->vmm, false, vm->described, GW_VMM_MAX_FACTS, error);
	if (rc < 0)
		return rc;
	*count = vm->fact_count = (unsigned)rc;
	for (unsigned i = 0; i < *count; i++) {
		const struct gw_vmm_fact *fact = &vm->described[i];
		bool free_choice = fact->moves_with_image && moves(vm, fact->front);

		vm->facts[i] = (struct gw_fact){ fact->key, free_choice ? "" : fact->value,
						 fact->advice, fact->spare };
	}
	*facts = vm->facts;
	return 0;
}

static const struct gw_vmm_fact *
fact_of(const struct gw_vmm_fact *list, unsigned count, const char *key)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(list[i].key, key) == 0)
			return &list[i];
	return NULL;
}

/* The key for messages: without the '?' before a list of properties (engine.h). */
static const char *name_of(const struct gw_vmm_fact *fact)
{
	return fact->key + (fact->key[0] == '?');
}

/* Compares two lists of facts, and names the first difference in @error.  Return: 0 or -EBUSY. */
static int compare(const struct gw_vmm_fact *then, unsigned then_count,
		   const struct gw_vmm_fact *now, unsigned now_count, struct gw_error *error)
{
	for (unsigned i = 0; i < then_count; i++) {
		const struct gw_vmm_fact *fact = then[i].lasting
							 ? &then[i]
							 : fact_of(now, now_count, then[i].key);

		if (!fact)
			return gw_error_set(
				error, -EBUSY,
				"'%s' (%s) was unplugged in mid-migration: migrate again",
				name_of(&then[i]), then[i].value);
		if (strcmp(fact->value, then[i].value) != 0)
			return gw_error_set(error, -EBUSY,
					    "'%s' was %s and is %s in mid-migration: migrate again",
					    name_of(fact), then[i].value, fact->value);
	}
	for (unsigned i = 0; i < now_count; i++)
		if (!fact_of(then, then_count, now[i].key))
			return gw_error_set(
				error, -EBUSY,
				"'%s' (%s) was plugged in in mid-migration: migrate again",
				name_of(&now[i]), now[i].value);
	return 0;
}

int cli_facts_recheck(const struct cli_vm *vm, struct gw_error *error)
{
	struct gw_vmm_fact *now = calloc(GW_VMM_MAX_FACTS, sizeof(*now));
	int rc = now ? gw_vmm_describe(vm->vmm, true, now, GW_VMM_MAX_FACTS, error)
		     : gw_error_set(error, -ENOMEM, "no memory to describe VM '%s'", vm->name);

	if (rc >= 0)
		rc = compare(vm->described, vm->fact_count, now, (unsigned)rc, error);
	free(now);
	return rc;
}

void cli_facts_close(struct cli_vm *vm)
{
	free(vm->described);
	free(vm->facts);
	gw_vmm_parts_free(vm->parts);
	vm->parts = NULL;
	vm->described = NULL;
	vm->facts = NULL;
}
