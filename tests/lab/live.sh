# SPDX-License-Identifier: Apache-2.0
# lab: full  real guests under nested KVM move over rxe; rails break, a device is pulled, a sparse guest stays sparse
"$LAB_TESTS/lab/devices" up 2>/dev/null
export GODWIT_ACCEL=kvm GODWIT_ADDRESS=198.18.0.1 GODWIT_GUEST=$LAB_JOB GODWIT_SLOW=3
python3 "$LAB_TESTS/lab/live_rdma.py" $LAB_ARGS
