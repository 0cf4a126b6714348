#!/usr/bin/env bash
# with.sh kafka|bed COMMAND…: run a command that wants the tests' Kafka node, whose address it finds in
# LAZARET_TEST_KAFKA, or that may start the tests' cluster (tests/bed/up.sh). What was started for this is taken down
# afterwards; what somebody started by hand is left alone, though the tests of the box itself empty it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
what=$1
shift

# The mark says that it was started for a run; it stays if that run is killed, and the next one clears up. No lock may be
# inherited by the command or by what is started (8>&-): they could outlive this script.
case $what in
  kafka)
    # shellcheck source=../tests/bed/kafka/node.sh
    source tests/bed/kafka/node.sh
    mark=$node/for-a-run users=$root/users how=-s
    runs() { node_runs; }
    # Several runs may share the node: each holds the lock in common, and who gets it for itself is the last.
    down() { ! flock -n -x 8 || tests/bed/kafka/down.sh --wipe 8>&-; }
    ;;
  bed)
    # shellcheck source=../tests/bed/common.sh
    source tests/bed/common.sh
    # shellcheck source=../tests/bed/box.sh
    source tests/bed/box.sh
    mark=$cache/bed/for-a-run users=$cache/bed/users how=-x # there is one box, and its own tests stop it
    runs() { box_runs; }
    down() { rm -f "$mark" && tests/bed/down.sh 8>&-; }
    ;;
  *)
    echo "usage: with.sh kafka|bed COMMAND…" >&2
    exit 2
    ;;
esac

exec 8>>"$users"
flock "$how" 8
status=0
clear_up() { if [[ -e $mark ]] && ! down; then exit 1; fi; }
trap clear_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A run that was killed has left it in whatever state. Nothing happens where another run shares it.
if [[ -e $mark ]]; then
  down || echo "with.sh: of what a run that was killed had left, parts had died" >&2
  flock "$how" 8
fi
if ! runs; then
  mkdir -p "${mark%/*}"
  touch "$mark"
fi
if [[ $what == kafka ]]; then
  LAZARET_TEST_KAFKA=$(tests/bed/kafka/up.sh 8>&-)
  export LAZARET_TEST_KAFKA
fi
"$@" 8>&- || status=$?
exit "$status"
