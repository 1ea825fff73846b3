/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: slowing the guest
 *
 * The VM's throttle keeps its setting, so it is set only when converge finds the last one too weak.
 * Each change resets the measured rates of the guest.  The throttle is lifted just before the
 * pause, and when the guest is resumed after a failure.  The VM lifts it by itself when this
 * process dies.
 */
#include "engine/source.h"

#include "base/log.h"

int throttle_raise(struct gw_session *s, const struct converge_input *input)
{
	struct gw_throttle next = converge_throttle(input), *most = &s->status.throttled;
	int rc;

	if (!s->vm_ops->throttle)
		return 0;
	rc = s->vm_ops->throttle(s->vm, &next, &s->error);
	if (rc < 0)
		return rc;
	gw_debug("the guest dirties %.0f MiB/s, %.0f of it on disks: slowed by %u %%, disks to "
		 "%.0f MiB/s",
		 (input->memory_bytes_per_s + input->disk_bytes_per_s) / 1048576.0,
		 input->disk_bytes_per_s / 1048576.0, next.cpu_percent,
		 (double)next.disk_bytes_per_s / 1048576.0);
	s->status.throttle = next;
	if (next.cpu_percent > most->cpu_percent)
		most->cpu_percent = next.cpu_percent;
	if (next.disk_bytes_per_s &&
	    (!most->disk_bytes_per_s || next.disk_bytes_per_s < most->disk_bytes_per_s))
		most->disk_bytes_per_s = next.disk_bytes_per_s;
	if (!s->source.throttled_from_ns)
		s->source.throttled_from_ns = session_now(s);
	s->source.dirty_rate = s->source.disk_rate = (struct gw_rate){ .last_ns = 0 };
	gw_rate_add(&s->source.dirty_rate, session_now(s), 0);
	gw_rate_add(&s->source.disk_rate, session_now(s), 0);
	return 0;
}

void throttle_lift(struct gw_session *s)
{
	struct gw_throttle none = { 0 };
	struct gw_error error = { 0 };

	if (!s->source.throttled_from_ns)
		return;
	if (s->vm_ops->throttle(s->vm, &none, &error) < 0)
		gw_debug("the throttle: %s", error.text); /* the VM lifts it by itself */
	s->status.throttled_ns += session_now(s) - s->source.throttled_from_ns;
	s->source.throttled_from_ns = 0;
	s->status.throttle = none;
}
