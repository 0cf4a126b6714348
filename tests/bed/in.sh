#!/usr/bin/env bash
# in.sh COMMAND…: run a command inside of the box. Paths must be absolute.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=box.sh
source "$bed/box.sh"

box_runs || die "it is not up"
in_box "$@"
