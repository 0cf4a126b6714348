#!/usr/bin/env bash
# proof.sh chaos|simulation [MUTANT…]: prove that the chaos test or the simulation finds what it looks for. Each patch in its
# mutants/ breaks a promise of the engine on purpose; with it applied to a copy of the tree, the test must fail and name the fault
# that the patch says it expects, for as many minutes and with the seed that it says, if it does. Without names, all of them: two
# to four minutes each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/needs.sh build test

test=$1
shift
mutants=tests/$test/mutants
case $test in
  chaos) claim=every_promise ;;
  simulation) claim=no_life_breaks_a_promise ;;
  *)
    echo "usage: proof.sh chaos|simulation [MUTANT…]" >&2
    exit 2
    ;;
esac
project=$PWD
proof=$project/target/proof # what one mutant has built, the next one uses
export CARGO_TARGET_DIR=$proof/target CARGO_BUILD_BUILD_DIR=$proof/target # no other tree may get a mutant

patches=()
if (($#)); then
  for name in "$@"; do patches+=("$mutants/${name%.patch}.patch"); done
else
  patches=("$mutants"/*.patch)
fi
for patch in "${patches[@]}"; do git apply --check "$patch"; done

# The tree as it is, committed or not. Files keep their times, so that only what a patch touches is compiled again.
make_tree() {
  rm -rf "$proof/tree"
  mkdir -p "$proof/tree"
  git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --directory="$proof/tree"
}

said() { sed -n "s/^$1: //p" "$2"; } # FIELD PATCH

failed=0
table=$(printf '%-32s %-16s %-7s %s' mutant expected seconds found)
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch) expected=$(said Expected "$patch") log=$proof/$(basename "$patch" .patch).log
  make_tree
  git apply --directory=target/proof/tree "$patch"
  (cd "$proof/tree" && cargo test --locked --test "$test" --no-run) >"$log" 2>&1 || { tail -n 30 "$log" >&2; exit 1; }
  began=$SECONDS
  minutes=${LAZARET_CHAOS_MINUTES:-$(said Minutes "$patch")} seed=${LAZARET_CHAOS_SEED:-${LAZARET_SIMULATE_SEED:-$(said Seed "$patch")}}
  simulate=${LAZARET_SIMULATE_SECONDS:-300}
  if (cd "$proof/tree" && LAZARET_CHAOS_MINUTES=$minutes LAZARET_CHAOS_SEED=$seed \
    LAZARET_SIMULATE_SECONDS=$simulate LAZARET_SIMULATE_SEED=$seed cargo test --locked --test "$test" "$claim" -- --nocapture) >>"$log" 2>&1; then
    verdict="NOT CAUGHT"
  elif [[ $test == chaos ]]; then
    verdict=$(sed -n 's/^found  *//p' "$log")
    [[ " $verdict" == *" $expected ×"* ]] || verdict="NOT CAUGHT as such: ${verdict:-see $log}"
  else
    verdict=$(grep -m 1 -A 1 '^thread .* panicked at' "$log" | tail -n 1)
    [[ $verdict == "$expected: "* ]] || verdict="NOT CAUGHT as such: ${verdict:-see $log}"
  fi
  if [[ $verdict == NOT* ]]; then failed=1; else rm -rf "$CARGO_TARGET_DIR"/tmp/chaos-*; fi
  row=$(printf '%-32s %-16s %-7s %s' "$name" "$expected" $((SECONDS - began)) "$verdict")
  echo "$row"
  table+=$'\n'$row
done
printf '\n%s\n' "$table"
exit "$failed"
