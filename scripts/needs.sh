#!/usr/bin/env bash
# needs.sh build|test|bed|go…: see that the system has what a build, the tests, their cluster or what is built with Go need;
# silent if it has. Root on a Debian-like system gets the missing packages installed, everybody else is told which they are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=cache.sh
source scripts/cache.sh

missing=() packages=()
has() { command -v "$1" >/dev/null; }
need() { # NAME PACKAGE: the package that brings what is missing
  missing+=("$1")
  packages+=("$2")
}

# `sort -V` reads 1.100 as newer than 1.89.
at_least() { printf '%s\n' "$1" "$2" | sort -V -C; }

# Asked by running it: the file may be there and the runtime not. Its major number is 8 in "1.8.0" and 17 in "17.0.15".
java_is_17() {
  local version
  version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9.]*\).*/\1/p') || return 1
  [[ -n $version ]] && at_least 17 "$version"
}

# Which of Java's releases a distribution has differs; 17 is the oldest that Kafka runs on.
java_package() {
  local release found=17
  for release in 25 21 17; do
    if [[ $(apt-cache policy "openjdk-$release-jre-headless") == *"Candidate: "[0-9]* ]]; then found=$release; fi
  done
  echo "openjdk-$found-jre-headless"
}

# Go fetches the toolchain that go.mod names, if it is itself of the first version that can.
need_go() {
  if ! has go || ! at_least 1.21 "$(go env GOVERSION | tr -d go)"; then
    echo "missing: Go 1.21 or newer — see https://go.dev/doc/install" >&2
    exit 1
  fi
}

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
need_all() { # WORD
  case $1 in
    build)
      # librdkafka's own configure and make want a C and a C++ compiler; zlib, zstd and the TLS library are compiled from
      # the sources that their crates carry, with the C compiler alone (no pkg-config, no cmake).
      has cc || need cc gcc
      has c++ || has g++ || has clang++ || need c++ g++
      has make || need make make
      if ! has cargo || ! at_least "$rust" "$(cargo --version | cut -d' ' -f2)"; then
        echo "missing: Rust $rust or newer — install it with rustup, see https://rustup.rs" >&2
        no_rust=1
      fi
      own_cargo_cache
      ;;
    test)
      java_is_17 || need java java
      has mvn || need mvn maven
      has curl || need curl curl
      has jq || need jq jq
      has kcat || need kcat kcat
      { has flock && has setsid; } || need flock util-linux
      ;;
    bed)
      if [[ $(uname -s) != Linux ]] || ((EUID != 0)); then
        echo "the cluster of the tests is made of namespaces and cgroups, by root on Linux; E2E_CONTEXT=<kubeconfig context> runs" \
          "the same tests on a cluster that you have" >&2
        exit 1
      fi
      if [[ ! -d /sys/fs/cgroup/cpu ]]; then
        echo "the cluster of the tests wants cgroup v1, which this machine does not have; E2E_CONTEXT=<kubeconfig context>" \
          "runs the same tests on a cluster that you have" >&2
        exit 1
      fi
      need_go
      has containerd || need containerd containerd
      has runc || need runc runc
      [[ -e /usr/lib/cni/bridge || -e /opt/cni/bin/bridge ]] || need bridge containernetworking-plugins
      has conntrack || need conntrack conntrack
      has iptables || need iptables iptables
      has ip || need ip iproute2
      has sysctl || need sysctl procps
      has openssl || need openssl openssl
      # Only for its Java, where the system has none that is new enough for Strimzi 1.x.
      has pip3 || need pip3 python3-pip
      ;;
    go) need_go ;;
    *)
      echo "usage: needs.sh build|test|bed|go…" >&2
      exit 2
      ;;
  esac
}

if (($# == 0)); then set -- none; fi
for word in "$@"; do need_all "$word"; done

if ((${#missing[@]})); then
  if ! has apt-get; then
    echo "missing: ${missing[*]} — install them with your system's package manager (Java 17 or newer)" >&2
    exit 1
  fi
  if ((EUID != 0)); then
    echo "missing: ${missing[*]} — install with: sudo apt-get install -y ${packages[*]/#java/$(java_package)}" >&2
    exit 1
  fi
  {
    echo "installing what is missing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends "${packages[@]/#java/$(java_package)}"
  } >&2 </dev/null
fi
exit "${no_rust:-0}"
