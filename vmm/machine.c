/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the facts that two VMMs must have in common
 *
 * QEMU loads device state by the places that devices have, and misses some differences.  So the machine is described as pairs of
 * texts, which the receiver compares: type, processors, memory, each device, each disk.  Names that a user may choose (ids, back
 * ends, files) are left out.  Two machines that the guest cannot tell apart have the same texts.
 *
 * Devices come from the monitor's tree ("info qtree"), which QEMU 7.2 to 10 print in the same words.  A device is identified by its
 * place: its own address on its bus, behind the address of its parent.  The type of a device without an address serves as one.
 */
#include "vmm/machine.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DEEPEST 24
#define MACHINE_ADVICE "start this VMM with the source's -machine, -cpu, -smp and -m"
#define DEVICE_ADVICE "start this VMM with the source's devices"
#define FORMAT_ADVICE "give this VMM the disk that the source has"
#define SIZE_ADVICE "if the disk is to move, say -b or -i.  If it is shared, give this VMM the same image"
#define KEPT_SIZE_ADVICE "its device keeps the size that it read at the start, so give this VMM an image of the source's size " \
			 "before it starts"

struct facts {
	struct gw_vmm_fact *list;
	unsigned count, most;
	bool again;   /* without those that stay for as long as the VMM lives */
	bool lasting; /* what is added now is one of those */
	struct gw_error *error;
	int rc; /* of the first fact that did not fit */
};

static struct gw_vmm_fact *add(struct facts *facts, const char *key, const char *value, const char *advice)
{
	struct gw_vmm_fact *fact = &facts->list[facts->count];

	if (facts->rc == 0 && facts->count == facts->most)
		facts->rc = gw_error_set(facts->error, -E2BIG, "the VM has more than %u devices and disks", facts->most);
	if (facts->rc == 0 && (strlen(key) >= sizeof(fact->key) || strlen(value) >= sizeof(fact->value)))
		facts->rc = gw_error_set(facts->error, -E2BIG, "'%.120s' of the VM lies too deep to be compared (%.120s)", key, value);
	if (facts->rc < 0)
		return NULL;
	*fact = (struct gw_vmm_fact){ .advice = advice, .lasting = facts->lasting };
	memcpy(fact->key, key, strlen(key) + 1);
	memcpy(fact->value, value, strlen(value) + 1);
	facts->count++;
	return fact;
}

/* --- the tree of devices --------------------------------------------------------------------------- */

struct device {
	int indent;
	char type[64], place[GW_VMM_PLACE_BYTES];
	char addr[24], port[24], channel[12], target[12], lun[12], other[24];
	char drive[GW_VMM_PLACE_BYTES];
	unsigned buses;
	const char *lines; /* what the tree says of it, ended by zeros */
	unsigned line_count;
	char bus[16]; /* the number of the bus of the devices that follow; "" when the parent has one bus */
};

struct tree {
	struct device stack[DEEPEST]; /* a device, its parent before it */
	unsigned depth;
	bool placed; /* the place of the top of the stack is known */
	int (*found)(void *context, const struct device *device);
	void *context;
	struct { char place[GW_VMM_PLACE_BYTES]; unsigned count; } twins[GW_VMM_MAX_FACTS];
	unsigned twin_count;
};

/* The accelerator's own devices carry the state of those that they stand for. */
static const char *common_type(const char *type)
{
	static const char *const kvm[][2] = { { "kvm-i8259", "isa-i8259" },
					      { "kvm-ioapic", "ioapic" },
					      { "kvm-pit", "isa-pit" } };

	for (size_t i = 0; i < sizeof(kvm) / sizeof(kvm[0]); i++)
		if (strcmp(type, kvm[i][0]) == 0)
			return kvm[i][1];
	return type;
}

/* Devices without an address are numbered, so that each has a place of its own. */
static int make_unique(struct tree *tree, char place[GW_VMM_PLACE_BYTES])
{
	size_t length = strlen(place);
	unsigned i = 0;

	while (i < tree->twin_count && strcmp(tree->twins[i].place, place) != 0)
		i++;
	if (i == GW_VMM_MAX_FACTS)
		return -E2BIG;
	if (i == tree->twin_count) {
		memcpy(tree->twins[i].place, place, length + 1);
		tree->twins[tree->twin_count++].count = 1;
		return 0;
	}
	snprintf(place + length, GW_VMM_PLACE_BYTES - length, "#%u", ++tree->twins[i].count);
	return 0;
}

/* All lines of the device on top of the stack have been read. */
static int place_device(struct tree *tree)
{
	struct device *device = tree->depth > 0 ? &tree->stack[tree->depth - 1] : NULL;
	const struct device *parent = tree->depth > 1 ? device - 1 : NULL;
	char own[GW_VMM_PLACE_BYTES];
	int length;

	if (!device || tree->placed)
		return 0;
	tree->placed = true;
	if (device->addr[0] || device->port[0])
		snprintf(own, sizeof(own), "%s", device->addr[0] ? device->addr : device->port);
	else if (device->target[0])
		snprintf(own, sizeof(own), "%s:%s:%s", device->channel, device->target, device->lun);
	else if (device->other[0])
		snprintf(own, sizeof(own), "%s-%s", device->type, device->other);
	else
		snprintf(own, sizeof(own), "%s", device->type);
	length = snprintf(device->place, sizeof(device->place), "%s%s%s%s%s", parent ? parent->place : "",
			  parent && parent->bus[0] ? "." : "", parent ? parent->bus : "", parent ? "/" : "", own);
	if (length < 0 || (size_t)length + 8 >= sizeof(device->place) || make_unique(tree, device->place) < 0)
		return -E2BIG;
	return tree->found(tree->context, device);
}

static void take_value(char *to, size_t room, const char *value)
{
	bool quoted = value[0] == '"';
	size_t length = quoted ? strcspn(value + 1, "\"") : strcspn(value, " ");

	snprintf(to, room, "%.*s", (int)length, value + quoted);
}

static void take_property(struct device *device, const char *line)
{
	struct { const char *name; char *to; size_t room; } const known[] = {
		{ "addr = ", device->addr, sizeof(device->addr) },
		{ "channel = ", device->channel, sizeof(device->channel) },
		{ "scsi-id = ", device->target, sizeof(device->target) },
		{ "lun = ", device->lun, sizeof(device->lun) },
		{ "drive = ", device->drive, sizeof(device->drive) },
		{ "unit = ", device->other, sizeof(device->other) },
		{ "nr = ", device->other, sizeof(device->other) },
		{ "iobase = ", device->other, sizeof(device->other) },
		{ "address = ", device->other, sizeof(device->other) },
		{ "cad = ", device->other, sizeof(device->other) },
	};
	const char *port;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strncmp(line, known[i].name, strlen(known[i].name)) == 0)
			take_value(known[i].to, known[i].room, line + strlen(known[i].name));
	/* USB: "addr 0.0, port 1, speed 5000, ..."; the guest assigns the address. */
	port = strncmp(line, "addr ", 5) == 0 ? strstr(line, ", port ") : NULL;
	if (port && !strstr(line, " = "))
		snprintf(device->port, sizeof(device->port), "%.*s", (int)strcspn(port + 7, ","), port + 7);
}

/* Whether the device of this bus has more buses: a line of the same indentation comes before a line of less. */
static bool has_more_buses(const char *rest, int indent)
{
	for (; rest && *rest; rest = strchr(rest, '\n'), rest += rest ? 1 : 0) {
		int here = (int)strspn(rest, " ");

		if (here < indent)
			return false;
		if (here == indent && strncmp(rest + here, "bus: ", 5) == 0)
			return true;
	}
	return false;
}

/* "bus: ide.2": the number at the end of the name tells the buses of a device apart; a single bus needs no number. */
static void take_bus(struct device *device, const char *name, const char *rest, int indent)
{
	const char *number = strrchr(name, '.');

	if (device->buses++ > 0 || has_more_buses(rest, indent))
		snprintf(device->bus, sizeof(device->bus), "%.12s", number ? number + 1 : name);
}

/* @rest: the lines that follow. */
static int take_line(struct tree *tree, char *line, const char *rest)
{
	int indent = (int)strspn(line, " "), rc;
	char type[64];

	line += indent;
	line[strcspn(line, "\r")] = '\0';
	if (strncmp(line, "bus: ", 5) != 0 && strncmp(line, "dev: ", 5) != 0) {
		if (tree->depth > 0 && !tree->placed) {
			tree->stack[tree->depth - 1].line_count++;
			if (indent == tree->stack[tree->depth - 1].indent + 2)
				take_property(&tree->stack[tree->depth - 1], line);
		}
		return 0;
	}
	rc = place_device(tree);
	while (tree->depth > 0 && tree->stack[tree->depth - 1].indent >= indent)
		tree->depth--;
	if (rc < 0 || line[0] == 'b') {
		if (tree->depth > 0)
			take_bus(&tree->stack[tree->depth - 1], line + 5, rest, indent);
		return rc;
	}
	if (tree->depth == DEEPEST || sscanf(line, "dev: %63[^,]", type) != 1)
		return -E2BIG;
	tree->stack[tree->depth++] = (struct device){ .indent = indent, .lines = rest };
	snprintf(tree->stack[tree->depth - 1].type, sizeof(type), "%s", common_type(type));
	tree->placed = false;
	return 0;
}

/* Calls @found for each device, parents first. */
static int walk(struct gw_vmm *vmm, int (*found)(void *context, const struct device *device), void *context,
		struct gw_error *error)
{
	struct tree *tree = calloc(1, sizeof(*tree));
	char *copy, *rest, *line;
	json_t *text;
	int rc = tree ? 0 : gw_error_set(error, -ENOMEM, "no memory for the tree of devices");

	if (rc == 0)
		rc = qmp_command(vmm_qmp(vmm), "human-monitor-command", json_pack("{s:s}", "command-line", "info qtree"), -1, &text,
				 error);
	if (rc < 0) {
		free(tree);
		return rc;
	}
	tree->found = found;
	tree->context = context;
	rest = copy = strdup(json_is_string(text) ? json_string_value(text) : "");
	json_decref(text);
	while (rest && rc == 0 && (line = strsep(&rest, "\n")))
		rc = take_line(tree, line, rest);
	if (rc == 0)
		rc = copy ? place_device(tree) : -ENOMEM;
	free(copy);
	free(tree);
	return rc < 0 ? gw_error_set(error, rc, "the VMM's tree of devices is too deep or too large: %s", strerror(-rc)) : 0;
}

/* A list of properties, which are compared one by one (engine/facts.c). */
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
	if (fact) /* the accelerator adds this device, and the device starts anew where no state arrives */
		fact->spare = strcmp(device->type, "kvmclock") == 0;
	for (unsigned i = 0; i < device->line_count; i++) {
		if (i > 0) { /* the last line has none behind it */
			line += strlen(line) + 1;
			line += *line == '\0'; /* lines end with two characters */
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

static int note_front(void *context, const struct device *device)
{
	struct vmm_fronts *fronts = context;
	struct vmm_front *front = &fronts->list[fronts->count];

	if (!device->drive[0])
		return 0;
	if (fronts->count == VMM_MAX_FRONTS)
		return -E2BIG;
	memcpy(front->drive, device->drive, sizeof(front->drive));
	memcpy(front->place, device->place, sizeof(front->place));
	front->reads_size_anew = strncmp(device->type, "virtio-blk", 10) == 0;
	fronts->count++;
	return 0;
}

int vmm_fronts(struct gw_vmm *vmm, struct vmm_fronts *fronts, struct gw_error *error)
{
	fronts->count = 0;
	return walk(vmm, note_front, fronts, error);
}

const struct vmm_front *vmm_front_of(const struct vmm_fronts *fronts, const json_t *block)
{
	const char *name = json_string_value(json_object_get(block, "device"));
	const char *node = json_string_value(json_object_get(json_object_get(block, "inserted"), "node-name"));

	for (unsigned i = 0; i < fronts->count; i++) {
		const char *drive = fronts->list[i].drive;

		if ((name && name[0] && strcmp(drive, name) == 0) || (node && strcmp(drive, node) == 0))
			return &fronts->list[i];
	}
	return NULL;
}

/* --- the machine -------------------------------------------------------------------------------------- */

static int ask(struct gw_vmm *vmm, const char *path, const char *property, json_t **result, struct gw_error *error)
{
	return qmp_command(vmm_qmp(vmm), "qom-get", json_pack("{s:s, s:s}", "path", path, "property", property), -1, result, error);
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

/* The number of items of a kind, from the highest index. */
static void raise_to(const json_t *properties, const char *key, json_int_t *highest)
{
	json_int_t number = json_integer_value(json_object_get(properties, key)) + 1;

	if (number > *highest)
		*highest = number;
}

/* With those that can be plugged in; a machine that knows of none agrees with any. */
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
	add_list(facts, json_is_true(json_object_get(kvm, "enabled")) ? "the CPU under KVM" : "the CPU", list, MACHINE_ADVICE);
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
	snprintf(value, sizeof(value), "%zu in %lld socket(s) of %lld die(s), %lld core(s), %lld thread(s)", json_array_size(list),
		 (long long)sockets, (long long)dies, (long long)cores, (long long)threads);
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

	/* Older VMMs do not tell; RAM itself is compared in any case. */
	if (ask(vmm, "/machine", "memory", &memory, &none) == 0) {
		snprintf(value, sizeof(value), "%lld for at most %lld MiB", (long long)json_integer_value(json_object_get(memory, "slots")),
			 (long long)json_integer_value(json_object_get(memory, "max-size")) >> 20);
		json_decref(memory);
	}
	(void)add(facts, "RAM slots", value, MACHINE_ADVICE);
	rc = qmp_command(vmm_qmp(vmm), "query-memory-devices", NULL, -1, &list, facts->error);
	if (rc < 0)
		return rc;
	json_array_foreach (list, i, one) {
		const json_t *data = json_object_get(one, "data");
		const json_t *at = json_object_get(data, "addr") ? json_object_get(data, "addr") : json_object_get(data, "memaddr");
		const char *type = json_string_value(json_object_get(one, "type"));

		snprintf(key, sizeof(key), "memory device at 0x%llx", (unsigned long long)json_integer_value(at));
		(void)add(facts, key, type ? type : "?", DEVICE_ADVICE);
	}
	json_decref(list);
	return 0;
}

/* The network inside of QEMU has state of its own; other back ends have none. */
static int add_networks(struct gw_vmm *vmm, struct facts *facts)
{
	unsigned count = 0;
	const char *at;
	json_t *text;
	int rc = qmp_command(vmm_qmp(vmm), "human-monitor-command", json_pack("{s:s}", "command-line", "info network"), -1, &text,
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

/* --- disks ------------------------------------------------------------------------------------------- */

/* Throttling and other filters belong to the host; the guest cannot see them. */
bool vmm_is_filter(const char *format)
{
	static const char *const known[] = { "throttle", "copy-on-read", "preallocate", "compress", "copy-before-write" };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(format, known[i]) == 0)
			return true;
	return false;
}

bool vmm_is_temporary(struct gw_vmm *vmm, const json_t *described)
{
	const char *name = json_string_value(json_object_get(described, "filename")), *last;
	char path[GW_VMM_PATH_BYTES];
	struct gw_error none = { 0 };
	struct stat st;

	if (vmm_file_of(vmm, name ? name : "", path, sizeof(path), &none) < 0)
		return false;
	last = strrchr(path, '/');
	return last && strncmp(last, "/vl.", 4) == 0 && strlen(last) == 10 && stat(path, &st) < 0 && errno == ENOENT;
}

/* "qcow2 on raw": the formats of all layers, from the top. */
static int describe_layers(struct gw_vmm *vmm, const json_t *block, char *value, size_t room, struct gw_error *error)
{
	const json_t *described = json_object_get(json_object_get(block, "inserted"), "image");
	const char *name = json_string_value(json_object_get(block, "device"));
	size_t used = 0;

	value[0] = '\0';
	for (; described; described = json_object_get(described, "backing-image")) {
		const char *format = json_string_value(json_object_get(described, "format"));
		int length;

		if (vmm_is_temporary(vmm, described))
			return gw_error_set(error, -EINVAL, "disk '%s' writes to a temporary file, which ends with the VMM (-snapshot): "
							    "commit it, or start the VMM without -snapshot", name ? name : "?");
		if (!format || vmm_is_filter(format))
			continue;
		length = snprintf(value + used, room - used, "%s%s", used ? " on " : "", format);
		if (length < 0 || (size_t)length >= room - used)
			return gw_error_set(error, -E2BIG, "disk '%s' has too many layers to be compared", name ? name : "?");
		used += (size_t)length;
	}
	return 0;
}

static int add_disk(struct gw_vmm *vmm, struct facts *facts, const json_t *block, const struct vmm_front *front)
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
	snprintf(value, sizeof(value), "%lld bytes", (long long)json_integer_value(json_object_get(image, "virtual-size")));
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

	return rc == 0 ? note_front(&both->fronts, device) : rc;
}

/* Devices, and disks by the devices that have them. */
static int add_devices(struct gw_vmm *vmm, struct facts *facts)
{
	struct both *both = calloc(1, sizeof(*both));
	int rc = both ? 0 : gw_error_set(facts->error, -ENOMEM, "no memory for devices");

	if (rc == 0) {
		both->facts = facts;
		rc = walk(vmm, note_both, both, facts->error);
	}
	if (rc == 0)
		rc = add_disks(vmm, facts, &both->fronts);
	free(both);
	return rc;
}

int gw_vmm_describe(struct gw_vmm *vmm, bool again, struct gw_vmm_fact *list, unsigned most, struct gw_error *error)
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

/* --- what QEMU itself would refuse ----------------------------------------------------------------------- */

/* Whether QEMU is in the midst of a migration of its own. */
static bool is_busy(const char *status)
{
	static const char *const idle[] = { "none", "completed", "failed", "cancelled" };

	for (size_t i = 0; status && i < sizeof(idle) / sizeof(idle[0]); i++)
		if (strcmp(status, idle[i]) == 0)
			return false;
	return status != NULL;
}

int gw_vmm_check_blockers(struct gw_vmm *vmm, struct gw_error *error)
{
	json_t *migration;
	const char *reason, *status;
	int rc = qmp_command(vmm_qmp(vmm), "query-migrate", NULL, -1, &migration, error);

	if (rc < 0)
		return rc;
	reason = json_string_value(json_array_get(json_object_get(migration, "blocked-reasons"), 0));
	status = json_string_value(json_object_get(migration, "status"));
	if (reason)
		rc = gw_error_set(error, -EOPNOTSUPP, "the VMM cannot migrate: %s", reason);
	else if (is_busy(status))
		rc = gw_error_set(error, -EBUSY, "the VMM is in a migration of its own ('%s'): wait for its end, or say "
						 "migrate_cancel", status);
	json_decref(migration);
	return rc;
}
