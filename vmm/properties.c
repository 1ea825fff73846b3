/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: properties that the guest sees
 *
 * Two devices of one type may still differ: in their features, the size of their memory, their
 * network address.  The tree of devices shows nearly all of that, as "name = value" below each
 * device.  All properties are compared, except a list: properties of the host, and those that a
 * guest changes while it runs.  Properties that begin with "x-" come from the machine type, which
 * is compared by itself.
 *
 * A property goes into a list, "name=value;...".  Versions of QEMU have different properties, so
 * only names that both ends have are compared.
 *
 * The processor is described likewise, by registers of CPUID.  An accelerator adds features of its
 * own, which the guest would meet at its next start.  So only lists of the same accelerator are
 * compared.
 */
#include "vmm/properties.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Properties that are not compared, besides those that begin with "x-". */
static const char *const ignored[] = {
	/* names of back ends */
	"audiodev",
	"chardev",
	"cryptodev",
	"device_id",
	"display",
	"drive",
	"failover_pair_id",
	"fsdev",
	"head",
	"host",
	"hostdev",
	"iothread",
	"iothread-vq-mapping",
	"memdev",
	"netdev",
	"pcap",
	"rng",
	"romfile",
	"rootdir",
	"sysfsdev",
	"tpmdev",
	/* how the host serves the device */
	"account-failed",
	"account-invalid",
	"backend_defaults",
	"bootindex",
	"debug",
	"guest-cid",
	"ioeventfd",
	"loglevel",
	"lost_tick_policy",
	"max-bytes",
	"max_io_size",
	"period",
	"rerror",
	"share-rw",
	"tx",
	"vhost",
	"vhostfd",
	"vhostforce",
	"werror",
	"write-cache",
	"wwpn",
	/* read from an image that will be replaced, and from the storage below it */
	"cyls",
	"discard_granularity",
	"heads",
	"lcyls",
	"lheads",
	"lsecs",
	"min_io_size",
	"opt_io_size",
	"secs",
	/* the place, which is compared by itself; a number that may be random */
	"addr",
	"port",
	"guid",
	/* set by the guest */
	"MCFG",
	"smb_io_base",
};

static bool is_ignored(const char *name, size_t length)
{
	if (length > 2 && strncmp(name, "x-", 2) == 0)
		return true;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		if (strlen(ignored[i]) == length && strncmp(name, ignored[i], length) == 0)
			return true;
	return false;
}

/* Appends "name=value;" to a list.  Return: 0, or -E2BIG: the list is as it was. */
static int append(char *list, size_t room, const char *name, size_t name_bytes, const char *value,
		  size_t value_bytes)
{
	size_t used = strlen(list), need = name_bytes + value_bytes + 2;

	if (need >= room - used)
		return -E2BIG;
	snprintf(list + used, room - used, "%.*s=%.*s;", (int)name_bytes, name, (int)value_bytes,
		 value);
	for (char *c = list + used + name_bytes + 1; *c && c[1]; c++)
		if (*c == ';')
			*c = ',';
	return 0;
}

int vmm_add_property(char *list, size_t room, const char *line)
{
	const char *equals = strstr(line, " = "), *value = equals ? equals + 3 : "";
	size_t bytes;

	if (!equals || memchr(line, ' ', (size_t)(equals - line)) ||
	    is_ignored(line, (size_t)(equals - line)))
		return 0;
	/* Versions of QEMU write a switch as "on" or as true. */
	if (strcmp(value, "\"on\"") == 0)
		value = "true";
	else if (strcmp(value, "\"off\"") == 0)
		value = "false";
	bytes = strlen(value);
	if (value[0] != '"' && strstr(value, " (")) /* "16 (0x10)": one number, written twice */
		bytes = (size_t)(strstr(value, " (") - value);
	return append(list, room, line, (size_t)(equals - line), value, bytes);
}

/* Adds a property of QEMU's object model.  A property that does not exist is omitted. */
static int add_asked(struct gw_vmm *vmm, const char *path, const char *name, char *list,
		     size_t room)
{
	struct gw_error none = { 0 };
	json_t *answer;
	char *text;
	int rc;

	rc = qmp_command(vmm_qmp(vmm), "qom-get",
			 json_pack("{s:s, s:s}", "path", path, "property", name), -1, &answer,
			 &none);
	if (rc < 0)
		return rc == -EIO ? 0 : rc;
	text = json_dumps(answer, JSON_ENCODE_ANY | JSON_COMPACT);
	rc = text ? append(list, room, name, strlen(name), text, strlen(text)) : -ENOMEM;
	free(text);
	json_decref(answer);
	return rc;
}

/* Adds the registers of CPUID that hold the guest's features. */
static int add_features(struct gw_vmm *vmm, const char *path, char *list, size_t room)
{
	struct gw_error none = { 0 };
	json_t *words, *word;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "qom-get",
			     json_pack("{s:s, s:s}", "path", path, "property", "feature-words"), -1,
			     &words, &none);

	if (rc < 0)
		return rc == -EIO ? 0 : rc;
	json_array_foreach (words, i, word) {
		const char *where = json_string_value(json_object_get(word, "cpuid-register"));
		json_int_t eax = json_integer_value(json_object_get(word, "cpuid-input-eax"));
		json_int_t ecx = json_integer_value(json_object_get(word, "cpuid-input-ecx"));
		json_int_t features = json_integer_value(json_object_get(word, "features"));
		char name[64], value[24];
		int name_bytes, value_bytes;

		name_bytes = snprintf(name, sizeof(name), "CPUID 0x%llx.%lld %.8s",
				      (unsigned long long)eax, (long long)ecx, where ? where : "?");
		value_bytes = snprintf(value, sizeof(value), "0x%llx",
				       (unsigned long long)features);
		if (rc == 0)
			rc = append(list, room, name, (size_t)name_bytes, value,
				    (size_t)value_bytes);
	}
	json_decref(words);
	return rc;
}

int vmm_cpu_properties(struct gw_vmm *vmm, const char *path, char *list, size_t room,
		       struct gw_error *error)
{
	/* Without the host's own: stepping, microcode, frequency. */
	static const char *const names[] = { "vendor", "family", "model",  "phys-bits",
					     "level",  "xlevel", "xlevel2" };
	int rc = add_features(vmm, path, list, room);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && rc == 0; i++)
		rc = add_asked(vmm, path, names[i], list, room);
	return rc < 0 ? gw_error_set(error, rc, "the VM's processors cannot be described: %s",
				     strerror(-rc))
		      : 0;
}

/* Finds the path of a device of the board.  Return: whether one of that type exists. */
static bool find_on_board(struct gw_vmm *vmm, const char *type, char *path, size_t room)
{
	struct gw_error none = { 0 };
	json_t *list = NULL, *one;
	char child[64];
	bool found = false;
	size_t i;

	snprintf(child, sizeof(child), "child<%s>", type);
	if (qmp_command(vmm_qmp(vmm), "qom-list", json_pack("{s:s}", "path", "/machine/unattached"),
			-1, &list, &none) < 0)
		return false;
	json_array_foreach (list, i, one) {
		const char *name = json_string_value(json_object_get(one, "name"));
		const char *is = json_string_value(json_object_get(one, "type"));

		if (!found && name && is && strcmp(is, child) == 0) {
			snprintf(path, room, "/machine/unattached/%s", name);
			found = true;
		}
	}
	json_decref(list);
	return found;
}

int vmm_board_properties(struct gw_vmm *vmm, char *list, size_t room, struct gw_error *error)
{
	/* Without cpu-hotplug-legacy, which the guest switches. */
	static const char *const names[] = {
		"disable_s3",
		"disable_s4",
		"s4_val",
		"enable_tco",
		"memory-hotplug-support",
		"acpi-pci-hotplug-with-bridge-support"
	};
	char path[128];
	int rc = 0;

	if (!find_on_board(vmm, "ICH9-LPC", path, sizeof(path)))
		return 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && rc == 0; i++)
		rc = add_asked(vmm, path, names[i], list, room);
	return rc < 0 ? gw_error_set(error, rc, "the VM's board cannot be described: %s",
				     strerror(-rc))
		      : 0;
}
