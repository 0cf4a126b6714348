#!/usr/bin/env bash
# upgrade-test.sh [REVISION]: run workers of an older revision and of this tree beside each other and in turns. Without an argument
# the older one is the last that wrote the first form of commit metadata alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=cache.sh
source scripts/cache.sh
scripts/needs.sh build test
revision=$(git rev-parse --short "${1:-8f0613e}^{commit}")
export LAZARET_OLDER=$cache/older/$revision/lazaret

# It is compiled once, apart from this tree: cargo would take the one's crate for the other's.
if [[ ! -x $LAZARET_OLDER ]]; then
  tree=$cache/older/$revision/tree
  mkdir -p "$tree"
  git archive "$revision" | tar --extract --directory="$tree"
  (cd "$tree" && CARGO_TARGET_DIR=$tree/target CARGO_BUILD_BUILD_DIR=$tree/target cargo build --locked)
  mv "$tree/target/debug/lazaret" "$LAZARET_OLDER"
  rm -rf "$tree"
fi
scripts/with.sh kafka cargo test --locked --test kafka upgrade:: -- --ignored --nocapture
