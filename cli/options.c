/* SPDX-License-Identifier: Apache-2.0 */
/* Parses the options of a command from its table, which serves --help and style_man too. */
#include "cli/cli.h"

#include "base/log.h"
#include "base/units.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define LONG_ONLY 256 /* getopt_long() returns an option's letter, or this plus its row */
#define LETTERS_BYTES (2 * MAX_OPTIONS + 4)

static bool json_wanted;

void complain(const struct command *command, const char *format, ...)
{
	char text[2 * GW_ERROR_TEXT_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fprintf(stderr, "godwit %s: %s\n", command->name, text);
	if (json_wanted)
		print_json_line(json_pack("{s:s, s:s, s:o}", "event", "error", "command",
					  command->name, "error", json_text(text)));
}

void print_command_help(const struct command *command)
{
	printf("Usage: godwit %s %s\n\n%c%s.\n", command->name, command->arguments,
	       command->summary[0] - 'a' + 'A', command->summary + 1);
	for (const struct option_spec *o = command->options; o->name; o++) {
		char left[48];

		if (o == command->options)
			printf("\n");
		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", o->letter ? '-' : ' ',
			 o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
			 o->value ? " " : "", o->value ? o->value : "");
		printf("  %-24s %s\n", left, o->help);
	}
}

static int code_of(const struct command *command, int row)
{
	char letter = command->options[row].letter;

	return letter ? letter : LONG_ONLY + row;
}

/* The row of the option that getopt_long() returned, or -1. */
static int row_of(const struct command *command, int code)
{
	for (int i = 0; i < MAX_OPTIONS && command->options[i].name; i++)
		if (code_of(command, i) == code)
			return i;
	return -1;
}

/* Converts the table for getopt_long(). */
static void make_tables(const struct command *command, bool stop_at_first, struct option *longs,
			char *letters)
{
	int i;

	if (stop_at_first)
		*letters++ = '+';
	*letters++ = ':'; /* distinguishes a missing value from an unknown option */
	*letters++ = 'h';
	for (i = 0; i < MAX_OPTIONS && command->options[i].name; i++) {
		const struct option_spec *o = &command->options[i];

		longs[i] = (struct option){ o->name, o->value ? required_argument : no_argument,
					    NULL, code_of(command, i) };
		if (o->letter)
			*letters++ = o->letter;
		if (o->letter && o->value)
			*letters++ = ':';
	}
	longs[i] = (struct option){ "help", no_argument, NULL, 'h' };
	longs[i + 1] = (struct option){ 0 };
	*letters = '\0';
}

/*
 * Whether @word differs from --@name, with or without a value: getopt_long() accepts a shortened
 * word too.
 */
static bool is_shortened(const char *word, const char *name)
{
	size_t bytes = strlen(name);

	return strncmp(word, "--", 2) == 0 &&
	       (strncmp(word + 2, name, bytes) != 0 || (word[2 + bytes] && word[2 + bytes] != '='));
}

static void complain_of_word(const struct command *command, const char *word)
{
	complain(command,
		 "'%s' is no option, and none may be shortened; 'godwit %s --help' lists them",
		 word, command->name);
}

/* Reports the fault of the option that getopt_long() refused. */
static void complain_of_option(const struct command *command, int code, const char *word)
{
	int row = optopt ? row_of(command, optopt) : -1;

	if ((row >= 0 || optopt == 'h') &&
	    is_shortened(word, row >= 0 ? command->options[row].name : "help"))
		complain_of_word(command, word);
	else if (row >= 0 && code == ':')
		complain(command, "option '--%s' needs a value: %s", command->options[row].name,
			 command->options[row].value);
	else if (row >= 0 || optopt == 'h')
		complain(command, "option '--%s' takes no value: leave out what follows the '='",
			 row >= 0 ? command->options[row].name : "help");
	else if (optopt)
		complain(command, "there is no option '-%c'; 'godwit %s --help' lists them", optopt,
			 command->name);
	else
		complain_of_word(command, word);
}

/* Whether --json is among the words, so that complaints about earlier words are JSON too. */
static bool asks_for_json(const struct command *command, int argc, char **argv)
{
	bool has_json = false, asked = false;

	for (int i = 0; i < MAX_OPTIONS && command->options[i].name; i++)
		has_json |= strcmp(command->options[i].name, "json") == 0;
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		asked |= strcmp(argv[i], "--json") == 0;
	return has_json && asked;
}

int parse_options(const struct command *command, int argc, char **argv, bool stop_at_first,
		  struct given *given)
{
	struct option longs[MAX_OPTIONS + 2];
	char letters[LETTERS_BYTES];
	int code, index = -1;

	memset(given, 0, sizeof(*given));
	make_tables(command, stop_at_first, longs, letters);
	json_wanted = asks_for_json(command, argc, argv);
	optind = 0;
	opterr = 0;
	for (; (code = getopt_long(argc, argv, letters, longs, &index)) != -1; index = -1) {
		int row = row_of(command, code);
		const char *word = argv[optind - (optarg && optarg == argv[optind - 1] ? 2 : 1)];

		if (index >= 0 && is_shortened(word, longs[index].name)) {
			complain_of_word(command, word);
			return -EINVAL;
		}
		if (code == 'h') {
			print_command_help(command);
			return 1;
		}
		if (row < 0) {
			complain_of_option(command, code, argv[optind - 1]);
			return -EINVAL;
		}
		given->values[row] = optarg ? optarg : "";
	}
	given->rest = argv + optind;
	given->count = argc - optind;
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

int option_number(const struct command *command, const struct given *given, const char *name,
		  uint64_t low, uint64_t high, uint64_t *number)
{
	const char *text = option_value(command, given, name);

	if (!text || gw_parse_number(text, low, high, number) == 0)
		return 0;
	complain(command, "--%s %s: a whole number from %llu to %llu", name, text,
		 (unsigned long long)low, (unsigned long long)high);
	return -EINVAL;
}

int option_fault(const struct command *command, const struct given *given, const char **fault)
{
	struct gw_fault_spec spec;

	*fault = option_value(command, given, "fault");
	if (!*fault || gw_fault_parse(*fault, &spec) == 0)
		return 0;
	complain(command,
		 "--fault %s: fail@N, cut@N, corrupt@N, drop@N or rail@N, with an optional "
		 ",delay=MS",
		 *fault);
	return -EINVAL;
}

enum output option_output(const struct command *command, const struct given *given)
{
	if (option_value(command, given, "json"))
		return OUTPUT_JSON;
	return option_value(command, given, "quiet") ? OUTPUT_QUIET : OUTPUT_AUTO;
}
