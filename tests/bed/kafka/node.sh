# Where the Kafka node of the tests lives, and whether it runs. Sourced by up.sh, down.sh and scripts/with.sh.
# shellcheck shell=bash disable=SC2034

bed=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${LAZARET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazaret}/kafka
mkdir -p "$root"
root=$(cd "$root" && pwd) # the broker runs in another directory: no path may be relative
node=$root/node
log=$node/broker.log

# One caller at a time may start or stop the node. The lock lies outside of the node's directory, which --wipe removes.
# Descriptor 9 holds it until the caller exits; what outlives the caller must be started with 9>&-.
lock_node() {
  exec 9>>"$root/lock"
  flock 9
}

# A pid file may outlive its process and the kernel may give the number to another one,
# so the process counts only if it was started with our server.properties.
node_runs() {
  [[ -s $node/pid ]] && tr '\0' '\n' 2>/dev/null <"/proc/$(<"$node/pid")/cmdline" | grep -qxF "$node/server.properties"
} 2>/dev/null
