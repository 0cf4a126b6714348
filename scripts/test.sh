#!/usr/bin/env bash
# test.sh [ARGUMENT…]: run the tests, with a Kafka node at hand and a cluster that starts when a test wants one. The
# arguments go to `cargo test`; without any, all tests run, part by part, and a table says what each part took.
#   RUST_TEST_THREADS (three a core, at most 16)   tests of a part that run side by side: they wait for most of their time,
#                                                  but share one Kafka and one API server
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=cache.sh
source scripts/cache.sh
# shellcheck source=timing.sh
source scripts/timing.sh
scripts/needs.sh build test
threads=$((3 * $(nproc)))
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((threads < 16 ? threads : 16))}

if (($#)); then exec scripts/with.sh bed scripts/with.sh kafka cargo test --locked "$@"; fi

tests() { cargo test --locked "$@"; }
failed=""
also() { part "$@" || failed+=" $1"; } # a part that fails does not keep the others from telling what they find

limit_cargo_cache
trap end_parts EXIT
part compile cargo test --locked --no-run
# What the cluster runs is built while others wait for Kafka.
log=$(mktemp)
{ scripts/needs.sh bed && exec nice tests/bed/build.sh; } >"$log" 2>&1 &
build=$!
also rules tests --lib --bins --examples --test simulation
also kafka scripts/with.sh kafka cargo test --locked --test kafka
also chaos tests --test chaos
wait_for_build() { wait "$build" || { cat "$log" >&2; return 1; }; }
also bed wait_for_build
also local tests --test local
also cluster scripts/with.sh bed cargo test --locked --test cluster
also from_nothing scripts/with.sh bed cargo test --locked --test from_nothing
also documentation tests --doc
if [[ -n $failed ]]; then
  echo "failed:$failed" >&2
  exit 1
fi
