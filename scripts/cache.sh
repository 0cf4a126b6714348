# Where what outlives a checkout is kept, and what cargo keeps there. Sourced, never run.
# shellcheck shell=bash

cache=${LAZARET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazaret}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd) # what runs in the test cluster has another working directory: no path may be relative

# What cargo compiles on the way to a program. A fresh clone then compiles only itself, not the 400 crates that it stands on.
# The programs are in target/ as ever. A cargo older than 1.91 does not know this setting, and keeps everything in target/.
export CARGO_BUILD_BUILD_DIR=${CARGO_BUILD_BUILD_DIR:-$cache/cargo}

# Cargo knows the crate of a checkout by its name alone, and what it compiled of another one by the times of files: it could
# take that for this one's. Two checkouts must not compile at the same time; where they have to, LAZARET_CACHE tells them apart.
own_cargo_cache() { # the checkout is the working directory
  local mark=$CARGO_BUILD_BUILD_DIR/checkout
  if [[ ! -e $mark || $(<"$mark") != "$PWD" ]]; then
    rm -rf "$CARGO_BUILD_BUILD_DIR"/{*,*/*}/.fingerprint/lazaret-*
    mkdir -p "$CARGO_BUILD_BUILD_DIR"
    echo "$PWD" >"$mark"
  fi
}

# Cargo never removes anything from it.
limit_cargo_cache() {
  local limit=24 # GiB
  if [[ -d $cache/cargo ]] && (($(du -s "$cache/cargo" | cut -f1) > limit << 20)); then
    echo "$cache/cargo has grown beyond $limit GiB: it is begun anew" >&2
    rm -rf "$cache/cargo"
  fi
}
