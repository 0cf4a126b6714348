# What the parts of a run took: seconds, and the processor seconds of the machine meanwhile, whoever had them. Sourced, never run.
# shellcheck shell=bash

# The file that collects the rows; whoever finds none prints them at its end.
print_parts=""
if [[ -z ${LAZARET_PARTS:-} ]]; then
  LAZARET_PARTS=$(mktemp)
  export LAZARET_PARTS
  print_parts=1
fi

processor_hundredths() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat 2>/dev/null || echo 0; }

part() { # NAME COMMAND…
  local name=$1 begin=$EPOCHSECONDS busy status=0
  busy=$(processor_hundredths)
  shift
  echo "== $name: $*"
  "$@" || status=$?
  printf '%s\t%s\t%s\t%s\n' "$name" $((EPOCHSECONDS - begin)) $((($(processor_hundredths) - busy) / 100)) "$status" >>"$LAZARET_PARTS"
  echo "== $name: exit $status after $((EPOCHSECONDS - begin)) s"
  return "$status"
}

end_parts() {
  if [[ -n $print_parts ]]; then
    awk -F '\t' -v cores="$(nproc)" '
      BEGIN { printf "\n%-14s %8s %8s %6s  %s\n", "part", "seconds", "CPU s", "busy", "exit" }
      { row($1, $2, $3, $4); seconds += $2; busy += $3 }
      END { row("all", seconds, busy, "") }
      function row(name, s, b, status) { printf "%-14s %8d %8d %5d%%  %s\n", name, s, b, s ? 100 * b / s / cores : 0, status }
    ' "$LAZARET_PARTS"
    rm -f "$LAZARET_PARTS"
  fi
}
