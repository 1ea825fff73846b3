/* SPDX-License-Identifier: Apache-2.0 */
/* The command: its subcommands, and their shared parts.  Internal to cli. */
#ifndef GODWIT_CLI_CLI_H
#define GODWIT_CLI_CLI_H

#include "engine/engine.h"
#include "vmm/vmm.h"

#include <jansson.h>
#include <time.h>

/* Exit codes; godwit(1) documents them, and style_man compares the two. */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,    /* nothing moved; the source's guest runs as before */
	EXIT_USAGE = 2,     /* the command line is wrong */
	EXIT_CANCELLED = 3, /* as EXIT_FAILED, on request */
	/* the link died during the handover: the user settles who owns the guest */
	EXIT_UNCERTAIN = 4,
	EXIT_NO_VM = 5, /* no such VM, or a VM that cannot be moved */
	/* the destination owns the guest but could not start it: it is paused there */
	EXIT_NOT_STARTED = 6,
};

/* --- options ------------------------------------------------------------------------------- */

#define MAX_OPTIONS 28

struct option_spec {
	const char *name;  /* without the dashes */
	char letter;       /* 0: none */
	const char *value; /* name of its value in --help; NULL: a switch */
	const char *help;
};

struct command {
	const char *name;
	const char *arguments; /* of the synopsis */
	const char *summary;
	int (*run)(const struct command *command, int argc, char **argv);
	struct option_spec options[MAX_OPTIONS]; /* ends at a row without a name */
};

/* The given values, by the row of the option: NULL when absent, "" for a switch. */
struct given {
	const char *values[MAX_OPTIONS];
	int count; /* number of words in @rest */
	char **rest;
};

extern const struct command commands[];

/*
 * Parses the words of a subcommand; argv[0] is its name.  Options end at "--" or, with
 * @stop_at_first, at the first word that is not an option.  Other words move to the end of @argv,
 * where given->rest points.
 * Return: 0; 1 when --help was given and answered; -EINVAL after a complaint on stderr.
 */
int parse_options(const struct command *command, int argc, char **argv, bool stop_at_first,
		  struct given *given) GW_MUST_CHECK;

/* Return: the value of option @name, or NULL. */
const char *option_value(const struct command *command, const struct given *given,
			 const char *name);

/*
 * Reads a whole number in [low, high] into *number, if the option was given.
 * Return: 0, or -EINVAL after a complaint.
 */
int option_number(const struct command *command, const struct given *given, const char *name,
		  uint64_t low, uint64_t high, uint64_t *number) GW_MUST_CHECK;

/* Reads --fault into *fault; NULL: not given.  Return: 0, or -EINVAL after a complaint. */
int option_fault(const struct command *command, const struct given *given,
		 const char **fault) GW_MUST_CHECK;

/* Prints the help of @command on stdout. */
void print_command_help(const struct command *command);

/*
 * Prints "godwit migrate: TEXT" on stderr.  With --json, which parse_options() has noted, prints a
 * line of JSON on stdout too.
 */
void complain(const struct command *command, const char *format, ...) GW_PRINTF(2, 3);

/* The subcommands.  @argv[0] is the subcommand's name.  Return: the exit code. */
int cmd_run(const struct command *command, int argc, char **argv);
int cmd_list(const struct command *command, int argc, char **argv);
int cmd_migrate(const struct command *command, int argc, char **argv);
int cmd_receive(const struct command *command, int argc, char **argv);
int cmd_status(const struct command *command, int argc, char **argv);
int cmd_cancel(const struct command *command, int argc, char **argv);
int cmd_bench(const struct command *command, int argc, char **argv);
int cmd_probe(const struct command *command, int argc, char **argv);
int cmd_resume(const struct command *command, int argc, char **argv);

/* --- a VM for the engine ------------------------------------------------------------------- */

struct cli_vm {
	const char *name;
	struct gw_vmm *vmm;
	const struct report *report; /* source: where long steps are announced; NULL: nowhere */
	bool is_source;
	const char *tracker; /* source: the tracker of memory; NULL: the best */
	bool no_rehearsal;   /* source: the guest is stopped only once, for the handover */
	/* source: devices that may write untracked, "NAME,..."; NULL: none */
	const char *untracked;
	const char *hook;  /* receiver: command to run when all memory is here; NULL: none */
	int hook_pid;      /* 0: the hook does not run */
	bool leave_paused; /* receiver: do not start the guest */
	struct gw_region regions[GW_VMM_MAX_REGIONS];
	unsigned region_count;
	/* the images that move; at the receiver all */
	struct gw_vmm_image images[GW_VMM_MAX_IMAGES];
	unsigned image_count, all_count;
	/* source: all images, as the session began */
	struct gw_vmm_image all_images[GW_VMM_MAX_IMAGES];
	/* by all_images: the last write to a file that does not move */
	struct timespec written[GW_VMM_MAX_IMAGES];
	/* receiver: the layers, by @images; below NULL: none */
	struct cli_layer {
		const struct gw_vmm_image *image, *below;
	} layers[GW_VMM_MAX_IMAGES];
	struct gw_disks *disks;        /* NULL: no disk moves */
	struct gw_vmm_fact *described; /* GW_VMM_MAX_FACTS elements; allocated at the first use */
	struct gw_fact *facts;         /* the same facts, for the engine */
	unsigned fact_count;
	/* source: the VM's parts as described; NULL: not yet described */
	struct gw_vmm_parts *parts;
	/* source: when the disks were last compared with @parts, while the guest was paused */
	uint64_t looked_ns;
};

enum cli_disk_mode { CLI_DISKS_NONE, CLI_DISKS_ALL, CLI_DISKS_TOP };

struct cli_disk_plan {
	enum cli_disk_mode mode;
	/* "NAME[=PATH],...": only these disks; NULL: all that the guest may write to */
	const char *only;
};

/*
 * Source: opens the images that move, vm->disks.  May read whole base images.  Return: 0, or -errno
 * with @error set; -ECANCELED after ^C.  cli_disks_close() closes them in either case.
 */
int cli_disks_open(struct cli_vm *vm, const struct cli_disk_plan *plan,
		   struct gw_error *error) GW_MUST_CHECK;
/*
 * Receiver: opens all images of the VMM's disks for writing.  vm->disks stays NULL when the VMM has
 * none.  Return: as above.
 */
int cli_disks_receive(struct cli_vm *vm, bool overwrite, struct gw_error *error) GW_MUST_CHECK;

/*
 * Source: opens the tracker of the images that move.  Return: 0 and *tracker, or -errno with @error
 * set.
 */
int cli_disks_track(struct cli_vm *vm, struct gw_tracker **tracker,
		    struct gw_error *error) GW_MUST_CHECK;
/*
 * Checks that all layers of the VMM's disks are unchanged since cli_disks_open(), and no block job
 * is under way.
 * Return: 0, or -EBUSY with @error naming the change.
 */
int cli_disks_recheck(struct cli_vm *vm, struct gw_error *error) GW_MUST_CHECK;
/*
 * Checks, while the guest is paused, that no layer that does not move was written to since it was
 * compared.  Does not wait for a file system.
 * Return: as above.
 */
int cli_disks_still(const struct cli_vm *vm, struct gw_error *error) GW_MUST_CHECK;

/* Closes the images.  Safe without images. */
void cli_disks_close(struct cli_vm *vm);

/*
 * facts.c: describes the facts that must be equal at both ends, as gw_vm_ops.describe.  *facts lies
 * in the VM until cli_facts_close().
 */
int cli_facts(void *vm, const struct gw_fact **facts, unsigned *count,
	      struct gw_error *error) GW_MUST_CHECK;

/* Frees the facts.  Safe without facts. */
void cli_facts_close(struct cli_vm *vm);
/*
 * Source: checks that the VM's description is unchanged.  Return: 0, or -EBUSY with @error naming
 * the change.
 */
int cli_facts_recheck(const struct cli_vm *vm, struct gw_error *error) GW_MUST_CHECK;

extern const struct gw_vm_ops cli_vm_ops;

/*
 * Writes the guest's name on the wire to @text: @name if it fits the field, otherwise a short name
 * derived from it.
 */
void cli_guest_name(const char *name, char text[GW_NAME_BYTES]);

/*
 * Attaches to VM @name and maps its RAM.  Return: 0, or -errno with @error set.  cli_vm_close()
 * releases @vm in either case.
 */
int cli_vm_open(struct cli_vm *vm, const char *name, bool writable,
		struct gw_error *error) GW_MUST_CHECK;

/* Closes the images, unmaps the RAM and detaches from the VM. */
void cli_vm_close(struct cli_vm *vm);

/* --- messages to the user ------------------------------------------------------------------ */

enum output { OUTPUT_AUTO, OUTPUT_QUIET, OUTPUT_JSON };

/* The output that --json and --quiet choose. */
enum output option_output(const struct command *command, const struct given *given);

struct report {
	enum output output;
	bool terminal;
	const char *name;
	enum gw_state last_state;
	uint64_t last_ns;
	bool line_open; /* a progress line is drawn without its newline */
	size_t drawn;   /* the length of that line */
};

#define PROGRESS_BYTES 256

/*
 * progress.c: writes the progress line of a terminal, at most @columns wide, without escapes.
 * Pure.
 */
void progress_line(const struct gw_status *status, size_t columns, char line[PROGRESS_BYTES]);

/* Prepares @report.  @name, the VM's, must outlive it. */
void report_init(struct report *report, enum output output, const char *name);

/*
 * Announces a long step before the session's own progress can show it.  @report NULL: prints
 * nothing.
 */
void report_step(const struct report *report, const char *format, ...) GW_PRINTF(2, 3);

/*
 * Shows the session's progress.  Prints a few times a second at most, however often it is called.
 */
void report_progress(struct report *report, const struct gw_status *status);

/* Whether a write to @fd would block: a full pipe, or a stopped terminal. */
bool report_would_block(int fd);

/* Prints which transport carries the memory, and why (gw_link_note()). */
void report_link(const struct report *report, const char *note);

/* Prints the summary, or the reason of the failure. */
void report_end(struct report *report, const struct gw_status *status, const char *peer);

/* A JSON string of @text, with U+FFFD for each byte that is not UTF-8.  NULL without memory. */
json_t *json_text(const char *text);

/* Prints @value as one line on stdout, and releases it.  NULL prints nothing. */
void print_json_line(json_t *value);

/* The status as JSON, with units in the names.  NULL without memory. */
json_t *status_json(const struct gw_status *status, const char *name);

/* --- running a session --------------------------------------------------------------------- */

struct monitor;

/*
 * Steps the session to its end.  ^C, SIGTERM and SIGHUP cancel it.  @started, if not NULL, is
 * called once copying has begun (gw_status.begun).
 */
void run_session(struct gw_session *session, struct monitor *monitor, struct report *report,
		 void (*started)(void *context), void *context);

/*
 * interrupted(): whether ^C, SIGTERM or SIGHUP came.  catch_signals(): catches them; call once,
 * before interrupted().
 */
bool interrupted(void);
void catch_signals(void);

/* The exit code for the end of a session. */
int exit_code_of(const struct gw_status *status);

#endif
