#!/usr/bin/env bash
# kafka/jars.sh: have Kafka's jars in the cache; print their directory.
set -euo pipefail
# shellcheck source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

mkdir -p "$cache/kafka"
exec 9>>"$cache/kafka/jars.lock"
flock 9
lib=$cache/kafka/$(hash_of "$bed/kafka/pom.xml" "$kafka_version")/lib
[[ -d $lib ]] || resolve_jars "$bed/kafka/pom.xml" "$lib" "-Dkafka.version=$kafka_version"
echo "$lib"
