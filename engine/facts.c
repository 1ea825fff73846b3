/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Facts: properties of the machine that must be equal at both ends, as pairs of texts from the VM.
 * The source sends its facts in HELLO.  The receiver compares them with its own before any change.
 * A fact with an empty value at either end agrees with every value.  Both ends must have the key,
 * unless the receiver's fact is spare.
 *
 * Lists (vm_ops.h) are compared name by name.  A list agrees with a missing list.
 */
#include "engine/session.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FRESH_NS GW_NS_PER_S /* the VM is asked again after this time */

static int ask(struct gw_session *s, const struct gw_fact **facts, unsigned *count)
{
	*facts = NULL;
	*count = 0;
	return s->vm_ops->describe ? s->vm_ops->describe(s->vm, facts, count, &s->error) : 0;
}

/* Appends a text, with '?' for bytes that are not printable ASCII.  Return: the end of it. */
static char *append(char *at, const char *text)
{
	for (; *text; text++)
		*at++ = (char)(*text < ' ' || *text > '~' ? '?' : *text);
	*at = '\0';
	return at + 1;
}

static bool is_list(const char *key)
{
	return key[0] == '?';
}

static size_t bytes_of(const struct gw_fact *fact)
{
	return strlen(fact->key) + strlen(fact->value) + 2;
}

/* The bytes of all facts except lists, or -errno. */
static int measure(struct gw_session *s, const struct gw_fact *facts, unsigned count)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < count; i++) {
		size_t key = strlen(facts[i].key), value = strlen(facts[i].value);

		if (key == 0 || key >= GW_FACT_KEY_BYTES || value >= GW_FACT_VALUE_BYTES)
			return gw_error_set(
				&s->error, -EINVAL,
				"the description of '%.100s' of this VM is too long: %.100s",
				facts[i].key, facts[i].value);
		bytes += is_list(facts[i].key) ? 0 : bytes_of(&facts[i]);
	}
	if (count > GW_FACTS_MAX || bytes > WIRE_FACTS_BYTES)
		return gw_error_set(&s->error, -E2BIG,
				    "this VM has too many devices to be described to the receiver");
	return (int)bytes;
}

int facts_pack(struct gw_session *s, struct wire_hello *hello, char **texts)
{
	const struct gw_fact *facts;
	size_t room = WIRE_FACTS_BYTES;
	unsigned count, left_out = 0;
	char *at;
	int rc;

	*texts = NULL;
	hello->fact_count = 0;
	rc = ask(s, &facts, &count);
	if (rc == 0)
		rc = measure(s, facts, count);
	if (rc < 0)
		return rc;
	room -= (size_t)rc;
	*texts = at = malloc(WIRE_FACTS_BYTES + 1);
	if (!at)
		return gw_error_set(&s->error, -ENOMEM, "no memory to describe this VM");
	for (unsigned i = 0; i < count; i++) {
		size_t bytes = is_list(facts[i].key) ? bytes_of(&facts[i]) : 0;

		left_out += bytes > room;
		if (bytes > room)
			continue;
		room -= bytes;
		at = append(append(at, facts[i].key), facts[i].value);
		hello->fact_count++;
	}
	if (left_out > 0)
		gw_warn("this VM has so many devices that the properties of %u are not compared",
			left_out);
	hello->facts = *texts;
	hello->fact_bytes = (uint32_t)(at - *texts);
	return 0;
}

/* Whether a text of the source equals one here, with '?' as append() sends it. */
static bool is_alike(const char *sent, const char *ours)
{
	for (; *sent && *ours; sent++, ours++)
		if (*sent != *ours && !(*sent == '?' && (*ours < ' ' || *ours > '~')))
			return false;
	return *sent == *ours;
}

/* The value of a name in a list, up to its ';', or NULL. */
static const char *find(const char *list, const char *name, size_t bytes)
{
	while (*list && !(strncmp(list, name, bytes) == 0 && list[bytes] == '=')) {
		list += strcspn(list, ";");
		list += *list == ';';
	}
	return *list ? list + bytes + 1 : NULL;
}

/* Compares the names that both lists have. */
static int judge_list(struct gw_session *s, const char *key, const char *theirs,
		      const struct gw_fact *ours)
{
	while (*theirs) {
		size_t name = strcspn(theirs, "=;"), bytes = strcspn(theirs, ";");
		const char *value = theirs[name] == '=' ? theirs + name + 1 : NULL;
		const char *our = find(ours->value, theirs, name);
		size_t value_bytes = value ? bytes - name - 1 : 0;
		size_t our_bytes = our ? strcspn(our, ";") : 0;
		char sent[200], here[200];

		snprintf(sent, sizeof(sent), "%.*s", (int)value_bytes, value ? value : "");
		snprintf(here, sizeof(here), "%.*s", (int)our_bytes, our ? our : "");
		if (value && our && (value_bytes != our_bytes || !is_alike(sent, here)))
			return gw_error_set(&s->error, -EINVAL,
					    "'%.*s of %s' is %s at the source and %s here: %s",
					    (int)name, theirs, key + 1, sent[0] ? sent : "empty",
					    here[0] ? here : "empty", ours->advice);
		theirs += bytes + (theirs[bytes] == ';');
	}
	return 0;
}

static int judge(struct gw_session *s, const char *key, const char *value,
		 const struct gw_fact *ours)
{
	if (is_list(key))
		return ours ? judge_list(s, key, value, ours) : 0;
	if (!ours)
		return gw_error_set(&s->error, -EINVAL,
				    "the source has '%s'%s%s, this VMM has not: start this VMM "
				    "with the source's machine, devices and disks",
				    key, value[0] ? ", " : "", value);
	if (value[0] == '\0' || ours->value[0] == '\0' || is_alike(value, ours->value))
		return 0;
	return gw_error_set(&s->error, -EINVAL, "'%s' is %s at the source and %s here: %s", key,
			    value, ours->value, ours->advice);
}

/* The facts of the VM here.  Return: 0 or -errno. */
static int ours_now(struct gw_session *s, const struct gw_fact **facts, unsigned *count)
{
	const struct gw_session_options *options = &s->options;

	if (!options->facts || session_now(s) - options->facts_ns > FRESH_NS)
		return ask(s, facts, count);
	*facts = options->facts;
	*count = options->fact_count;
	return 0;
}

int facts_compare(struct gw_session *s, const struct wire_hello *theirs)
{
	static const char more[] = "this VMM has '%s'%s%s, the source has not: start this VMM with "
				   "the source's machine, devices and disks";
	const char *at = theirs->facts;
	bool seen[GW_FACTS_MAX] = { false };
	const struct gw_fact *ours;
	unsigned count;
	int rc = ours_now(s, &ours, &count);

	if (rc == 0 && count > GW_FACTS_MAX)
		rc = gw_error_set(
			&s->error, -E2BIG,
			"the VM here has too many devices to be compared with the source's");
	for (unsigned i = 0; i < theirs->fact_count && rc == 0; i++) {
		const char *key = at, *value = key + strlen(key) + 1;
		unsigned k = 0;

		while (k < count && !is_alike(key, ours[k].key))
			k++;
		rc = judge(s, key, value, k < count ? &ours[k] : NULL);
		if (k < count)
			seen[k] = true;
		at = value + strlen(value) + 1;
	}
	for (unsigned k = 0; k < count && rc == 0; k++)
		if (!seen[k] && !ours[k].spare && !is_list(ours[k].key))
			rc = gw_error_set(&s->error, -EINVAL, more, ours[k].key,
					  ours[k].value[0] ? ", " : "", ours[k].value);
	return rc;
}
