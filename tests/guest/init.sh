#!/bin/sh
# The first process of a guest: file systems, modules, the network, then what the test asks for (/scenario.sh).
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t securityfs sec /sys/kernel/security 2> /dev/null
mount -t debugfs debug /sys/kernel/debug 2> /dev/null
mkdir -p /tmp /run /dev/shm
while read -r module parameters; do
  insmod "/modules/$module" $parameters || echo "GUEST no $module"
done < /modules.list
ip link set lo up
# Leave what the network gave to the outside: the host is 10.0.2.2, reached under the name in the coordinator's certificate.
ip addr add 10.0.2.15/24 dev eth0 2> /dev/null && ip link set eth0 up && ip route add default via 10.0.2.2
hostname guest
echo "GUEST up"
. /scenario.sh
echo "GUEST done"
while :; do sleep 1000; done
