#!/usr/bin/env bash
# build.sh: have promtool built, and print where it is. The clients of clouds are left out of it: they only find targets.
set -euo pipefail
# shellcheck source=../bed/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../bed/common.sh"
"$project/scripts/needs.sh" go

cd "$(dirname "${BASH_SOURCE[0]}")"
promtool=$cache/promtool/$(hash_of go.mod go.sum build.sh "$(go env GOVERSION)")
mkdir -p "$cache/promtool"
exec 8>>"$cache/promtool/lock"
flock 8
if [[ ! -x $promtool/promtool ]]; then
  begin=$SECONDS
  CGO_ENABLED=0 go build -buildvcs=false -trimpath -tags remove_all_sd -o "$promtool.part/promtool" \
    github.com/prometheus/prometheus/cmd/promtool >&2
  mv "$promtool.part" "$promtool"
  echo "built promtool in $((SECONDS - begin)) s" >&2
fi
echo "$promtool/promtool"
