#!/usr/bin/env bash
# helm.sh: have helm built, and print where it is. It is a part of what build.sh builds, and wants no box.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

"$project/scripts/needs.sh" go
# shellcheck source=parts.sh
source "$bed/parts.sh"
"$bed/build.sh" kube
echo "$kube/bin/helm"
