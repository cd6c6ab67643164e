#!/bin/sh
# The guest's first process: mounts, drivers, and a root shell on the serial console. It configures
# no network: that is what the tests do. Kernel parameters: vmwire.modules=a,b (drivers to load).
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=dumb PS1= PS2=
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /tmp /run /root
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
dmesg -n 1
hostname guest
modules=virtio_pci,virtio_net
for word in $(cat /proc/cmdline); do
    case $word in vmwire.modules=*) modules=${word#*=} ;; esac
done
for module in $(echo "$modules" | tr , ' '); do modprobe "$module"; done
ip link set lo up
cd /root
stty -F /dev/ttyS0 -echo
echo "VMWIRE-GUEST-READY $(cat /proc/uptime)"
# A shell that ends (a test that types exit) is a powered-off guest, not a kernel panic.
setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
poweroff -f
