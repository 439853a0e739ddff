# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the run scripts: foresightkv_bootstrap makes sure that compiler, CMake and libraries are there. On Debian
# and Ubuntu it installs what is missing (as root, or with a sudo that asks nothing); elsewhere it says what to install.
# The script sets foresightkv_root, the root of the tree, first.
: "${foresightkv_root:?is set by the script that sources this file}"

# true where version $1 is at least $2
foresightkv_at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

foresightkv_compiler_version() {
  local compiler=${CXX:-c++}
  "$compiler" -dumpfullversion -dumpversion 2>/dev/null | head -n 1
}

foresightkv_has_header() {
  # With CMAKE_PREFIX_PATH the libraries may be anywhere: then CMake looks, and complains.
  [ -n "${CMAKE_PREFIX_PATH:-}" ] ||
    printf '#include <%s>\n' "$1" | "${CXX:-c++}" -x c++ -E - >/dev/null 2>&1
}

# One line per missing thing: Debian package, what it is
foresightkv_missing() {
  command -v "${CXX:-c++}" >/dev/null || echo "g++ a C++20 compiler: g++ 12 or clang++ 14, or newer"
  command -v cmake >/dev/null || echo "cmake CMake 3.25 or newer"
  command -v ninja >/dev/null || echo "ninja-build Ninja"
  [ "$1" = python ] || foresightkv_has_header doctest/doctest.h || echo "doctest-dev doctest 2.4.9 or newer"
  foresightkv_has_header nlohmann/json.hpp || echo "nlohmann-json3-dev nlohmann-json 3.11 or newer"
  if [ "$1" = bench ]; then
    foresightkv_has_header benchmark/benchmark.h || echo "libbenchmark-dev Google Benchmark 1.7 or newer"
  fi
  if [ "$1" = python ]; then
    local python=${PYTHON:-python3}
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python3-venv Python 3.9 or newer with venv"
    "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
      echo "python3-dev Python's headers"
  fi
}

# Debian packages that make more possible and are never required: OpenMPI spreads work over processes, clang-format-14
# checks how files are laid out.
foresightkv_optional() {
  if [ "$1" != bench ] && [ "$1" != python ] && ! command -v mpirun >/dev/null; then
    echo libopenmpi-dev
    echo openmpi-bin
  fi
  if [ "$1" = tests ]; then
    echo clang-format-14
  fi
}

foresightkv_apt_install() {
  local -a as_root=()
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || return 1
    as_root=(sudo -n)
  fi
  echo "foresightkv: installing $*" >&2
  "${as_root[@]}" apt-get update -qq >&2 &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
      -o Dpkg::Use-Pty=0 "$@" >&2
}

foresightkv_fail() {
  echo "foresightkv: $*" >&2
  exit 1
}

# foresightkv_bootstrap tests|examples|bench|python
foresightkv_bootstrap() {
  local missing version
  if [ -n "${CXX:-}" ] && ! command -v "$CXX" >/dev/null; then
    foresightkv_fail "CXX names $CXX, which is not there"
  fi
  missing=$(foresightkv_missing "$1")
  if [ -n "$missing" ]; then
    local -a packages optional
    mapfile -t packages < <(cut -d ' ' -f 1 <<<"$missing")
    mapfile -t optional < <(foresightkv_optional "$1")
    command -v ccache >/dev/null || optional+=(ccache)  # makes the next build quick
    foresightkv_apt_install "${packages[@]}" "${optional[@]}" || foresightkv_apt_install "${packages[@]}" || true
    missing=$(foresightkv_missing "$1")
    if [ -n "$missing" ]; then
      foresightkv_fail "please install (Debian, Ubuntu: sudo apt-get install ${packages[*]})" \
        $'\n'"$(cut -d ' ' -f 2- <<<"$missing" | sed 's/^/  - /')"
    fi
  fi

  version=$(cmake --version | sed -n '1s/.* //p')
  foresightkv_at_least "$version" 3.25 ||
    foresightkv_fail "CMake 3.25 or newer is needed, found $version: see https://cmake.org/download"
  version=$(foresightkv_compiler_version)
  if "${CXX:-c++}" --version | grep -qi clang; then
    foresightkv_at_least "$version" 14 || foresightkv_fail "clang++ 14 or newer is needed, found $version: set CXX"
  else
    foresightkv_at_least "$version" 12 || foresightkv_fail "g++ 12 or newer is needed, found $version: set CXX"
  fi
}

# foresightkv_build <preset> [target...]
foresightkv_build() {
  local preset=$1
  shift
  (cd "$foresightkv_root" && cmake --preset "$preset" >&2 &&
    cmake --build --preset "$preset" ${1:+--target "$@"} >&2)
}

foresightkv_jobs() {
  nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2
}
