/* SPDX-License-Identifier: Apache-2.0 */
/* Gives the engine the facts that must be the same at both ends, as vmm-shim describes them. */
#include "cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Whether the source moves the disk of that device: the receiver's disk takes the properties of the source's disk then. */
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

	static_assert(GW_VMM_MAX_FACTS <= GW_FACTS_MAX && sizeof(vm->described->key) <= GW_FACT_KEY_BYTES &&
			      sizeof(vm->described->value) <= GW_FACT_VALUE_BYTES,
		      "what is described can be sent");

	if (!vm->described)
		vm->described = calloc(GW_VMM_MAX_FACTS, sizeof(*vm->described));
	if (!vm->facts)
		vm->facts = calloc(GW_VMM_MAX_FACTS, sizeof(*vm->facts));
	if (!vm->described || !vm->facts)
		return gw_error_set(error, -ENOMEM, "no memory to describe VM '%s'", vm->name);
	rc = gw_vmm_describe(vm->vmm, vm->described, GW_VMM_MAX_FACTS, error);
	if (rc < 0)
		return rc;
	*count = (unsigned)rc;
	for (unsigned i = 0; i < *count; i++) {
		const struct gw_vmm_fact *fact = &vm->described[i];
		bool free_choice = fact->moves_with_image && moves(vm, fact->front);

		vm->facts[i] = (struct gw_fact){ fact->key, free_choice ? "" : fact->value, fact->advice, fact->spare };
	}
	*facts = vm->facts;
	return 0;
}

void cli_facts_close(struct cli_vm *vm)
{
	free(vm->described);
	free(vm->facts);
	vm->described = NULL;
	vm->facts = NULL;
}
