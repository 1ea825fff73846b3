/* SPDX-License-Identifier: Apache-2.0 */
/* What status, cancel and resume know of a guest's migration.  Internal to cli. */
#ifndef GODWIT_CLI_KNOWN_H
#define GODWIT_CLI_KNOWN_H

#include "cli/cli.h"

/* The known facts of a guest's migration. */
struct known {
	json_t *status;  /* the session's own, or the record that the last one left; NULL: none */
	bool live;       /* the session answered */
	int stalled_pid; /* the process that serves a socket and does not answer; 0: none */
	bool stalled_source; /* that moves the guest, else it waits for one or receives one */
	char run_state[32]; /* of the VMM; "gone", "not answering" */
};

/* Asks the processes that move or receive guest @name, and its VMM.  known->status is for the caller to release. */
void known_find(const char *name, struct known *known);

/* The text of @key in @status, "" when it has none. */
const char *known_text(const json_t *status, const char *key);

/* Whether this side owns the guest. */
bool known_owns(const json_t *status);

/* Complains when there is not one name. */
void known_complain_of_names(const struct command *command, const struct given *given);

/* The one name that cancel and resume take.  Return: it, or NULL with *code the exit code. */
const char *known_take_name(const struct command *command, int argc, char **argv, struct given *given, int *code);

#endif
