#!/usr/bin/env bash
# pause.sh PART SECONDS: have a part of the box stand still for a while, like one that hangs.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=box.sh
source "$bed/box.sh"

box_runs || die "it is not up"
pid=$(<"$state/run/$1")
trap 'in_box kill -CONT "$pid"' EXIT
in_box kill -STOP "$pid"
sleep "$2"
