/* SPDX-License-Identifier: Apache-2.0 */
#include "base/imagelock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define VMM_FIRST 100 /* permissions: read, write, write unchanged, resize, reserved */
#define VMM_BYTES 100
#define VMM_WRITE_FIRST 101
#define VMM_WRITE_BYTES 3
#define SENT 0x676f647769740000 /* offsets for locks only: no image has these bytes */
#define RECEIVED (SENT + 1)
/* A lock of the process.  Of a lock of a file description the kernel does not tell the process. */
#define RECEIVER (SENT + 2)
/*
 * A killed process loses RECEIVER at once, and RECEIVED when the kernel has ended its last request.
 */
#define DYING_TRIES 100
#define DYING_TRY_US 10000

static struct flock lock_of(short type, off_t first, off_t bytes)
{
	return (struct flock){
		.l_type = type, .l_whence = SEEK_SET, .l_start = first, .l_len = bytes
	};
}

static bool is_locked(int fd, off_t first, off_t bytes)
{
	struct flock lock = lock_of(F_WRLCK, first, bytes);

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool gw_image_is_used(int fd)
{
	return is_locked(fd, VMM_FIRST, VMM_BYTES);
}

bool gw_image_is_written(int fd)
{
	return is_locked(fd, VMM_WRITE_FIRST, VMM_WRITE_BYTES);
}

void gw_image_lock_sent(int fd)
{
	struct flock lock = lock_of(F_RDLCK, SENT, 1);

	(void)fcntl(fd, F_OFD_SETLK, &lock);
}

bool gw_image_is_sent(int fd)
{
	return is_locked(fd, SENT, 1);
}

/* Return: the id of another process that receives into the image; 0: unknown, or none. */
static pid_t receiver_of(int fd)
{
	struct flock name = lock_of(F_WRLCK, RECEIVER, 1);

	return fcntl(fd, F_GETLK, &name) == 0 && name.l_type != F_UNLCK && name.l_pid > 0
		       ? name.l_pid
		       : 0;
}

int gw_image_is_received(int fd, pid_t *holder)
{
	*holder = 0;
	for (int tries = 0; is_locked(fd, RECEIVED, 1); tries++) {
		*holder = receiver_of(fd);
		if (*holder != 0 || tries == DYING_TRIES)
			return -EBUSY;
		(void)usleep(DYING_TRY_US);
	}
	return 0;
}

int gw_image_lock_received(int fd, pid_t *holder)
{
	struct flock lock = lock_of(F_WRLCK, RECEIVED, 1), name = lock_of(F_WRLCK, RECEIVER, 1);
	int rc = gw_image_is_received(fd, holder);

	if (rc < 0)
		return rc;
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
	/* Only for an error text: this lock ends when any descriptor of the file is closed. */
	(void)fcntl(fd, F_SETLK, &name);
	return 0;
}

void gw_image_unlock_received(int fd)
{
	struct flock lock = lock_of(F_UNLCK, RECEIVED, 1), name = lock_of(F_UNLCK, RECEIVER, 1);

	(void)fcntl(fd, F_SETLK, &name);
	(void)fcntl(fd, F_OFD_SETLK, &lock);
}
