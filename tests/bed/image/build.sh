#!/usr/bin/env bash
# image/build.sh ARCHIVE NAME USER FILE=PATH…: write an OCI archive of an image that holds these files and nothing else, as
# `FROM scratch` makes it. The first one is the program that it runs, the others are only read. https://github.com/opencontainers/image-spec/blob/main/image-layout.md
set -euo pipefail
archive=$1 name=$2 user=$3
shift 3
program=/${1%%=*}
layout=$(mktemp -d)
trap 'rm -rf "$layout"' EXIT
blobs=$layout/blobs/sha256
mkdir -p "$blobs"

digest() { sha256sum | cut -d' ' -f1; }
keep() { # a blob from standard input, named by its digest, which is printed with its size as {digest, size}
  local file
  file=$(mktemp -p "$layout")
  cat >"$file"
  local sum
  sum=$(digest <"$file")
  mv "$file" "$blobs/$sum"
  jq -nc --arg digest "sha256:$sum" --argjson size "$(stat -c %s "$blobs/$sum")" '{$digest, $size}'
}

# The same program gives the same archive: no times, no names of users.
pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"; }
layer=$layout/layer.tar root=$layout/root
install -D -m 0755 "${1#*=}" "$root$program"
for file in "${@:2}"; do install -D -m 0644 "${file#*=}" "$root/${file%%=*}"; done
find "$root" -type d -exec chmod 0755 {} +
find "$root" -mindepth 1 -maxdepth 1 -printf '%P\0' | sort -z | pack -cf "$layer" -C "$root" --null --files-from=-
rm -rf "$root"

architecture=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
config=$(jq -nc --arg program "$program" --arg user "$user" --arg architecture "$architecture" \
  --arg layer "sha256:$(digest <"$layer")" '{$architecture, os: "linux", config: {User: $user, Entrypoint: [$program],
    WorkingDir: "/"}, rootfs: {type: "layers", diff_ids: [$layer]}}' | keep)
packed=$(gzip -n -1 <"$layer" | keep)
type=application/vnd.oci.image
manifest=$(jq -nc --arg type $type --argjson config "$config" --argjson layer "$packed" '{schemaVersion: 2,
  mediaType: "\($type).manifest.v1+json", config: ($config + {mediaType: "\($type).config.v1+json"}),
  layers: [$layer + {mediaType: "\($type).layer.v1.tar+gzip"}]}' | keep)
jq -nc --arg type $type --arg name "$name" --argjson manifest "$manifest" '{schemaVersion: 2,
  mediaType: "\($type).index.v1+json", manifests: [$manifest + {mediaType: "\($type).manifest.v1+json",
    annotations: {"io.containerd.image.name": $name, "org.opencontainers.image.ref.name": ($name | sub(".*:"; ""))}}]}' \
  >"$layout/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
rm -f "$layer"
pack -cf "$archive" -C "$layout" oci-layout index.json blobs
