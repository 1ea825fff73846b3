/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the tree of devices
 *
 * Devices come from the monitor's tree ("info qtree"), which QEMU 7.2 to 10 print in the same form.
 * A place identifies a device: the place of its parent, and its own address on the bus.  The type
 * of a device without an address serves as its address.
 */
#include "vmm/tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 24

struct tree {
	struct device stack[DEEPEST]; /* a device comes after its parent */
	unsigned depth;
	bool placed; /* the top of the stack has its place */
	int (*found)(void *context, const struct device *device);
	void *context;
	struct {
		char place[GW_VMM_PLACE_BYTES];
		unsigned count;
	} twins[GW_VMM_MAX_FACTS];
	unsigned twin_count;
};

/*
 * Return: the type that both accelerators share; KVM's devices have the state of the emulated ones.
 */
static const char *common_type(const char *type)
{
	static const char *const kvm[][2] = {
		{ "kvm-i8259", "isa-i8259" }, { "kvm-ioapic", "ioapic" }, { "kvm-pit", "isa-pit" }
	};

	for (size_t i = 0; i < sizeof(kvm) / sizeof(kvm[0]); i++)
		if (strcmp(type, kvm[i][0]) == 0)
			return kvm[i][1];
	return type;
}

/* Appends a number to a place that another device has: devices without an address. */
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

/* Sets the place of the device on top of the stack, all of whose lines have been read. */
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
		snprintf(own, sizeof(own), "%s:%s:%s", device->channel, device->target,
			 device->lun);
	else if (device->other[0])
		snprintf(own, sizeof(own), "%s-%s", device->type, device->other);
	else
		snprintf(own, sizeof(own), "%s", device->type);
	length = snprintf(device->place, sizeof(device->place), "%s%s%s%s%s",
			  parent ? parent->place : "", parent && parent->bus[0] ? "." : "",
			  parent ? parent->bus : "", parent ? "/" : "", own);
	if (length < 0 || (size_t)length + 8 >= sizeof(device->place) ||
	    make_unique(tree, device->place) < 0)
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
	struct {
		const char *name;
		char *to;
		size_t room;
	} const known[] = {
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
		snprintf(device->port, sizeof(device->port), "%.*s", (int)strcspn(port + 7, ","),
			 port + 7);
}

/*
 * Whether the device has another bus: a bus line of this indentation comes before a line of less.
 */
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

/*
 * Notes the number of "bus: ide.2", which tells a device's buses apart.  A single bus needs no
 * number.
 */
static void take_bus(struct device *device, const char *name, const char *rest, int indent)
{
	const char *number = strrchr(name, '.');

	if (device->buses++ > 0 || has_more_buses(rest, indent))
		snprintf(device->bus, sizeof(device->bus), "%.12s", number ? number + 1 : name);
}

/* Takes one line of the tree.  @rest: the next lines. */
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

int vmm_walk_tree(struct gw_vmm *vmm, int (*found)(void *context, const struct device *device),
		  void *context, struct gw_error *error)
{
	struct tree *tree = calloc(1, sizeof(*tree));
	char *copy, *rest, *line;
	json_t *text;
	int rc = tree ? 0 : gw_error_set(error, -ENOMEM, "no memory for the tree of devices");

	if (rc == 0)
		rc = qmp_command(vmm_qmp(vmm), "human-monitor-command",
				 json_pack("{s:s}", "command-line", "info qtree"), -1, &text,
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
	return rc < 0 ? gw_error_set(error, rc,
				     "the VMM's tree of devices is too deep or too large: %s",
				     strerror(-rc))
		      : 0;
}
