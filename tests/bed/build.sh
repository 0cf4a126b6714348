#!/usr/bin/env bash
# build.sh [kube]: have in the cache what the bed runs, or of it only Kubernetes and helm. A part that is there is left
# alone; its directory is named after a hash of everything that it is made from.
#   LAZARET_CACHE (~/.cache/lazaret)   the cache
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=parts.sh
source "$bed/parts.sh"

exec 8>>"$cache/bed/build.lock"
flock 8
built=0
part() { # DIRECTORY COMMAND…: the command makes the directory, whose name it gets as its last argument
  local directory=$1 begin=$SECONDS
  shift
  if [[ -d $directory ]]; then
    touch "$directory" "${directory%/*}"
    return
  fi
  say "building ${directory#"$cache/bed/"}"
  rm -rf "$directory.part"
  mkdir -p "$directory.part"
  "$@" "$directory.part" 8>&-
  mv "$directory.part" "$directory"
  say "built ${directory#"$cache/bed/"} in $((SECONDS - begin)) s"
  built=1
}

# As the Dockerfile has it, with the certificates of this machine instead of those of its base image.
build_lazaret() { # DIRECTORY
  "$project/scripts/static.sh" "$1/lazaret"
  local user certificates=etc/ssl/certs/ca-certificates.crt
  user=$(sed -n 's/^USER //p' "$project/Dockerfile")
  "$bed/image/build.sh" "$1/lazaret.tar" "$lazaret_image" "$user" "lazaret=$1/lazaret" "$certificates=/$certificates"
}

build_topic_operator() { # DIRECTORY
  (cd "$project" && cargo build --locked --quiet --example topic-operator) >&2
  cp "${CARGO_TARGET_DIR:-$project/target}/debug/examples/topic-operator" "$1/"
}

build_processor() { # DIRECTORY
  (cd "$bed/processor" && CGO_ENABLED=0 go build -buildvcs=false -trimpath -o "$1/processor" .) >&2
  "$bed/image/build.sh" "$1/processor.tar" lazaret.dev/bed/processor:1 65532:65532 "processor=$1/processor"
}

part "$kube" "$bed/kube/build.sh"
if [[ ${1:-} == kube ]]; then exit; fi
"$bed/kafka/jars.sh" 8>&- >/dev/null
for flavour in "${!strimzi_versions[@]}"; do part "$strimzi/$flavour" "$bed/strimzi/crds.sh" "$flavour"; done
part "$processor" build_processor
part "$topic_operator" build_topic_operator
part "$lazaret" build_lazaret
# They run beside the box. A test that built them would keep the others, which wait with deadlines, from their work.
for name in promtool prometheus adapter; do "$project/tests/prometheus/build.sh" "$name" 8>&- >/dev/null; done

# What was not asked for during two weeks belongs to an older tree.
find "$cache/bed" -mindepth 2 -maxdepth 2 -type d -regex '.*/[0-9a-f]\{12\}' -mtime +14 -exec rm -rf {} +
if ((!built)); then say "everything is built: Kubernetes $kubernetes_version, Kafka $kafka_version, Strimzi ${strimzi_versions[*]}"; fi
