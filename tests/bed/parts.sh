# Where the parts lie that build.sh builds. Sourced by build.sh and up.sh.
# shellcheck shell=bash disable=SC2034,SC2154

rustc=$(rustc --version)
kubernetes_version=$(version_of k8s.io/kubernetes)
kube=$cache/bed/kube/$(hash_of "$(go env GOVERSION)" "$bed/kube" "$bed/image")
strimzi=$cache/bed/strimzi/$(hash_of "$bed/strimzi" "${strimzi_versions[*]}")
lazaret=$cache/bed/lazaret/$(hash_of "$rustc" "$project/"{Cargo.toml,Cargo.lock,src,Dockerfile,scripts/static.sh} "$bed/image")
processor=$cache/bed/processor/$(hash_of "$(go env GOVERSION)" "$bed/processor" "$bed/image")
topic_operator=$cache/bed/topic-operator/$(hash_of "$rustc" "$project/"{Cargo.toml,Cargo.lock} "$project/src/telemetry.rs" "$bed/topic_operator")
