#!/usr/bin/env bash
# up.sh: have the box run: a Kubernetes node with its control plane, Kafka, and Strimzi's side of both. It may be called at
# any time, also by several processes at once: what runs is left alone, what has died is started again.
#   BED_BROKERS (1, or what runs)      1 or 3 Kafka brokers
#   BED_STRIMZI (v1, or what runs)     v1 or v1beta2: the API version that Strimzi serves
#   BED_RESYNC (120s)                  the time between two full looks of the topic operator
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=parts.sh
source "$bed/parts.sh"
# shellcheck source=box.sh
source "$bed/box.sh"
# shellcheck source=config.sh
source "$bed/config.sh"
# shellcheck source=kafka/box.sh
source "$bed/kafka/box.sh"
# shellcheck source=strimzi/objects.sh
source "$bed/strimzi/objects.sh"

# The short way: the box runs with all its parts, as asked for, and no file that it is made from is newer. `complete` is written
# at the end of an up that did its work.
is_complete() {
  local wanted=$project
  [[ -e $state/complete ]] && box_runs || return 1
  wanted+=" ${BED_BROKERS:-$(<"$state/brokers")} ${BED_STRIMZI:-$(<"$state/strimzi")} ${BED_RESYNC:-$(<"$state/resync")}"
  [[ $(head -n1 "$state/complete") == "$wanted" ]] || return 1
  [[ -z $(find "$project/"{Cargo.toml,Cargo.lock,Dockerfile,src,scripts,tests/bed} -newer "$state/complete" -print -quit) ]] || return 1
  mapfile -t parts < <(tail -n +3 "$state/complete")
  in_box "$bed/components.sh" check "${parts[@]}" 2>/dev/null || return 1
  # With its CRDs, which some delete.
  "$(sed -n 2p "$state/complete")" --kubeconfig "$state/pki/admin.conf" get -n kafka kafka/bhf-kafka >/dev/null 2>&1
}
if is_complete; then
  echo "export KUBECONFIG=$state/pki/admin.conf"
  exit
fi

started=$(mktemp) # a file that changes from now on is newer than what is made here
trap 'rm -f "$started"' EXIT
"$project/scripts/needs.sh" bed
"$bed/build.sh"
lock
begin=${EPOCHREALTIME/[.,]/}
lap() { say "$(printf '%5.1f s  %s' "$(((${EPOCHREALTIME/[.,]/} - begin) / 100000))e-1" "$*")"; }

wait_for() { # WHAT COMMAND…: until the command succeeds
  local what=$1 deadline=$((SECONDS + 120))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
      tail -n 5 "$state"/log/*.log >&2
      die "waited 120 s in vain: $what; the logs are in $state/log"
    fi
    sleep 0.1
  done
  lap "$what"
}

# Nobody looks after those of other namespaces when the test that did is over.
release_kafkatopics() {
  kubectl get kafkatopics --all-namespaces --no-headers -o custom-columns=:metadata.namespace,:metadata.name |
    while read -r namespace name; do
      kubectl patch kafkatopic -n "$namespace" "$name" --type=merge -p '{"metadata": {"finalizers": null}}' >/dev/null 2>&1 ||
        say "KafkaTopic $namespace/$name is gone already"
    done
}

up_with() { # NAME VALUE DEFAULT: what was asked for, what the box runs with, or the default
  echo "${2:-$(cat "$state/$1" 2>/dev/null || echo "$3")}"
}

box_runs || clear_box
brokers=$(up_with brokers "${BED_BROKERS:-}" 1)
flavour=$(up_with strimzi "${BED_STRIMZI:-}" v1)
resync=$(up_with resync "${BED_RESYNC:-}" 120s)
[[ $brokers == [13] ]] || die "BED_BROKERS is 1 or 3, not $brokers"
[[ -v strimzi_versions[$flavour] ]] || die "BED_STRIMZI is v1 or v1beta2, not $flavour"
if box_runs && [[ $brokers != "$(<"$state/brokers")" ]]; then
  die "the box runs with $(<"$state/brokers") brokers, not $brokers: take it down first"
fi

export KUBECONFIG=$state/pki/admin.conf PATH=$kube/bin:$PATH
export kube_bin=$kube/bin topic_operator=$topic_operator/topic-operator kafka_java kafka_lib brokers resync
kafka_java=$(java_of 17)
kafka_lib=$("$bed/kafka/jars.sh")
components() { in_box "$bed/components.sh" "$@"; }

if ! box_runs; then
  mkdir -p "$state/log"
  echo "$brokers" >"$state/brokers"
  make_certificates
  make_settings
  make_box
  lap "the box is made"
fi
# In the cgroups of the box, so that it ends with it. No list of commands joined by `&&`: a failure in it must end it.
if [[ ! -e $state/kafka-is-made ]]; then
  (
    join_cgroups
    rm -rf "$state"/kafka-[123]
    make_kafka
    touch "$state/kafka-is-made"
  ) 9>&- &
  kafka_job=$!
fi
components start containerd etcd kube-apiserver

import() { # IMAGE-ARCHIVE: unless it is there
  local mark=$state/imported-${1##*/} sum
  sum=$(sha256sum <"$1")
  if [[ ! -e $mark || $(<"$mark") != "$sum" ]]; then
    in_box ctr -n k8s.io images import "$1" >/dev/null
    echo "$sum" >"$mark"
  fi
}
wait_for "containerd answers" in_box ctr version
for image in "$kube"/images/*.tar "$lazaret/lazaret.tar" "$processor/processor.tar"; do import "$image"; done
wait_for "the API server is ready" kubectl get --raw /readyz
components start kube-controller-manager kube-scheduler kubelet kube-proxy
kubectl apply -f "$bed/kube/coredns.yaml" >/dev/null

if [[ -v kafka_job ]]; then
  wait "$kafka_job" || die "the brokers' data could not be made"
  lap "the brokers have their data"
fi
mapfile -t kafka_components < <(kafka_brokers)
components start "${kafka_components[@]}"

# A flavour takes the place of another with all its objects, as nothing serves both.
served=$(kubectl get crd kafkatopics.kafka.strimzi.io --ignore-not-found -o 'jsonpath={.spec.versions[?(@.storage==true)].name}')
if [[ -n $served && $served != "$flavour" ]]; then
  kubectl delete kafkatopics --all --namespace kafka --timeout=20s >/dev/null || say "some KafkaTopics did not let go"
  components stop topic-operator
  release_kafkatopics
  kubectl delete -f "$strimzi/$served" --ignore-not-found --timeout=60s >/dev/null
fi
kubectl apply --server-side -f "$strimzi/$flavour" >/dev/null
echo "$flavour" >"$state/strimzi"
# Tried again: a CRD that has no conditions at all yet is an error to it.
wait_for "Strimzi's CRDs are there" kubectl wait --timeout=5s --for=condition=Established -f "$strimzi/$flavour"
# What the API server says that it serves follows its CRDs a moment later, those that went too.
only_flavour_is_served() {
  kubectl get --raw /apis/kafka.strimzi.io | jq -e --arg wanted "$flavour" '[.versions[].version] |
    index($wanted) != null and (map(select(. == ("v1", "v1beta2") and . != $wanted)) | length == 0)'
}
wait_for "Strimzi's API is $flavour" only_flavour_is_served
kafka_objects "$flavour" | kubectl apply --server-side --force-conflicts -f - >/dev/null
lap "Strimzi's objects are applied"

all_brokers() { [[ $(kcat -b "$node_ip:9092" -L -J -m 2 | jq '.brokers | length') == "$brokers" ]]; }
wait_for "Kafka is ready" all_brokers
# One that runs with other settings, or is of another build, is replaced.
echo "$topic_operator $resync" >"$state/topic-operator.new"
cmp -s "$state/topic-operator.new" "$state/topic-operator" || components stop topic-operator
mv "$state/topic-operator.new" "$state/topic-operator"
echo "$resync" >"$state/resync"
components start topic-operator
report() { # OBJECT STATUS: unless it says so already
  local generation observed
  read -r generation observed < <(kubectl get -n kafka "$1" -o 'jsonpath={.metadata.generation} {.status.observedGeneration}{"\n"}')
  [[ $generation == "$observed" ]] ||
    kubectl patch -n kafka "$1" --subresource=status --type=merge -p "$("$2" "$generation")" >/dev/null
}
report kafka/bhf-kafka kafka_status
report "kafkauser/$kafka_user" user_status

wait_for "the node is known" kubectl get node "$node"
kubectl wait --for=condition=Ready "node/$node" --timeout=120s >/dev/null
lap "the node is Ready"
kubectl -n kube-system rollout status deploy/coredns --timeout=120s >/dev/null || {
  kubectl -n kube-system get pods,events >&2
  die "DNS does not get ready"
}
lap "DNS is ready"
parts=(containerd etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy "${kafka_components[@]}" topic-operator)
components check "${parts[@]}"
printf '%s\n' "$project $brokers $flavour $resync" "$kube/bin/kubectl" "${parts[@]}" >"$state/complete.new"
touch -r "$started" "$state/complete.new"
mv "$state/complete.new" "$state/complete"
say "Kafka listens on $node_ip:9092; kubectl and helm are in $kube/bin"
echo "export KUBECONFIG=$KUBECONFIG"
