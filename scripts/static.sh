#!/usr/bin/env bash
# static.sh FILE: build `lazaret` as one static program that runs in an empty image, and put it there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=cache.sh
source scripts/cache.sh
target=$(rustc -vV | sed -n 's/^host: //p')
# The target is named so that the flags hold for the program alone, not for what runs while it is built.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bin lazaret --target "$target" >&2
install -D "${CARGO_TARGET_DIR:-target}/$target/release/lazaret" "$1"
