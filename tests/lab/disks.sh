# SPDX-License-Identifier: Apache-2.0
# lab: full  a guest under nested KVM moves over rxe with its disk; block devices that are slow, or fail
"$LAB_TESTS/lab/devices" up 2>/dev/null
modprobe dm_delay
modprobe null_blk nr_devices=0
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
export DM_DISABLE_UDEV=1 # nobody but dmsetup makes the device node here
export GODWIT_ACCEL=kvm GODWIT_ADDRESS=198.18.0.1 GODWIT_GUEST=$LAB_JOB GODWIT_SLOW=3
python3 "$LAB_TESTS/lab/disks.py" $LAB_ARGS
