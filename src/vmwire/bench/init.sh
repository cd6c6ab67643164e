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
# The shell reads the console as a script. An interactive one (busybox 1.35) takes a child that ends
# while it waits for a line as the end of its input. An interrupt (Ctrl-C) ends the shell along with
# what it runs; the next one reads on.
exec setsid sh -c '
    exec </dev/ttyS0 >/dev/ttyS0 2>&1
    trap : INT
    while :; do sh /dev/ttyS0; done
'
