# SPDX-License-Identifier: Apache-2.0
# lab: full  KVM's dirty log in real QEMU under nested KVM: each union, with and without alias, vhost-net, VGA, QEMU's own migrate
"$LAB_TESTS/lab/devices" up 2>/dev/null
modprobe -a vhost_net tun 2>/dev/null
export GODWIT_ACCEL=kvm GODWIT_ADDRESS=198.18.0.1 GODWIT_GUEST=$LAB_JOB GODWIT_SLOW=3
python3 "$LAB_TESTS/lab/kvm.py" $LAB_ARGS
