# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the scripts of this folder: foresightkv_python makes an environment in build/python/venv with the module and
# what it needs for `numpy` or for `hf`, and sets python to its interpreter. The second time it is quick.
: "${foresightkv_root:?is set by the script that sources this file}"
# shellcheck source=../../cmake/bootstrap.sh
source "$foresightkv_root/cmake/bootstrap.sh"

# foresightkv_pip MODULE ARGUMENTS...: pip installs, unless Python already finds the module
foresightkv_pip() {
  local module=$1
  shift
  "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" ||
    "$python" -m pip install --quiet --disable-pip-version-check "$@" ||
    foresightkv_fail "pip could not install $module"
}

# foresightkv_python numpy|hf [arguments of pip...]
foresightkv_python() {
  local folder=$foresightkv_root/build/python/venv
  foresightkv_bootstrap python
  python=$folder/bin/python
  [ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder" || foresightkv_fail "python3 -m venv $folder failed"
  if [ "$1" = hf ]; then
    foresightkv_pip torch torch ${FORESIGHTKV_TORCH_INDEX:+--index-url "$FORESIGHTKV_TORCH_INDEX"}
  fi
  foresightkv_pip nanobind "nanobind>=3.0"
  foresightkv_pip scikit_build_core "scikit-build-core>=0.11"
  foresightkv_pip pytest pytest
  echo "foresightkv: building the Python module" >&2
  # Without isolation, so that what is built stays and the second time only what changed is built.
  "$python" -m pip install --quiet --disable-pip-version-check --no-build-isolation \
    "${@:2}" "$foresightkv_root/examples/python$([ "$1" = hf ] && echo '[hf]')" ||
    foresightkv_fail "the module could not be built"
}
