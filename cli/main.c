/* SPDX-License-Identifier: Apache-2.0 */
/* godwit: the table of subcommands, and main(). */
#include "cli/cli.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define JSON_OPTION "json", 0, NULL, "print JSON instead of text"
#define QUIET_OPTION "quiet", 'q', NULL, "print nothing but errors"
#define VERBOSE_OPTION "verbose", 'v', NULL, "log each step"
#define FAULT_OPTION        \
	"fault", 0, "SPEC", \
		"rehearse a failure: fail@N, cut@N, corrupt@N, drop@N or rail@N, at the N-th call"

const struct command commands[] = {
	{ "run",
	  "--name NAME [--] VMM [ARGUMENT...]",
	  "start a VMM so that its guest can be moved",
	  cmd_run,
	  { { "name", 'n', "NAME", "the guest's name; the same on both hosts" },
	    { "no-alias", 0, NULL,
	      "give KVM the guest's memory at the VMM's own addresses; godwit cannot use KVM's log "
	      "then" },
	    { "strict", 0, NULL, "do not start a VMM whose guest could not be moved" },
	    { "check", 0, NULL, "only check the command line; start nothing" } } },
	{ "list",
	  "[--json]",
	  "show the guests that run under godwit here",
	  cmd_list,
	  { { JSON_OPTION } } },
	{ "receive",
	  "--name NAME --listen ADDR:PORT",
	  "wait for a guest and take it over",
	  cmd_receive,
	  { { "name", 'n', "NAME", "the waiting VM (godwit run ... -incoming defer)" },
	    { "listen", 'l', "ADDR:PORT",
	      "where to listen: a loopback address, unless --insecure; port 0 takes any" },
	    { "guest", 0, "GUEST", "take this guest only; default: NAME" },
	    { "rails", 0, "ADDR,ADDR",
	      "more addresses of RDMA devices to offer; default: all of them when listening on all "
	      "addresses" },
	    { "tcp", 0, NULL, "offer no RDMA" },
	    { "insecure", 0, NULL,
	      "listen beyond loopback although the peer is not authenticated" },
	    { "hook", 0, "COMMAND",
	      "run when all RAM is here, before the guest is taken; if it fails the guest stays" },
	    { "overwrite", 0, NULL, "replace disk images here that are not empty" },
	    { "paused", 0, NULL, "take the guest but leave it paused; 'godwit resume' starts it" },
	    { JSON_OPTION },
	    { QUIET_OPTION },
	    { VERBOSE_OPTION },
	    { FAULT_OPTION } } },
	{ "migrate",
	  "[OPTION...] NAME URI",
	  "move a running guest to another host",
	  cmd_migrate,
	  { { "detach", 'd', NULL, "return once the copy has begun; see 'godwit status'" },
	    { "channels", 'c', "N", "data connections, 1 to 32; default 4" },
	    { "queue-pairs", 0, "N", "RDMA queue pairs for each device, 1 to 8; default 4" },
	    { "downtime", 0, "MS", "longest blackout allowed, in milliseconds; default 300" },
	    { "pause-limit", 0, "MS",
	      "resume the guest here after a pause of this length; default 5000, never below "
	      "--downtime" },
	    { "hook-limit", 0, "S",
	      "most seconds that the destination's --hook may add to the pause; default 30" },
	    { "block", 'b', NULL,
	      "move the disks too, with all their layers; without it both hosts share them" },
	    { "incremental", 'i', NULL,
	      "move only the top layer of the disks; their base is on both hosts" },
	    { "disk", 0, "NAME[=PATH],...",
	      "move only these disks; PATH: the disk's image at the destination" },
	    { "bandwidth", 0, "RATE",
	      "limit while the guest runs: 500M (bytes), 10Gbit; default none" },
	    { "rounds", 0, "N", "most rounds after the bulk; default 50" },
	    { "max-time", 0, "S", "most seconds of copying; default none" },
	    { "on-limit", 0, "POLICY",
	      "for a guest that writes too fast: throttle (default) slows it, give-up, stop-copy" },
	    { "no-rehearsal", 0, NULL,
	      "do not stop the guest for a moment beforehand to measure saving its devices; "
	      "estimate the time" },
	    { "tracker", 0, "NAME",
	      "track memory by kvm_log+wp_async, kvm_log+wp_sync, wp_async or wp_sync; default: "
	      "the best" },
	    { "allow-untracked", 0, "DEVICE,...",
	      "move the guest although these devices may write to its memory unseen" },
	    { "as", 0, "GUEST", "the guest's name at the receiver; default: NAME" },
	    { "quit", 0, NULL, "end the source's VMM after success; default: leave it paused" },
	    { "zero-copy", 'z', NULL,
	      "send pages by reference, for a fast network card; slower on loopback" },
	    { JSON_OPTION },
	    { QUIET_OPTION },
	    { VERBOSE_OPTION },
	    { FAULT_OPTION } } },
	{ "status",
	  "[--json] [--watch] NAME",
	  "show the state of a guest's migration",
	  cmd_status,
	  { { JSON_OPTION }, { "watch", 'w', NULL, "repeat it until the migration ends" } } },
	{ "cancel",
	  "NAME",
	  "end a guest's migration, or a receiver's wait; the guest runs on at its source",
	  cmd_cancel,
	  { { 0 } } },
	{ "resume",
	  "[--force] NAME",
	  "let a paused guest run, after you made sure that it runs nowhere else",
	  cmd_resume,
	  { { "force", 0, NULL,
	      "resume even a guest that the last migration is known to have handed over" } } },
	{ "bench",
	  "--listen ADDR:PORT | [OPTION...] URI",
	  "measure a link, memory to memory, by the path that a guest takes",
	  cmd_bench,
	  { { "listen", 'l', "ADDR:PORT", "be the receiving end, for one source after another" },
	    { "size", 's', "BYTES", "memory to move, at both ends; default 4G" },
	    { "chunk", 0, "BYTES", "largest piece; at most 1M, the default" },
	    { "zero", 0, "PERCENT", "share of pages that are zero; default 0" },
	    { "fresh", 0, NULL, "do not allocate the destination's memory beforehand" },
	    { "channels", 'c', "N", "data connections, 1 to 32; default 4" },
	    { "queue-pairs", 0, "N", "RDMA queue pairs for each device, 1 to 8; default 4" },
	    { "zero-copy", 'z', NULL, "TCP: send pages by reference" },
	    { "tcp", 0, NULL, "with --listen: offer no RDMA" },
	    { "insecure", 0, NULL, "with --listen: listen beyond loopback" },
	    { JSON_OPTION } } },
	{ "probe",
	  "[--json] [URI]",
	  "show what this host can do, which transport URI would choose, and the remedy of each "
	  "shortage",
	  cmd_probe,
	  { { JSON_OPTION } } },
	{ 0 },
};

static void print_help(void)
{
	printf("godwit moves running virtual machines between hosts.\n\nUsage: godwit COMMAND "
	       "[OPTION...]\n\n");
	for (const struct command *c = commands; c->name; c++)
		printf("  %-9s %s\n", c->name, c->summary);
	printf("\n'godwit help COMMAND' explains a command, godwit(1) everything.\n");
}

static const struct command *find_command(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	fprintf(stderr, "godwit: there is no command '%s'; 'godwit --help' lists them\n", name);
	return NULL;
}

static int help(const char *name)
{
	const struct command *command = name ? find_command(name) : NULL;

	if (command)
		print_command_help(command);
	else if (!name)
		print_help();
	return name && !command ? EXIT_USAGE : EXIT_DONE;
}

/*
 * The exit status of these commands tells which side has the guest.  Lost output does not change
 * it.
 */
static bool moves_guest(const struct command *command)
{
	return command->run == cmd_migrate || command->run == cmd_receive ||
	       command->run == cmd_cancel || command->run == cmd_resume;
}

/* Reports output that was lost, on a full disk for example, as a failure.  @command NULL: none. */
static int check_output(int code, const struct command *command)
{
	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	fprintf(stderr, "godwit: the output cannot be written: %s\n",
		errno ? strerror(errno) : "some of it was lost");
	return code == EXIT_DONE && !(command && moves_guest(command)) ? EXIT_FAILED : code;
}

/*
 * Opens /dev/null in place of closed standard streams.  Otherwise a socket or the guest's memory
 * could get the number of such a stream, and receive output.  Return: false when a number cannot be
 * taken.
 */
static bool hold_standard_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return false;
	return true;
}

/* Answers `help` and `--version`.  Return: an exit code, or -1 for another word. */
static int answer_alone(int count, char **words)
{
	bool version = strcmp(words[0], "--version") == 0;
	bool wants_help = strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0 ||
			  strcmp(words[0], "help") == 0;
	int most = version ? 1 : 2;

	if (!version && !wants_help)
		return -1;
	if (count > most) {
		fprintf(stderr, "godwit %s: the word '%s' is one too many\n", words[0],
			words[most]);
		return EXIT_USAGE;
	}
	if (wants_help)
		return help(count > 1 ? words[1] : NULL);
	printf("godwit %s\n", GODWIT_VERSION);
	return EXIT_DONE;
}

int main(int argc, char **argv)
{
	const struct command *command;
	int code;

	if (!hold_standard_streams())
		return EXIT_FAILED;
	if (argc < 2) {
		print_help();
		return EXIT_USAGE;
	}
	code = answer_alone(argc - 1, argv + 1);
	if (code >= 0)
		return check_output(code, NULL);
	command = find_command(argv[1]);
	if (!command)
		return EXIT_USAGE;
	return check_output(command->run(command, argc - 1, argv + 1), command);
}
