/* SPDX-License-Identifier: Apache-2.0 */
/* Names the program that answered a hello and is no godwit. */
#include "transport/hello.h"

#include <criterion/criterion.h>
#include <string.h>

Test(stranger, a_server_is_named_by_its_first_bytes)
{
	static const struct {
		const char *answer, *name;
		size_t bytes;
	} cases[] = {
		{ "SSH-2.0-OpenSSH_9.2p1", "an SSH server", 21 },
		{ "HTTP/1.1 400 Bad Request", "an HTTP server", 24 },
		{ "\x15\x03\x01\x00\x02\x02\x16", "a TLS server", 7 },
		{ "RFB 003.008\n", "a VNC server", 12 },
		{ "NBDMAGICIHAVEOPT", "an NBD server", 16 },
		{ "{\"QMP\": {", "a QMP monitor of QEMU", 9 },
		{ "\xff", "an iperf3 server that is busy", 1 },
		{ "220 mail ESMTP", "a mail or FTP server", 14 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_assert_str_eq(hello_name_stranger(cases[i].answer, cases[i].bytes),
				 cases[i].name, "case %zu", i);
}

Test(stranger, what_is_not_known_has_no_name)
{
	static const char nothing[24];

	cr_assert_null(hello_name_stranger("GWOK", 4));
	cr_assert_null(hello_name_stranger("SSH", 3));
	cr_assert_null(hello_name_stranger(nothing, sizeof(nothing)));
}
