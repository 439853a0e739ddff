#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the tests: tests/run.sh [ctest arguments], for example tests/run.sh -L vectors
# FORESIGHTKV_PRESET names another preset than host: kernels, sanitize, thread, cuda.
set -euo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR/.. source=cmake/bootstrap.sh
source "$foresightkv_root/cmake/bootstrap.sh"

preset=${FORESIGHTKV_PRESET:-host}
foresightkv_bootstrap tests
foresightkv_build "$preset"
cd "$foresightkv_root"
exec ctest --preset "$preset" --parallel "$(foresightkv_jobs)" "$@"
