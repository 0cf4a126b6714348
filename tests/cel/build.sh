#!/usr/bin/env bash
# build.sh: have the cases of CEL's own conformance tests as JSON, and print where they are. They come with CEL's Go module.
set -euo pipefail
# shellcheck source=../bed/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../bed/common.sh"
"$project/scripts/needs.sh" go

cd "$(dirname "${BASH_SOURCE[0]}")"
built=$cache/cel/cases-$(hash_of go.mod go.sum main.go build.sh).json
mkdir -p "$cache/cel"
exec 8>>"$cache/cel/lock"
flock 8
if [[ ! -s $built ]]; then
  begin=$SECONDS
  go mod download cel.dev/expr >&2
  go run -buildvcs=false . "$(go list -m -f '{{.Dir}}' cel.dev/expr)/tests/simple/testdata" >"$built.part"
  mv "$built.part" "$built"
  echo "had CEL's cases in $((SECONDS - begin)) s" >&2
fi
echo "$built"
