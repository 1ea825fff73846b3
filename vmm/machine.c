/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the facts that two VMMs must have in common
 *
 * QEMU loads device state by the places of devices, and does not notice some differences.  So the
 * machine is described as pairs of texts, which the receiver compares: type, processors, memory,
 * each device, each disk.  Names that a user may choose (ids, back ends, files) are omitted.  Two
 * machines that a guest cannot tell apart have the same texts.
 */
#include "vmm/block.h"
#include "vmm/properties.h"
#include "vmm/tree.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MACHINE_ADVICE "start this VMM with the source's -machine, -cpu, -smp and -m"
#define DEVICE_ADVICE "start this VMM with the source's devices"
#define FORMAT_ADVICE "give this VMM the disk that the source has"
#define SIZE_ADVICE \
	"if the disk is to move, say -b or -i.  If it is shared, give this VMM the same image"
#define KEPT_SIZE_ADVICE                                                                         \
	"its device keeps the size that it read at the start, so give this VMM an image of the " \
	"source's size "                                                                         \
	"before it starts"

struct facts {
	struct gw_vmm_fact *list;
	unsigned count, most;
	bool again;   /* omit lasting facts */
	bool lasting; /* facts that are added now are lasting */
	struct gw_error *error;
	int rc; /* the failure of the first fact that did not fit */
};

/* Adds a fact.  Return: the fact, or NULL with facts->rc set. */
static struct gw_vmm_fact *add(struct facts *facts, const char *key, const char *value,
			       const char *advice)
{
	struct gw_vmm_fact *fact = &facts->list[facts->count];

	if (facts->rc == 0 && facts->count == facts->most)
		facts->rc = gw_error_set(facts->error, -E2BIG,
					 "the VM has more than %u devices and disks", facts->most);
	if (facts->rc == 0 &&
	    (strlen(key) >= sizeof(fact->key) || strlen(value) >= sizeof(fact->value)))
		facts->rc = gw_error_set(
			facts->error, -E2BIG,
			"'%.120s' of the VM is too long to be compared (%.120s)", key, value);
	if (facts->rc < 0)
		return NULL;
	*fact = (struct gw_vmm_fact){ .advice = advice, .lasting = facts->lasting };
	memcpy(fact->key, key, strlen(key) + 1);
	memcpy(fact->value, value, strlen(value) + 1);
	facts->count++;
	return fact;
}

/* Adds a list of properties, which are compared one by one (engine/facts.c). */
static void add_list(struct facts *facts, const char *whose, const char *list, const char *advice)
{
	char key[GW_VMM_PLACE_BYTES + 16];

	snprintf(key, sizeof(key), "?%.120s", whose);
	if (list[0])
		(void)add(facts, key, list, advice);
}

static int note_device(void *context, const struct device *device)
{
	struct facts *facts = context;
	char key[GW_VMM_PLACE_BYTES + 16], list[GW_VMM_VALUE_BYTES] = "";
	const char *line = device->lines;
	struct gw_vmm_fact *fact;

	snprintf(key, sizeof(key), "device %s", device->place);
	fact = add(facts, key, device->type, DEVICE_ADVICE);
	if (fact) /* KVM adds this device, which starts anew if no state arrives */
		fact->spare = strcmp(device->type, "kvmclock") == 0;
	for (unsigned i = 0; i < device->line_count; i++) {
		if (i > 0) { /* no line comes after the last one */
			line += strlen(line) + 1;
			line += *line == '\0'; /* a line ends with two characters */
		}
		line += strspn(line, " ");
		if (vmm_add_property(list, sizeof(list), line) < 0) {
			gw_warn("%s: some of its properties are too long to be compared", key);
			break;
		}
	}
	add_list(facts, key, list, DEVICE_ADVICE);
	return 0;
}

/* --- the machine ------------------------------------------------------------------------------ */

static int ask(struct gw_vmm *vmm, const char *path, const char *property, json_t **result,
	       struct gw_error *error)
{
	return qmp_command(vmm_qmp(vmm), "qom-get",
			   json_pack("{s:s, s:s}", "path", path, "property", property), -1, result,
			   error);
}

static int add_type(struct gw_vmm *vmm, struct facts *facts)
{
	static const char tail[] = "-machine";
	char value[GW_VMM_VALUE_BYTES];
	json_t *type;
	size_t length;
	int rc = ask(vmm, "/machine", "type", &type, facts->error);

	if (rc < 0)
		return rc;
	snprintf(value, sizeof(value), "%s", json_is_string(type) ? json_string_value(type) : "?");
	json_decref(type);
	length = strlen(value);
	if (length > sizeof(tail) && strcmp(value + length - (sizeof(tail) - 1), tail) == 0)
		value[length - (sizeof(tail) - 1)] = '\0';
	(void)add(facts, "machine type", value, MACHINE_ADVICE);
	return 0;
}

/* Raises *highest to the number of items of a kind, given the index of one. */
static void raise_to(const json_t *properties, const char *key, json_int_t *highest)
{
	json_int_t number = json_integer_value(json_object_get(properties, key)) + 1;

	if (number > *highest)
		*highest = number;
}

/*
 * Adds the number of vCPUs with those that can be plugged in; "" of a machine that has no such
 * list.
 */
static void add_possible(struct gw_vmm *vmm, struct facts *facts)
{
	char value[24] = "";
	struct gw_error none = { 0 };
	json_t *list, *one;
	json_int_t sum = 0;
	size_t i;

	if (qmp_command(vmm_qmp(vmm), "query-hotpluggable-cpus", NULL, -1, &list, &none) == 0) {
		json_array_foreach (list, i, one)
			sum += json_integer_value(json_object_get(one, "vcpus-count"));
		snprintf(value, sizeof(value), "%lld", (long long)sum);
		json_decref(list);
	}
	(void)add(facts, "largest number of vCPUs", value, MACHINE_ADVICE);
}

static int add_cpu(struct gw_vmm *vmm, struct facts *facts, const char *path)
{
	char list[GW_VMM_VALUE_BYTES] = "";
	json_t *kvm = NULL;
	int rc = qmp_command(vmm_qmp(vmm), "query-kvm", NULL, -1, &kvm, facts->error);

	facts->lasting = true;
	if (rc == 0)
		rc = vmm_cpu_properties(vmm, path, list, sizeof(list), facts->error);
	add_list(facts,
		 json_is_true(json_object_get(kvm, "enabled")) ? "the CPU under KVM" : "the CPU",
		 list, MACHINE_ADVICE);
	json_decref(kvm);
	add_possible(vmm, facts);
	list[0] = '\0';
	if (rc == 0)
		rc = vmm_board_properties(vmm, list, sizeof(list), facts->error);
	add_list(facts, "the board", list, MACHINE_ADVICE);
	facts->lasting = false;
	return rc;
}

static int add_processors(struct gw_vmm *vmm, struct facts *facts)
{
	json_int_t sockets = 1, dies = 1, cores = 1, threads = 1;
	char value[GW_VMM_VALUE_BYTES];
	json_t *list, *cpu, *type = NULL;
	const char *path;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-cpus-fast", NULL, -1, &list, facts->error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, cpu) {
		const json_t *properties = json_object_get(cpu, "props");

		raise_to(properties, "socket-id", &sockets);
		raise_to(properties, "die-id", &dies);
		raise_to(properties, "core-id", &cores);
		raise_to(properties, "thread-id", &threads);
	}
	path = json_string_value(json_object_get(json_array_get(list, 0), "qom-path"));
	rc = path ? ask(vmm, path, "type", &type, facts->error) : 0;
	if (json_is_string(type))
		(void)add(facts, "CPU model", json_string_value(type), MACHINE_ADVICE);
	snprintf(value, sizeof(value),
		 "%zu in %lld socket(s) of %lld die(s), %lld core(s), %lld thread(s)",
		 json_array_size(list), (long long)sockets, (long long)dies, (long long)cores,
		 (long long)threads);
	(void)add(facts, "number of vCPUs", value, MACHINE_ADVICE);
	if (rc == 0 && path && !facts->again)
		rc = add_cpu(vmm, facts, path);
	json_decref(type);
	json_decref(list);
	return rc;
}

static int add_memory(struct gw_vmm *vmm, struct facts *facts)
{
	char key[64], value[GW_VMM_VALUE_BYTES] = "";
	struct gw_error none = { 0 };
	json_t *list, *one, *memory;
	size_t i;
	int rc;

	/* Older VMMs do not have this property; RAM itself is compared in any case. */
	if (ask(vmm, "/machine", "memory", &memory, &none) == 0) {
		snprintf(value, sizeof(value), "%lld for at most %lld MiB",
			 (long long)json_integer_value(json_object_get(memory, "slots")),
			 (long long)json_integer_value(json_object_get(memory, "max-size")) >> 20);
		json_decref(memory);
	}
	(void)add(facts, "RAM slots", value, MACHINE_ADVICE);
	rc = qmp_command(vmm_qmp(vmm), "query-memory-devices", NULL, -1, &list, facts->error);
	if (rc < 0)
		return rc;
	json_array_foreach (list, i, one) {
		const json_t *data = json_object_get(one, "data");
		const json_t *at = json_object_get(data, "addr") ? json_object_get(data, "addr")
								 : json_object_get(data, "memaddr");
		const char *type = json_string_value(json_object_get(one, "type"));

		snprintf(key, sizeof(key), "memory device at 0x%llx",
			 (unsigned long long)json_integer_value(at));
		(void)add(facts, key, type ? type : "?", DEVICE_ADVICE);
	}
	json_decref(list);
	return 0;
}

/* Adds networks of type user: the only back end with device state. */
static int add_networks(struct gw_vmm *vmm, struct facts *facts)
{
	unsigned count = 0;
	const char *at;
	json_t *text;
	int rc = qmp_command(vmm_qmp(vmm), "human-monitor-command",
			     json_pack("{s:s}", "command-line", "info network"), -1, &text,
			     facts->error);

	if (rc < 0)
		return rc;
	at = json_is_string(text) ? json_string_value(text) : "";
	while ((at = strstr(at, "type=user"))) {
		struct gw_vmm_fact *fact;
		char key[64];

		at += strlen("type=user");
		if (*at != ',' && *at != '\r' && *at != '\n' && *at != '\0')
			continue;
		snprintf(key, sizeof(key), "network of type user, number %u", ++count);
		fact = add(facts, key, "", DEVICE_ADVICE);
		if (fact)
			fact->spare = true;
	}
	json_decref(text);
	return 0;
}

/* --- disks ------------------------------------------------------------------------------------ */
/* Writes the formats of all layers, from the top: "qcow2 on raw". */
static int describe_layers(struct gw_vmm *vmm, const json_t *block, char *value, size_t room,
			   struct gw_error *error)
{
	const json_t *described = json_object_get(json_object_get(block, "inserted"), "image");
	const char *name = json_string_value(json_object_get(block, "device"));
	size_t used = 0;

	value[0] = '\0';
	for (; described; described = json_object_get(described, "backing-image")) {
		const char *format = json_string_value(json_object_get(described, "format"));
		int length;

		if (vmm_is_temporary(vmm, described))
			return gw_error_set(
				error, -EINVAL,
				"disk '%s' writes to a temporary file, which ends with the VMM "
				"(-snapshot): commit it, or start the VMM without -snapshot",
				name ? name : "?");
		if (!format || vmm_is_filter(format))
			continue;
		length = snprintf(value + used, room - used, "%s%s", used ? " on " : "", format);
		if (length < 0 || (size_t)length >= room - used)
			return gw_error_set(error, -E2BIG,
					    "disk '%s' has too many layers to be compared",
					    name ? name : "?");
		used += (size_t)length;
	}
	return 0;
}

static int add_disk(struct gw_vmm *vmm, struct facts *facts, const json_t *block,
		    const struct vmm_front *front)
{
	const json_t *image = json_object_get(json_object_get(block, "inserted"), "image");
	char key[GW_VMM_PLACE_BYTES + 32], value[GW_VMM_VALUE_BYTES];
	struct gw_vmm_fact *fact;
	int rc = describe_layers(vmm, block, value, sizeof(value), facts->error);

	if (rc < 0)
		return rc;
	snprintf(key, sizeof(key), "format of disk %s", front->place);
	fact = add(facts, key, image ? value : "none", FORMAT_ADVICE);
	if (!fact)
		return facts->rc;
	memcpy(fact->front, front->place, sizeof(fact->front));
	fact->moves_with_image = true;
	snprintf(key, sizeof(key), "size of disk %s", front->place);
	snprintf(value, sizeof(value), "%lld bytes",
		 (long long)json_integer_value(json_object_get(image, "virtual-size")));
	fact = add(facts, key, value, front->reads_size_anew ? SIZE_ADVICE : KEPT_SIZE_ADVICE);
	if (!fact)
		return facts->rc;
	memcpy(fact->front, front->place, sizeof(fact->front));
	fact->moves_with_image = front->reads_size_anew;
	return 0;
}

static int add_disks(struct gw_vmm *vmm, struct facts *facts, const struct vmm_fronts *fronts)
{
	json_t *list, *block;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-block", NULL, -1, &list, facts->error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, block) {
		const struct vmm_front *front = rc == 0 ? vmm_front_of(fronts, block) : NULL;

		if (front)
			rc = add_disk(vmm, facts, block, front);
	}
	json_decref(list);
	return rc;
}

struct both {
	struct facts *facts;
	struct vmm_fronts fronts;
};

static int note_both(void *context, const struct device *device)
{
	struct both *both = context;
	int rc = note_device(both->facts, device);

	return rc == 0 ? vmm_note_front(&both->fronts, device) : rc;
}

/* Adds devices, and disks by their devices. */
static int add_devices(struct gw_vmm *vmm, struct facts *facts)
{
	struct both *both = calloc(1, sizeof(*both));
	int rc = both ? 0 : gw_error_set(facts->error, -ENOMEM, "no memory for devices");

	if (rc == 0) {
		both->facts = facts;
		rc = vmm_walk_tree(vmm, note_both, both, facts->error);
	}
	if (rc == 0)
		rc = add_disks(vmm, facts, &both->fronts);
	free(both);
	return rc;
}

int gw_vmm_describe(struct gw_vmm *vmm, bool again, struct gw_vmm_fact *list, unsigned most,
		    struct gw_error *error)
{
	struct facts facts = { .list = list, .most = most, .again = again, .error = error };
	int rc = add_type(vmm, &facts);

	if (rc == 0)
		rc = add_processors(vmm, &facts);
	if (rc == 0)
		rc = add_memory(vmm, &facts);
	if (rc == 0)
		rc = add_devices(vmm, &facts);
	if (rc == 0)
		rc = add_networks(vmm, &facts);
	if (rc == 0)
		rc = facts.rc;
	return rc < 0 ? rc : (int)facts.count;
}
