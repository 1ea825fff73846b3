/* SPDX-License-Identifier: Apache-2.0 */
/* Recognises programs other than godwit by the first bytes that they send. */
#include "transport/hello.h"

#include <string.h>

const char *hello_name_stranger(const void *answer, size_t bytes)
{
	static const struct {
		const char *begins, *name;
		size_t bytes;
	} known[] = {
		{ "SSH-", "an SSH server", 4 },
		{ "HTTP/", "an HTTP server", 5 },
		{ "<!DOCTYPE", "an HTTP server", 9 },
		{ "<html", "an HTTP server", 5 },
		{ "\x15\x03", "a TLS server", 2 },
		{ "RFB ", "a VNC server", 4 },
		{ "{\"QMP\"", "a QMP monitor of QEMU", 6 },
		{ "QEMU ", "a monitor of QEMU", 5 },
		{ "NBDMAGIC", "an NBD server", 8 },
		{ "220 ", "a mail or FTP server", 4 },
		{ "220-", "a mail or FTP server", 4 },
		{ "\xff", "an iperf3 server that is busy", 1 }, /* ACCESS_DENIED of iperf3 */
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (bytes >= known[i].bytes && memcmp(answer, known[i].begins, known[i].bytes) == 0)
			return known[i].name;
	return NULL;
}
