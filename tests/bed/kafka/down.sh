#!/usr/bin/env bash
# down.sh [--wipe]: stop the node that up.sh started and wait until it is gone; --wipe removes its data too.
set -euo pipefail
# shellcheck source=node.sh
source "$(dirname "${BASH_SOURCE[0]}")/node.sh"

signal=TERM
[[ ${1:-} == --wipe ]] && signal=KILL # nothing to save: an orderly stop would only take time

# A process that is killed loses its command line first and its ports with its last thread. A zombie of one thread has
# closed everything and only waits for its parent to take note.
ended() {
  local state
  state=$(sed -n 's/^State:\t\(.\).*/\1/p; s/^Threads:\t//p' "/proc/$1/status" 2>/dev/null | tr -d '\n')
  [[ -z $state || $state == Z1 ]]
}

lock_node
if node_runs; then
  pid=$(<"$node/pid")
  kill "-$signal" "$pid" || true # it may have ended just now
  deadline=$((SECONDS + 30))
  until ended "$pid"; do
    if ((SECONDS >= deadline)); then kill -KILL "$pid" || true; fi
    sleep 0.02
  done
fi
rm -f "$node/pid"
if [[ ${1:-} == --wipe ]]; then rm -rf "$node"; fi
