# The box: namespaces and cgroups of its own, with one network link. Sourced by up.sh, down.sh and in.sh.
# shellcheck shell=bash disable=SC2154

# The kubelet wants to see these; each gets a cgroup of ours below the one that we are in.
controllers=(cpu cpuacct cpuset memory devices freezer blkio pids systemd)

box_cgroups() { find /sys/fs/cgroup -mindepth 2 -maxdepth 6 -type d -name "$node" -prune 2>/dev/null; }

# Every process of the box, pods included, by the numbers that the machine knows them by.
box_processes() {
  local cgroups
  mapfile -t cgroups < <(box_cgroups)
  ((${#cgroups[@]} == 0)) || find "${cgroups[@]}" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -nu
}

# Whole, or not at all: a box whose making was interrupted counts as none.
box_runs() { [[ -e $state/box-is-made ]] && grep -qs "/$node" "/proc/$(<"$state/init.pid")/cgroup"; }

join_cgroups() {
  local cgroup
  while read -r cgroup; do echo "$BASHPID" >"$cgroup/cgroup.procs"; done < <(box_cgroups)
}

in_box() (
  join_cgroups
  exec nsenter -t "$(<"$state/init.pid")" -m -n -p -u -i -C "$@" 9>&-
)

make_box() {
  local controller path cgroup unshare init
  [[ -d /sys/fs/cgroup/cpu ]] || die "this machine has no cgroup v1 hierarchies, which the box is made with"
  mkdir -p "$state/log"
  for controller in "${controllers[@]}"; do
    path=$(awk -F: -v c="$controller" '$2 == c || $2 == "name=" c { print $3 }' /proc/self/cgroup)
    cgroup=/sys/fs/cgroup/$controller${path%/}/$node
    mkdir -p "$cgroup"
    if [[ $controller == cpuset ]]; then
      for path in cpuset.cpus cpuset.mems; do cat "$cgroup/../$path" >"$cgroup/$path"; done
    fi
  done
  (
    join_cgroups
    exec setsid unshare -m -n -p -u -i -C --fork --kill-child --propagation private "$bed/init.sh" "$state" "$node" "$node_ip"
  ) >"$state/log/init.log" 2>&1 </dev/null 9>&- &
  unshare=$!
  until [[ -e $state/mounts-are-made ]]; do
    kill -0 "$unshare" 2>/dev/null || die "the box could not be made: $(tail -n 3 "$state/log/init.log")"
    sleep 0.02
  done
  init=$(tr -d ' ' <"/proc/$unshare/task/$unshare/children")
  echo "$init" >"$state/init.pid"
  ip link add "$link" type veth peer name eth0 netns "$init"
  ip address add "$host_ip/30" dev "$link"
  ip link set "$link" up
  # An operator that runs outside of the box asks workers, too. The route goes with the link.
  ip route add "$pod_network" via "$node_ip"
  nsenter -t "$init" -n sh -ec "ip address add $node_ip/30 dev eth0; ip link set eth0 up; ip route add default via $host_ip"
  in_box sysctl -qw net.ipv4.ip_forward=1 net.ipv4.tcp_orphan_retries=1
  touch "$state/box-is-made"
}

# Ends the box and removes every trace of it, whatever state it is in. Nothing here trusts a file of ours.
clear_box() {
  local processes deadline=$((SECONDS + 60))
  while mapfile -t processes < <(box_processes) && ((${#processes[@]} > 0)); do
    ((SECONDS < deadline)) || die "these processes do not end: ${processes[*]}"
    kill -KILL "${processes[@]}" 2>/dev/null || true
    sleep 0.05
  done
  # By name: sockets without an owner keep the network namespace, and with it the link, for a minute.
  if ip link show "$link" >/dev/null 2>&1; then ip link del "$link"; fi
  while [[ -n $(box_cgroups) ]]; do
    ((SECONDS < deadline)) || die "these cgroups cannot be removed: $(box_cgroups)"
    box_cgroups | while read -r cgroup; do find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true; done
    sleep 0.02
  done
  rm -rf "$state"
}
