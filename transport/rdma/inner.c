/* SPDX-License-Identifier: Apache-2.0 */
/* How the other files speak to the TCP link inside an RDMA link. */
#include "transport/rdma/inner.h"

#include "transport/tcp.h"

#include <errno.h>
#include <string.h>

int rdma_say(struct rdma *rdma, unsigned type, uint32_t bytes)
{
	int rc = gw_link_message(rdma->inner, (uint16_t)type, rdma->out, bytes);

	return rc == -EAGAIN ? 0 : rc < 0 ? rc : 1;
}

int rdma_error(struct rdma *rdma, int rc)
{
	if (rc >= 0 || rdma->link.error.code)
		return rc < 0 ? rdma->link.error.code : rc;
	if (rdma->inner->error.code)
		rdma->link.error = rdma->inner->error;
	else if (rc == -EPROTO)
		gw_error_set(&rdma->link.error, rc, "%s sent what is not of godwit's RDMA protocol", rdma->link.peer);
	else
		gw_error_set(&rdma->link.error, rc, "RDMA: %s", strerror(-rc));
	return rdma->link.error.code;
}

void rdma_wake(struct rdma *rdma)
{
	if (rdma->inner)
		tcp_wake((struct tcp *)rdma->inner);
}

int rdma_control_fd(const struct rdma *rdma)
{
	return ((const struct tcp *)rdma->inner)->control.fd;
}
