/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: "tcp:HOST:PORT" and the like, and the kernel's form of them.  Internal to transport. */
#ifndef GODWIT_TRANSPORT_ADDRESS_H
#define GODWIT_TRANSPORT_ADDRESS_H

#include "base/error.h"

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* What stands in front of HOST:PORT. */
enum scheme { SCHEME_ANY, SCHEME_TCP, SCHEME_RDMA };

enum scheme address_scheme(const char *uri);

/* Resolves "tcp:HOST:PORT", "HOST:PORT" or "[ADDR]:PORT".  Return: 0 and *list, or -errno with @error set. */
int address_resolve(const char *text, bool passive, struct addrinfo **list, struct gw_error *error) GW_MUST_CHECK;

/* "ADDR:PORT", for people. */
void address_name(const struct sockaddr *address, socklen_t length, char *name, size_t name_bytes);

bool address_is_loopback(const struct sockaddr *address);
bool address_is_wildcard(const struct sockaddr *address);
unsigned address_port(const struct sockaddr *address);
void address_set_port(struct sockaddr *address, unsigned port);

#endif
