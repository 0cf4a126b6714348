#!/usr/bin/env bash
# kube/build.sh DIRECTORY: build Kubernetes with etcd and kubectl, CoreDNS, helm and the pause program into DIRECTORY/bin,
# and the images of the pods among them into DIRECTORY/images. All of it from the modules that go.sum names.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
into=$1
cd "$here"
mkdir -p "$into/bin" "$into/images"
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -trimpath -mod=readonly"

# Kubernetes reads its own version from variables that its own build sets.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
done
flags+=" -X helm.sh/helm/v3/internal/version.version=$(go list -m -f '{{.Version}}' helm.sh/helm/v3)"

for program in ./pause ./coredns ./kube helm.sh/helm/v3/cmd/helm; do
  go build -ldflags "$flags" -o "$into/bin/${program##*/}" "$program" >&2
done
for name in kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubelet kubectl etcd; do
  ln -sf kube "$into/bin/$name"
done
"$here/../image/build.sh" "$into/images/pause.tar" lazaret.dev/bed/pause:1 65535:65535 "pause=$into/bin/pause"
"$here/../image/build.sh" "$into/images/coredns.tar" lazaret.dev/bed/coredns:1 0:0 "coredns=$into/bin/coredns"
