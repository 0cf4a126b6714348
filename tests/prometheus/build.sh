#!/usr/bin/env bash
# build.sh promtool|prometheus|adapter: have it built, and print where it is. Prometheus' clients of clouds are left out, which
# only find targets. The adapter is what serves a Prometheus' numbers to autoscalers.
set -euo pipefail
# shellcheck source=../bed/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../bed/common.sh"
"$project/scripts/needs.sh" go

cd "$(dirname "${BASH_SOURCE[0]}")"
name=$1
case $name in
  promtool | prometheus) module=. package=github.com/prometheus/prometheus/cmd/$name ;;
  adapter) module=adapter package=sigs.k8s.io/prometheus-adapter/cmd/adapter ;;
  *) die "there is no $name" ;;
esac
built=$cache/prometheus/$name-$(hash_of $module/go.mod $module/go.sum build.sh "$(go env GOVERSION)")
mkdir -p "$cache/prometheus"
exec 8>>"$cache/prometheus/lock"
flock 8
if [[ ! -x $built/$name ]]; then
  begin=$SECONDS
  CGO_ENABLED=0 go -C $module build -buildvcs=false -trimpath -tags remove_all_sd -o "$built.part/$name" "$package" >&2
  mv "$built.part" "$built"
  echo "built $name in $((SECONDS - begin)) s" >&2
fi
echo "$built/$name"
