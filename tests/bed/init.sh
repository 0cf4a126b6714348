#!/usr/bin/env bash
# init.sh STATE HOSTNAME ADDRESS: the first process of the box. It makes the mounts that the kubelet and containerd expect,
# then reaps what is left to it. When it ends, the kernel ends everything in the box.
set -euxo pipefail
state=$1 host=$2 address=$3

mount -t proc proc /proc
umount -R -l /sys
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir "/sys/fs/cgroup/$controller"
  mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
# The kubelet and the network plugins write there, whatever their settings say.
for directory in lib log; do
  mkdir -p "$state/var/$directory"
  mount --bind "$state/var/$directory" "/var/$directory"
done
mkdir -p /var/lib/kubelet
mount --make-rshared /

# The kubelet sets these, and they are the whole machine's: it is shown the values that it wants instead.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=/run/sysctl/${setting%=*}
  mkdir -p "${file%/*}"
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

# A JVM asks for the name of its own host, and would wait a minute for a name server that is not there.
hostname "$host"
(cat /etc/hosts && echo "$address $host") >/run/hosts
mount --bind /run/hosts /etc/hosts
: >/run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
ip link set lo up

touch "$state/mounts-are-made"
set +x
while :; do
  sleep 3600 &
  wait $! || true
done
