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
# What died on its own tells of a fault that a test did not see; the tests that kill on purpose remove the note.
died=""
if box_runs; then
  for name in "$state"/run/*; do
    [[ -e $name ]] || continue # it was not up for long enough to start any
    in_box "$bed/components.sh" check "${name##*/}" 2>/dev/null || died+=" ${name##*/}"
  done
fi
if [[ -e $state/died ]]; then died+=" $(tr '\n' ' ' <"$state/died")"; fi
if [[ -n $died ]]; then
  for name in $died; do say "$name died; its log ends with: $(tail -n 3 "$state/log/$name.log" 2>/dev/null)"; done
fi
clear_box
say "down after $SECONDS s"
[[ -z $died ]] || die "parts of it had died:$died"
