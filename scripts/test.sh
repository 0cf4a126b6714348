#!/usr/bin/env bash
# test.sh [ARGUMENT…]: run the tests, with a Kafka node at hand and a cluster that starts when a test wants one. The
# arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/needs.sh build
scripts/needs.sh test
exec scripts/with-bed.sh scripts/with-kafka.sh cargo test --locked "$@"
