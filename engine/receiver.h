/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver half of a session.  Internal to engine. */
#ifndef GODWIT_ENGINE_RECEIVER_H
#define GODWIT_ENGINE_RECEIVER_H

#include "engine/session.h"

/* The states in which each message may come, and its handler. */
extern const struct message_rule receiver_rules[WIRE_TYPES];

/*
 * Acknowledges a round whose fence was seen, and loads the device state once everything is placed.
 * Return: 0 or -errno.
 */
int receiver_wait(struct gw_session *s);

/* Waits for COMMIT, and checks that the loaded guest stands.  Return: 0 or -errno. */
int receiver_look(struct gw_session *s);

/*
 * Ends the session in the final state @end after a failure or a cancel.  The guest is stopped
 * first.  Never fails.
 */
void receiver_abandon(struct gw_session *s, enum gw_state end);

#endif
