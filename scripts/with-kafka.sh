#!/usr/bin/env bash
# with-kafka.sh COMMAND…: run a command with a Kafka node at hand, whose address it finds in LAZARET_TEST_KAFKA.
# A node that was started for this is stopped and wiped afterwards; one that somebody started by hand is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../tests/bed/kafka/node.sh
source tests/bed/kafka/node.sh

# Several runs may share the node. Each holds this lock in common with the others, so the one that gets it for itself
# is the last. The mark says that the node was started for a run; it stays if that run is killed, and the next one
# clears up. Neither the node nor the command may inherit the lock (8>&-): they could outlive this script.
exec 8>>"$root/users"
flock -s 8
mark=$node/for-a-run

clear_up() {
  if [[ -e $mark ]] && flock -n -x 8; then "$bed/down.sh" --wipe 8>&-; fi
}
trap clear_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if ! node_runs; then
  mkdir -p "$node"
  touch "$mark"
fi
LAZARET_TEST_KAFKA=$("$bed/up.sh" 8>&-)
export LAZARET_TEST_KAFKA

status=0
"$@" 8>&- || status=$?
exit "$status"
