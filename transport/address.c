/* SPDX-License-Identifier: Apache-2.0 */
/* Parses and resolves the addresses that a user writes, and looks into socket addresses. */
#include "transport/address.h"
#include "transport/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOST_BYTES 256
#define PORT_BYTES 8

enum scheme address_scheme(const char *uri)
{
	if (strncmp(uri, "tcp:", 4) == 0)
		return SCHEME_TCP;
	return strncmp(uri, "rdma:", 5) == 0 ? SCHEME_RDMA : SCHEME_ANY;
}

/* Splits an address into host and port.  Return: 0 or -EINVAL with @error set. */
static int split_address(const char *text, char *host, size_t host_bytes, char *port,
			 size_t port_bytes, struct gw_error *error)
{
	static const size_t prefix[] = { [SCHEME_ANY] = 0, [SCHEME_TCP] = 4, [SCHEME_RDMA] = 5 };
	const char *at = text + prefix[address_scheme(text)];
	const char *colon;
	size_t length;

	if (at != text && strncmp(at, "//", 2) == 0)
		at += 2;
	colon = strrchr(at, ':');
	if (!colon || colon == at || !colon[1])
		goto err_form;
	length = (size_t)(colon - at);
	if (at[0] == '[' && at[length - 1] == ']') {
		at++;
		length -= 2;
	} else if (memchr(at, ':', length)) {
		goto err_form;
	}
	if (length == 0 || length >= host_bytes || memchr(at, '/', length) ||
	    strlen(colon + 1) >= port_bytes ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > 65535)
		goto err_form;
	memcpy(host, at, length);
	host[length] = '\0';
	strcpy(port, colon + 1);
	return 0;

err_form:
	return gw_error_set(error, -EINVAL,
			    "'%s' is not an address: write HOST:PORT or [IPv6]:PORT, "
			    "after tcp: or rdma: to choose one",
			    text);
}

int gw_link_check_address(const char *uri, struct gw_error *error)
{
	char host[HOST_BYTES], port[PORT_BYTES];

	return split_address(uri, host, sizeof(host), port, sizeof(port), error);
}

int address_resolve(const char *text, bool passive, struct addrinfo **list, struct gw_error *error)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = passive ? AI_PASSIVE : 0 };
	char host[HOST_BYTES], port[PORT_BYTES];
	int rc = split_address(text, host, sizeof(host), port, sizeof(port), error);

	if (rc < 0)
		return rc;
	rc = getaddrinfo(host, port, &hints, list);
	if (rc != 0)
		return gw_error_set(error, -EHOSTUNREACH, "host '%s' cannot be resolved: %s", host,
				    gai_strerror(rc));
	return 0;
}

void address_name(const struct sockaddr *address, socklen_t length, char *name, size_t name_bytes)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE], port[8];

	if (getnameinfo(address, length, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(name, name_bytes, "the peer");
	else
		snprintf(name, name_bytes,
			 address->sa_family == AF_INET6 ? "[%.54s]:%s" : "%.54s:%s", host, port);
}

static const struct sockaddr_in *as_ipv4(const struct sockaddr *address)
{
	return (const void *)address;
}

static const struct sockaddr_in6 *as_ipv6(const struct sockaddr *address)
{
	return (const void *)address;
}

bool address_is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ntohl(as_ipv4(address)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&as_ipv6(address)->sin6_addr);
}

bool address_is_wildcard(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return as_ipv4(address)->sin_addr.s_addr == htonl(INADDR_ANY);
	return address->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_UNSPECIFIED(&as_ipv6(address)->sin6_addr);
}

unsigned address_port(const struct sockaddr *address)
{
	return ntohs(address->sa_family == AF_INET6 ? as_ipv6(address)->sin6_port
						    : as_ipv4(address)->sin_port);
}

void address_set_port(struct sockaddr *address, unsigned port)
{
	if (address->sa_family == AF_INET6)
		((struct sockaddr_in6 *)(void *)address)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)(void *)address)->sin_port = htons((uint16_t)port);
}
