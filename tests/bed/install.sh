#!/usr/bin/env bash
# install.sh [ARGUMENT…]: have the box run with the image of this tree, and the chart of this tree installed in it. The
# arguments go to `helm upgrade`.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

said=$("$bed/up.sh")
export KUBECONFIG=${said#export KUBECONFIG=}
# shellcheck source=parts.sh
source "$bed/parts.sh"

# The image keeps its name when it changes: what it is made from is what rolls the operator's pods.
"$kube/bin/helm" upgrade --install lazaret "$project/charts/lazaret" --namespace lazaret --create-namespace --wait \
  --set-string "podAnnotations.bed-build=${lazaret##*/}" "$@"
say "its kubeconfig: export KUBECONFIG=$KUBECONFIG"
