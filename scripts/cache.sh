# Where what outlives a checkout is kept, and what cargo keeps there. Sourced, never run.
# shellcheck shell=bash

cache=${LAZARET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazaret}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd) # what runs in the test cluster has another working directory: no path may be relative

# What cargo compiles on the way to a program. A fresh clone then compiles only itself, not the 400 crates that it stands on.
# The programs are in target/ as ever. A cargo older than 1.91 does not know this setting, and keeps everything in target/.
export CARGO_BUILD_BUILD_DIR=${CARGO_BUILD_BUILD_DIR:-$cache/cargo}

# Cargo never removes anything from it, and each checkout adds its own crate.
limit_cargo_cache() {
  local limit=24 # GiB
  if [[ -d $cache/cargo ]] && (($(du -s "$cache/cargo" | cut -f1) > limit << 20)); then
    echo "$cache/cargo has grown beyond $limit GiB: it is begun anew" >&2
    rm -rf "$cache/cargo"
  fi
}
