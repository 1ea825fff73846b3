# SPDX-License-Identifier: Apache-2.0
# lab: twohosts  two hosts with two rails: the load on both; one cut, both cut, all cut, the destination killed
export GODWIT_ACCEL=kvm GODWIT_GUEST=$LAB_JOB GODWIT_SLOW=3
exec python3 "$LAB_TESTS/lab/two_hosts.py" $LAB_ARGS
