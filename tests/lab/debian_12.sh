# SPDX-License-Identifier: Apache-2.0
# lab: debian12  Debian 12 itself: Linux 6.1, which has no asynchronous write protection, and QEMU 7.2 under nested KVM
"$LAB_TESTS/lab/devices" up 2>/dev/null
modprobe -a vhost_net tun 2>/dev/null
export GODWIT_ACCEL=kvm GODWIT_ADDRESS=198.18.0.1 GODWIT_GUEST=$LAB_JOB GODWIT_SLOW=3
uname -r
qemu-system-x86_64 --version | head -1
tests="the_union_over_rdma_and_tcp the_other_unions without_the_alias what_the_kernel_lacks_is_named
	qemu_reads_and_clears_the_log_beside_ours qemus_own_migrate_and_dirty_rate a_guest_that_is_too_fast_is_slowed a_guest_that_reboots_in_mid_migration"
python3 "$LAB_TESTS/lab/kvm.py" ${LAB_ARGS:-$(printf 'Kvm.test_%s ' $tests)}
