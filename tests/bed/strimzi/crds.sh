#!/usr/bin/env bash
# strimzi/crds.sh v1|v1beta2 DIRECTORY: write the CRDs of Kafka, KafkaTopic and KafkaUser, as Strimzi's own build generates
# them, from the artefacts that Strimzi publishes. v1 is a release that serves only v1, v1beta2 one that knows no v1 yet.
set -euo pipefail
# shellcheck source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
flavour=$1 into=$2
version=${strimzi_versions[$flavour]}
model=io.strimzi.api.kafka.model

case $flavour in
  v1) java=$(java_of 21 || "$bed/strimzi/java.sh") older="" ;;
  v1beta2) java=$(java_of 17) older=v1alpha1,v1beta1, ;; # topics and users have a longer history than Kafka itself
esac
mkdir -p "$into"
lib=$into/lib
resolve_jars "$bed/strimzi/pom.xml" "$lib" "-Dstrimzi.version=$version"

generate() { # API-VERSIONS CLASS=FILE…
  "$java" -cp "$lib/*" io.strimzi.crdgenerator.CrdGenerator --yaml --target-kube 1.16+ --crd-api-version v1 \
    --label app:strimzi --label strimzi.io/crd-install:true --storage-version "$flavour" --api-versions "$@" >&2
}
generate "$flavour" "$model.kafka.Kafka=$into/kafka.yaml"
generate "$older$flavour" "$model.topic.KafkaTopic=$into/kafkatopic.yaml" "$model.user.KafkaUser=$into/kafkauser.yaml"
rm -rf "$lib"
