#!/usr/bin/env bash
# down.sh: end the box with everything in it, and remove its state. What was built stays.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=box.sh
source "$bed/box.sh"

lock
if [[ ! -e $state && -z $(box_cgroups) ]] && ! ip link show "$link" >/dev/null 2>&1; then
  say "it is not up"
  exit
fi
clear_box
say "down after $SECONDS s"
