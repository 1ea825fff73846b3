/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's protocol: the bytes of each packet (tests/agents), and godwit against agents of other
 * versions.  A change of these bytes needs a new version: see docs/protocol.md.
 */
#include "vmm/agent_client.h"
#include "vmm-shim/lease_proto.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The fields stand by name, so that two fields that change places are seen. */
#define HEAD(of) .head = { .magic = AGENT_MAGIC, .version = 5, .type = AGENT_##of }
#define ANSWER(of)                                                             \
	.answer = { HEAD(of),         .status = -0x0a0b0c0d, .oldest = 0x1112, \
		    .newest = 0x1314, .vmm_pid = 0x15161718, .text = "text" }
#define FIRST 0x2122232425262728
#define SECOND 0x3132333435363738
#define THIRD 0x4142434445464748

/*
 * Appends a line: the name, and the bytes in hexadecimal.  "{N}" follows a byte that is repeated N
 * times.
 */
static void add(FILE *out, const char *name, const void *packet, size_t bytes)
{
	const unsigned char *at = packet;

	fprintf(out, "%s ", name);
	for (size_t i = 0, run; i < bytes; i += run) {
		/* Packets have no gaps.  NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinary*) */
		for (run = 1; i + run < bytes && at[i + run] == at[i]; run++)
			;
		if (run <= 4)
			run = 1;
		fprintf(out, run > 1 ? "%02x{%zu}" : "%02x", at[i], run);
	}
	fprintf(out, "\n");
}

#define ADD(out, type, ...) add(out, #type, &(struct type)__VA_ARGS__, sizeof(struct type))

static void add_plain(FILE *out)
{
	static const uint16_t types[] = { AGENT_REGIONS, AGENT_COLLECT,  AGENT_UNTRACK, AGENT_SYNC,
					  AGENT_UNWATCH, AGENT_PREFAULT, AGENT_STOCK };

	for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		ADD(out, agent_head, { .magic = AGENT_MAGIC, .version = 5, .type = types[i] });
}

static void add_requests(FILE *out)
{
	ADD(out, agent_hello, { HEAD(HELLO), .oldest = 0x1112 });
	ADD(out, agent_track,
	    { HEAD(TRACK), .tracker = AGENT_BEST, .region_count = 3, .region_index = { 7, 8, 9 } });
	ADD(out, agent_track,
	    { HEAD(TRACK), .tracker = AGENT_WP_ASYNC, .region_count = 1, .region_index = { 1 } });
	ADD(out, agent_track,
	    { HEAD(TRACK), .tracker = AGENT_WP_SYNC, .region_count = 1, .region_index = { 1 } });
	ADD(out, agent_track,
	    { HEAD(TRACK), .tracker = AGENT_KVM_ASYNC, .region_count = 1, .region_index = { 1 } });
	ADD(out, agent_arm,
	    { HEAD(ARM), .region_index = 0x11121314, .first_page = FIRST, .page_count = SECOND });
	ADD(out, agent_image_file, { HEAD(IMAGE), .device = FIRST, .inode = SECOND });
	ADD(out, agent_watch,
	    { HEAD(WATCH), .block_bytes = 0x11121314, .image_count = 0x15161718 });
	ADD(out, agent_watch_image,
	    { HEAD(WATCH_IMAGE), .image = { .device = FIRST, .inode = SECOND, .blocks = THIRD } });
	ADD(out, agent_throttle,
	    { HEAD(THROTTLE), .stand_percent = 0x11121314, .thread_count = 0x15161718,
	      .disk_bytes_per_s = FIRST, .thread_ids = { 0x31323334, [1023] = 0x35363738 } });
}

static void add_answers(FILE *out)
{
	struct {
		struct agent_answer answer;
	} plain = { ANSWER(UNTRACK) };

	add(out, "agent_answer", &plain, sizeof(plain));
	ADD(out, agent_hello_answer, { ANSWER(HELLO), .release = "0.1.0" });
	ADD(out, agent_regions_answer, { ANSWER(REGIONS), .region_count = 0x21222324 });
	ADD(out, agent_region,
	    { HEAD(REGION),
	      .mapping = { .bytes = FIRST, .device = SECOND, .inode = THIRD, .path = "/ram" } });
	ADD(out, agent_track_answer,
	    { ANSWER(TRACK), .tracker = AGENT_KVM_SYNC, .sees_discards = 1,
	      .bitmaps_bytes = FIRST });
	ADD(out, agent_collect_answer, { ANSWER(COLLECT), .marked_pages = FIRST });
	ADD(out, agent_watch_answer, { ANSWER(WATCH), .bitmaps_bytes = FIRST });
}

#define LEASE(of) .magic = LEASE_MAGIC, .version = 5, .type = LEASE_##of

static void add_lease(FILE *out)
{
	ADD(out, lease_packet,
	    { LEASE(OPEN), .status = -0x0a0b0c0d, .resume = 0x11121314, .limit_ns = FIRST });
	ADD(out, lease_packet, { LEASE(BEAT) });
	ADD(out, lease_packet, { LEASE(ARM), .resume = 1, .limit_ns = FIRST });
	ADD(out, lease_packet, { LEASE(DISARM) });
	ADD(out, lease_packet, { LEASE(LAPSED) });
}

Test(agent, the_bytes_of_version_5_are_those_that_were_released)
{
	char *text = NULL, golden[16384] = "";
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes),
	     *file = fopen(AGENTS_FOLDER "/version_5.golden", "re");

	cr_assert(out && file);
	add_plain(out);
	add_requests(out);
	add_answers(out);
	add_lease(out);
	fclose(out);
	cr_assert_gt(fread(golden, 1, sizeof(golden) - 1, file), 0);
	fclose(file);
	cr_assert_str_eq(text, golden, "%s", text);
	free(text);
}

/* --- godwit's end, against an agent that answers with prepared bytes ------------------------- */

struct script {
	int listener;
	const void *answers[2]; /* one for each request, then the connection ends */
	size_t bytes[2];
	bool at_once; /* it answers before it has read anything, as a refusal does */
};

static void *play(void *argument)
{
	const struct script *script = argument;
	int fd = accept(script->listener, NULL, NULL);
	char request[8192];

	for (unsigned i = 0; i < 2 && script->answers[i]; i++)
		if (script->at_once || recv(fd, request, sizeof(request), 0) > 0)
			(void)!send(fd, script->answers[i], script->bytes[i], MSG_NOSIGNAL);
	if (!script->at_once)
		(void)!recv(fd, request, sizeof(request), 0);
	shutdown(fd, SHUT_RD);
	while (recv(fd, request, sizeof(request), MSG_DONTWAIT) > 0)
		;
	close(fd);
	return NULL;
}

/* Opens a client to an agent that plays @script, then asks for STOCK.  Return: 0 or -errno. */
static int meet(struct script *script, struct agent_client *agent, struct gw_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	pthread_t thread;
	int rc;

	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/gw-agent-%d.sock", getpid());
	unlink(address.sun_path);
	script->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(script->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(script->listener, 1), 0);
	cr_assert_eq(pthread_create(&thread, NULL, play, script), 0);
	rc = agent_open(agent, address.sun_path, error);
	if (rc == 0)
		rc = agent_ask(agent, AGENT_STOCK, error);
	agent_close(agent);
	pthread_join(thread, NULL);
	close(script->listener);
	unlink(address.sun_path);
	return rc;
}

/* Encodes by hand the answer of an agent that speaks @oldest to @newest and chose @version. */
static size_t put_answer(unsigned char *at, uint16_t version, uint16_t type, int32_t status,
			 uint16_t oldest, uint16_t newest, const char *text)
{
	int32_t pid = 4711;

	memset(at, 0, 512);
	memcpy(at, "GAWG", 4);
	memcpy(at + 4, &version, 2);
	memcpy(at + 6, &type, 2);
	memcpy(at + 8, &status, 4);
	memcpy(at + 12, &oldest, 2);
	memcpy(at + 14, &newest, 2);
	memcpy(at + 16, &pid, 4);
	strcpy((char *)at + 24, text);
	strcpy((char *)at + 408, "0.0.7");
	return 440;
}

Test(agent, a_newer_agent_that_still_speaks_ours_is_understood_and_what_it_adds_is_skipped)
{
	unsigned char hello[512], stock[512];
	struct script script = { .answers = { hello, stock }, .bytes = { 512, 512 } };
	struct gw_error error = { 0 };
	struct agent_client agent;

	put_answer(hello, 5, 1, 0, 4, 9, "");
	put_answer(stock, 5, 14, 0, 4, 9, "");
	memset(hello + 440, 0xff, 512 - 440);
	memset(stock + 408, 0xff, 512 - 408);
	cr_assert_eq(meet(&script, &agent, &error), 0, "%s", error.text);
	cr_assert_eq(agent.version, 5);
	cr_assert_eq(agent.vmm_pid, 4711);
	cr_assert_str_eq(agent.release, "0.0.7");
}

Test(agent, an_agent_without_a_common_version_is_told_of_in_its_words)
{
	unsigned char hello[512];
	size_t bytes = put_answer(hello, 5, 1, -EPROTONOSUPPORT, 6, 9,
				  "this VM runs under godwit 2.0");
	struct script script = { .answers = { hello }, .bytes = { bytes } };
	struct gw_error error = { 0 };
	struct agent_client agent;

	cr_assert_eq(meet(&script, &agent, &error), -EPROTONOSUPPORT);
	cr_assert_str_eq(error.text, "this VM runs under godwit 2.0");
	/* A refusal in an unknown version: only the header that all versions share. */
	put_answer(hello, 77, 1, -EPROTONOSUPPORT, 77, 78, "use godwit 9");
	script.bytes[0] = 408;
	memset(&error, 0, sizeof(error));
	cr_assert_eq(meet(&script, &agent, &error), -EPROTONOSUPPORT);
	cr_assert_str_eq(error.text, "use godwit 9");
}

Test(agent, an_agent_that_chooses_what_we_do_not_speak_is_refused)
{
	unsigned char hello[512];
	struct script script = { .answers = { hello },
				 .bytes = { put_answer(hello, 6, 1, 0, 6, 9, "") } };
	struct gw_error error = { 0 };
	struct agent_client agent;

	cr_assert_eq(meet(&script, &agent, &error), -EPROTONOSUPPORT);
	cr_assert(strstr(error.text, "version 6"), "%s", error.text);
}

Test(agent, an_agent_from_before_the_first_release_hangs_up_and_that_is_said)
{
	struct script script = { .answers = { NULL } };
	struct gw_error error = { 0 };
	struct agent_client agent;

	cr_assert_eq(meet(&script, &agent, &error), -ECONNRESET);
	cr_assert(strstr(error.text, "started anew"), "%s", error.text);
}

Test(agent, what_an_older_agent_cannot_do_is_said_by_name)
{
	unsigned char hello[512], stock[512];
	struct script script = { .answers = { hello, stock }, .bytes = { 440, 408 } };
	struct gw_error error = { 0 };
	struct agent_client agent;

	put_answer(hello, 5, 1, 0, 5, 5, "");
	put_answer(stock, 5, 14, -EBADRQC, 5, 5, "knows no request 14");
	cr_assert_eq(meet(&script, &agent, &error), -EBADRQC);
	cr_assert(strstr(error.text,
			 "godwit 0.0.7, whose agent cannot say how it reads and writes its disks"),
		  "%s", error.text);
}

Test(agent, a_refusal_that_comes_before_the_greeting_was_read_is_heard)
{
	unsigned char hello[512];
	size_t bytes = put_answer(hello, 0, 1, -EMFILE, 5, 5, "no descriptor");
	struct script script = { .answers = { hello }, .bytes = { bytes }, .at_once = true };
	struct gw_error error = { 0 };
	struct agent_client agent;

	cr_assert_eq(meet(&script, &agent, &error), -EMFILE);
	cr_assert_str_eq(error.text, "no descriptor");
}

Test(agent, half_an_answer_is_none)
{
	unsigned char hello[512];
	struct script script = { .answers = { hello },
				 .bytes = { put_answer(hello, 5, 1, 0, 5, 5, "") - 1 } };
	struct gw_error error = { 0 };
	struct agent_client agent;

	cr_assert_eq(meet(&script, &agent, &error), -ECONNRESET);
}
