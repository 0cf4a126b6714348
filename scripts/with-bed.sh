#!/usr/bin/env bash
# with-bed.sh COMMAND…: run a command that may start the tests' cluster (tests/bed/up.sh). If it was not up before, it is
# taken down afterwards; one that somebody started by hand is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../tests/bed/common.sh
source tests/bed/common.sh
# shellcheck source=../tests/bed/box.sh
source tests/bed/box.sh

# The lock and the mark are those of with-kafka.sh, for the cluster: the last user clears up, if the first one found none.
exec 7>>"$cache/bed/users"
flock -s 7
mark=$cache/bed/for-a-run

clear_up() {
  if [[ -e $mark ]] && flock -n -x 7; then
    rm -f "$mark"
    tests/bed/down.sh 7>&-
  fi
}
trap clear_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

box_runs || touch "$mark"
status=0
"$@" 7>&- || status=$?
exit "$status"
