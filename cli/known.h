/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a guest's migration, as status, cancel and resume find it.  Internal to cli. */
#ifndef GODWIT_CLI_KNOWN_H
#define GODWIT_CLI_KNOWN_H

#include "cli/cli.h"

/* The known facts of a guest's migration. */
struct known {
	json_t *status;  /* of the live session, or the record of the last one; NULL: none */
	bool live;       /* the session answered */
	int stalled_pid; /* the process that serves a socket but does not answer; 0: none */
	/* that process moves the guest; otherwise it waits for one or receives one */
	bool stalled_source;
	char run_state[32]; /* of the VMM; or "gone", "not answering" */
};

/*
 * Asks the processes that move or receive guest @name, and its VMM.  The caller releases
 * known->status.
 */
void known_find(const char *name, struct known *known);

/* The text of @key in @status; "" without one. */
const char *known_text(const json_t *status, const char *key);

/* Whether this side owns the guest, by @status. */
bool known_owns(const json_t *status);

/* Complains that the words are not exactly one name. */
void known_complain_of_names(const struct command *command, const struct given *given);

/* Takes the one name of cancel and resume.  Return: the name, or NULL with *code the exit code. */
const char *known_take_name(const struct command *command, int argc, char **argv,
			    struct given *given, int *code);

#endif
