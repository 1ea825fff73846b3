/* SPDX-License-Identifier: Apache-2.0 */
/* One table of options a command, for parsing, for --help, and for the test that holds the man page to it. */
#include "cli/cli.h"

#include "base/log.h"
#include "base/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void complain(const struct command *command, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "godwit %s: ", command->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

void print_command_help(const struct command *command)
{
	printf("Usage: godwit %s %s\n\n%c%s.\n", command->name, command->arguments, command->summary[0] - 'a' + 'A',
	       command->summary + 1);
	for (const struct option_spec *o = command->options; o->name; o++) {
		char left[48];

		if (o == command->options)
			printf("\n");
		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
			 o->letter ? "," : " ", o->name, o->value ? " " : "", o->value ? o->value : "");
		printf("  %-24s %s\n", left, o->help);
	}
}

/* The row of an option as it was typed, its "=VALUE" aside. */
static int find_option(const struct command *command, const char *word)
{
	for (int i = 0; i < MAX_OPTIONS && command->options[i].name; i++) {
		const struct option_spec *o = &command->options[i];
		size_t length = strlen(o->name);

		if (word[1] == '-' && strncmp(word + 2, o->name, length) == 0 &&
		    (word[2 + length] == '\0' || word[2 + length] == '='))
			return i;
		if (word[1] != '-' && o->letter && word[1] == o->letter && word[2] == '\0')
			return i;
	}
	return -1;
}

static int take_option(const struct command *command, int argc, char **argv, int *at, struct given *given)
{
	const char *word = argv[*at], *equals = strchr(word, '=');
	int row = find_option(command, word);

	if (row < 0) {
		complain(command, "there is no option '%s'; 'godwit %s --help' lists them", word, command->name);
		return -EINVAL;
	}
	if (!command->options[row].value) {
		given->values[row] = "";
		return 0;
	}
	if (word[1] == '-' && equals) {
		given->values[row] = equals + 1;
		return 0;
	}
	if (*at + 1 >= argc) {
		complain(command, "option '%s' needs a value: %s", word, command->options[row].value);
		return -EINVAL;
	}
	given->values[row] = argv[++*at];
	return 0;
}

int parse_options(const struct command *command, int argc, char **argv, bool stop_at_first, struct given *given)
{
	int kept = 0;

	memset(given, 0, sizeof(*given));
	given->rest = argv;
	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			print_command_help(command);
			return 1;
		}
		if (strcmp(argv[i], "--") == 0 || (stop_at_first && argv[i][0] != '-')) {
			i += argv[i][0] == '-';
			while (i < argc)
				argv[kept++] = argv[i++];
		} else if (argv[i][0] == '-' && argv[i][1]) {
			if (take_option(command, argc, argv, &i, given) < 0)
				return -EINVAL;
		} else {
			argv[kept++] = argv[i];
		}
	}
	given->count = kept;
	if (option_value(command, given, "verbose"))
		gw_log_set_level(GW_LOG_DEBUG);
	return 0;
}

const char *option_value(const struct command *command, const struct given *given, const char *name)
{
	for (int i = 0; i < MAX_OPTIONS && command->options[i].name; i++)
		if (strcmp(command->options[i].name, name) == 0)
			return given->values[i];
	return NULL;
}

int option_number(const struct command *command, const struct given *given, const char *name, uint64_t low,
		  uint64_t high, uint64_t *number)
{
	const char *text = option_value(command, given, name);

	if (!text || gw_parse_number(text, low, high, number) == 0)
		return 0;
	complain(command, "--%s %s: a whole number from %llu to %llu", name, text, (unsigned long long)low,
		 (unsigned long long)high);
	return -EINVAL;
}
