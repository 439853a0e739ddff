#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the benchmarks: bench/run.sh [benchmark arguments], for example --benchmark_filter=select
set -euo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR/.. source=cmake/bootstrap.sh
source "$foresightkv_root/cmake/bootstrap.sh"

foresightkv_bootstrap bench
foresightkv_build bench
exec "$foresightkv_root/build/bench/bench/foresightkv_bench" "$@"
