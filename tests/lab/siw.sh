# SPDX-License-Identifier: Apache-2.0
# lab: quick  the same over siw (iWARP), which has no immediate data: marks are sent
set -u
cd "$GODWIT_BUILD/tests" || exit 1
export LAB_ADDRESS=198.18.2.1
rc=0
for program in contract_rdma "promises_rdma seal" "sim_verbs 100 ${LAB_SEEDS:-6}"; do
	echo "== $program"
	./$program || rc=1
done
echo "== bench and probe"
python3 "$LAB_TESTS/e2e/test_bench.py" || rc=1
exit $rc
