/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: the text that a user writes, and socket addresses.  Internal to transport. */
#ifndef GODWIT_TRANSPORT_ADDRESS_H
#define GODWIT_TRANSPORT_ADDRESS_H

#include "base/error.h"

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* The transport that an address names in front of HOST:PORT. */
enum scheme { SCHEME_ANY, SCHEME_TCP, SCHEME_RDMA };

enum scheme address_scheme(const char *uri);

/*
 * Resolves an address as gw_link_connect() takes it; @passive: for listening.  May ask a name
 * server, and blocks meanwhile.
 * Return: 0 and *list, to be freed by freeaddrinfo(); or -errno with @error set.
 */
int address_resolve(const char *text, bool passive, struct addrinfo **list,
		    struct gw_error *error) GW_MUST_CHECK;

/* Writes "ADDR:PORT", for people. */
void address_name(const struct sockaddr *address, socklen_t length, char *name, size_t name_bytes);

/* The address is IPv4 or IPv6 below; of another family it is neither loopback nor wildcard. */
bool address_is_loopback(const struct sockaddr *address);
bool address_is_wildcard(const struct sockaddr *address);
unsigned address_port(const struct sockaddr *address);
void address_set_port(struct sockaddr *address, unsigned port);

#endif
