#!/usr/bin/env bash
# with-bed.sh COMMAND…: run a command that may start the tests' cluster (tests/bed/up.sh). If it was not up before, it is
# taken down afterwards; one that somebody started by hand stays
# up, though the tests of the box itself empty it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../tests/bed/common.sh
source tests/bed/common.sh
# shellcheck source=../tests/bed/box.sh
source tests/bed/box.sh

# Runs take turns: there is one box, and the tests of the box itself stop it. The mark says that it was started for a run;
# it stays if that run is killed, and the next one clears up.
exec 7>>"$cache/bed/users"
flock 7
mark=$cache/bed/for-a-run

clear_up() {
  if [[ -e $mark ]]; then
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
