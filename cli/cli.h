/* SPDX-License-Identifier: Apache-2.0 */
/* The command: what its subcommands share.  Internal to cli. */
#ifndef GODWIT_CLI_CLI_H
#define GODWIT_CLI_CLI_H

#include "engine/engine.h"
#include "vmm/vmm.h"

#include <jansson.h>
#include <time.h>

/* Exit codes; godwit(1) documents them, a test holds the two together. */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,    /* nothing moved; the source's guest runs as if nothing had been asked */
	EXIT_USAGE = 2,     /* the command line is wrong */
	EXIT_CANCELLED = 3, /* as 1, on request */
	EXIT_UNCERTAIN = 4, /* the link died in the window in which nobody can know: settle it by hand */
	EXIT_NO_VM = 5,     /* no such VM, or one that cannot be moved */
	EXIT_NOT_STARTED = 6, /* the destination owns the guest but could not start it: it is paused there */
};

/* --- options ------------------------------------------------------------------------------------ */

#define MAX_OPTIONS 28

struct option_spec {
	const char *name;  /* without the dashes */
	char letter;       /* 0: none */
	const char *value; /* name of its value for people; NULL: a switch */
	const char *help;
};

struct command {
	const char *name;
	const char *arguments; /* of the synopsis */
	const char *summary;
	int (*run)(const struct command *command, int argc, char **argv);
	struct option_spec options[MAX_OPTIONS]; /* ends at a row without a name */
};

/* What was given, by the row of the option: NULL when absent, "" for a switch. */
struct given {
	const char *values[MAX_OPTIONS];
	int count; /* of what remains */
	char **rest;
};

extern const struct command commands[];

/*
 * Parses the words of a subcommand; argv[0] is its name.  Options end at "--" or, with @stop_at_first, at the first word
 * that is none.  Words that are no options move to the end of @argv, where given->rest is.
 * Return: 0; 1 when --help was given and answered; -EINVAL after a complaint on stderr.
 */
int parse_options(const struct command *command, int argc, char **argv, bool stop_at_first, struct given *given)
	GW_MUST_CHECK;

/* The value of option @name, or NULL. */
const char *option_value(const struct command *command, const struct given *given, const char *name);

/*
 * Reads a whole number in [low, high] into *number, if the option was given.
 * Return: 0, or -EINVAL after a complaint.
 */
int option_number(const struct command *command, const struct given *given, const char *name, uint64_t low,
		  uint64_t high, uint64_t *number) GW_MUST_CHECK;

void print_command_help(const struct command *command);

/* Complains: "godwit migrate: TEXT".  With --json, which parse_options() notes, a line of JSON says so on stdout too. */
void complain(const struct command *command, const char *format, ...) GW_PRINTF(2, 3);

int cmd_run(const struct command *command, int argc, char **argv);
int cmd_list(const struct command *command, int argc, char **argv);
int cmd_migrate(const struct command *command, int argc, char **argv);
int cmd_receive(const struct command *command, int argc, char **argv);
int cmd_status(const struct command *command, int argc, char **argv);
int cmd_cancel(const struct command *command, int argc, char **argv);
int cmd_bench(const struct command *command, int argc, char **argv);
int cmd_probe(const struct command *command, int argc, char **argv);
int cmd_resume(const struct command *command, int argc, char **argv);

/* --- a VM for the engine -------------------------------------------------------------------------- */

struct cli_vm {
	const char *name;
	struct gw_vmm *vmm;
	const struct report *report; /* source: who hears what takes long; NULL: nobody */
	bool is_source;
	const char *tracker; /* source: how memory is to be tracked; NULL: the best way */
	bool no_rehearsal;     /* source: the guest is stopped once alone */
	const char *untracked; /* source: devices that may write unseen, "NAME,..."; NULL: none */
	const char *hook;  /* receiver: run when all memory is here; NULL: none */
	int hook_pid;      /* 0: it does not run */
	bool leave_paused; /* receiver: do not start the guest */
	struct gw_region regions[GW_VMM_MAX_REGIONS];
	unsigned region_count;
	struct gw_vmm_image images[GW_VMM_MAX_IMAGES]; /* those that move; at the receiver all */
	unsigned image_count, all_count;
	struct gw_vmm_image all_images[GW_VMM_MAX_IMAGES]; /* source: all of them, when the session began */
	struct timespec written[GW_VMM_MAX_IMAGES]; /* of all_images: a file that does not move, when it was last written to */
	struct cli_layer {
		const struct gw_vmm_image *image, *below; /* below NULL: none */
	} layers[GW_VMM_MAX_IMAGES]; /* receiver: of images */
	struct gw_disks *disks; /* NULL: none move */
	struct gw_vmm_fact *described; /* GW_VMM_MAX_FACTS of them, made at the first need */
	struct gw_fact *facts;         /* the same, for the engine */
	unsigned fact_count;
	struct gw_vmm_parts *parts; /* source: what it had when it was described; NULL: not yet */
	uint64_t looked_ns; /* source: when disks were last compared with that while the guest stood */
};

enum cli_disk_mode { CLI_DISKS_NONE, CLI_DISKS_ALL, CLI_DISKS_TOP };

struct cli_disk_plan {
	enum cli_disk_mode mode;
	const char *only; /* "NAME[=PATH],...": these disks alone; NULL: all that the guest may write to */
};

/* Source: opens the images that are to move, vm->disks.  Return: 0, or -errno with @error set. */
int cli_disks_open(struct cli_vm *vm, const struct cli_disk_plan *plan, struct gw_error *error) GW_MUST_CHECK;
/* Receiver: opens all images of the VMM's disks to be written; vm->disks stays NULL when it has none. */
int cli_disks_receive(struct cli_vm *vm, bool overwrite, struct gw_error *error) GW_MUST_CHECK;
int cli_disks_track(struct cli_vm *vm, struct gw_tracker **tracker, struct gw_error *error) GW_MUST_CHECK;
/*
 * Whether all layers of the VMM's disks are unchanged, and no block job is under way.  Return: 0, or -EBUSY with @error naming the
 * change.
 */
int cli_disks_recheck(struct cli_vm *vm, struct gw_error *error) GW_MUST_CHECK;
/*
 * The paused guest: whether a layer that does not move was written to since it was compared.  No file system is waited for.
 * Return: as above.
 */
int cli_disks_still(const struct cli_vm *vm, struct gw_error *error) GW_MUST_CHECK;
void cli_disks_close(struct cli_vm *vm);

/* facts.c: what must be the same at the other end; see gw_vm_ops.  cli_facts_close() frees the facts. */
int cli_facts(void *vm, const struct gw_fact **facts, unsigned *count, struct gw_error *error) GW_MUST_CHECK;
void cli_facts_close(struct cli_vm *vm);
/* Source: whether the VM would still be described as it was.  Return: 0, or -EBUSY with @error saying what changed. */
int cli_facts_recheck(const struct cli_vm *vm, struct gw_error *error) GW_MUST_CHECK;

extern const struct gw_vm_ops cli_vm_ops;

/* The guest's name on the wire: @name if its field there can hold it, otherwise a short name that stands for it. */
void cli_guest_name(const char *name, char text[GW_NAME_BYTES]);

/* Attaches and maps the RAM.  Return: 0, or -errno with @error set. */
int cli_vm_open(struct cli_vm *vm, const char *name, bool writable, struct gw_error *error) GW_MUST_CHECK;
void cli_vm_close(struct cli_vm *vm);

/* --- telling people ------------------------------------------------------------------------------- */

enum output { OUTPUT_AUTO, OUTPUT_QUIET, OUTPUT_JSON };

struct report {
	enum output output;
	bool terminal;
	const char *name;
	enum gw_state last_state;
	uint64_t last_ns;
	bool line_open; /* a progress line without its newline */
	size_t drawn;   /* how long that line is */
};

#define PROGRESS_BYTES 256

/* progress.c: the line of a terminal, at most @columns wide, without escapes.  Pure. */
void progress_line(const struct gw_status *status, size_t columns, char line[PROGRESS_BYTES]);

void report_init(struct report *report, enum output output, const char *name);

/* Says what takes long before the session can show it.  @report NULL: to nobody. */
void report_step(const struct report *report, const char *format, ...) GW_PRINTF(2, 3);

/* Shows where the session is; as often as it is called it prints a few times a second. */
void report_progress(struct report *report, const struct gw_status *status);

/* Whether a line would have to wait for whoever reads this descriptor: a full pipe, a terminal that was stopped. */
bool report_would_block(int fd);

/* Says what carries the memory, and why (gw_link_note()). */
void report_link(const struct report *report, const char *note);

/* The end: summary or reason. */
void report_end(struct report *report, const struct gw_status *status, const char *peer);

/* A string of @text, in which U+FFFD stands for each byte that is no UTF-8.  NULL when there is no memory. */
json_t *json_text(const char *text);

/* Prints @value, which it takes over, as one line on stdout.  NULL prints nothing. */
void print_json_line(json_t *value);

/* The status as JSON, with units in the names.  NULL when there is no memory. */
json_t *status_json(const struct gw_status *status, const char *name);

/* --- running a session -------------------------------------------------------------------------------- */

struct monitor;

/* Steps until the end; ^C and SIGTERM cancel.  @started, if not NULL, is called once copying has begun (gw_status.begun). */
void run_session(struct gw_session *session, struct monitor *monitor, struct report *report,
		 void (*started)(void *context), void *context);

/* Ends on signals what waits outside of a session. */
bool interrupted(void);
void catch_signals(void);

int exit_code_of(const struct gw_status *status);

#endif
