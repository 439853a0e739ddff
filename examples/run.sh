#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds evict_trace and runs it: examples/run.sh [trace] [options], for example examples/run.sh --help
# Without a trace in the first place it replays the bundled one, with the bundled judge.
set -euo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR/.. source=cmake/bootstrap.sh
source "$foresightkv_root/cmake/bootstrap.sh"

foresightkv_bootstrap examples
# Where there is a GPU and a compiler for it, evictions run there.
preset=host
if nvidia-smi -L >/dev/null 2>&1 && command -v nvcc >/dev/null; then
  preset=cuda
fi
foresightkv_build "$preset" evict_trace

if [ $# -eq 0 ] || [[ $1 == -* ]]; then
  data="$foresightkv_root/examples/data"
  set -- "$data/smollm2_135m_small.safetensors" --weights "$data/smollm2_135m_judge.safetensors" "$@"
fi
exec "$foresightkv_root/build/$preset/examples/evict_trace" "$@"
