#!/usr/bin/env bash
# test.sh [ARGUMENT…]: run the tests, with a Kafka node at hand and a cluster that starts when a test wants one. The
# arguments go to `cargo test`.
#   E2E_CONTEXT   a kubeconfig context: the tests of the cluster use that one, see the README
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/needs.sh build
scripts/needs.sh test
if [[ -n ${E2E_CONTEXT:-} ]]; then exec scripts/with-kafka.sh cargo test --locked "$@"; fi
scripts/needs.sh bed
exec scripts/with-bed.sh scripts/with-kafka.sh cargo test --locked "$@"
