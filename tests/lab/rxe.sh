# SPDX-License-Identifier: Apache-2.0
# lab: quick  the contract of all links, the promises of RDMA beyond it, and simulated guests, over two rxe devices
set -u
cd "$GODWIT_BUILD/tests" || exit 1
export LAB_ADDRESS=198.18.0.1 LAB_RAIL=198.18.1.1
rc=0
for program in contract_rdma promises_rdma "sim_verbs 1 ${LAB_SEEDS:-8}"; do
	echo "== $program"
	./$program || rc=1
done
echo "== bench and probe"
python3 "$LAB_TESTS/e2e/test_bench.py" || rc=1
echo "== bad peers and bad devices"
python3 "$LAB_TESTS/lab/test_peers.py" || rc=1
# Credits: the receiver was never found not ready.
for counter in /sys/class/infiniband/gwrxe?/ports/1/hw_counters/{send_rnr_err,rcvd_rnr_err,retry_rnr_exceeded_err}; do
	[ "$(cat "$counter")" = 0 ] || { echo "FAILED: $counter is $(cat "$counter")"; rc=1; }
done
exit $rc
