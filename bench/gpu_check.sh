#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that a machine with a GPU should be asked, in one call:
#   bench/gpu_check.sh [--build FOLDER] [--out FOLDER] [--archs "90"] [--reference FOLDER] [--flashinfer FOLDER]
# Builds (or takes a folder that was built before: the tests and the benchmarks need no package at run time), runs every
# test on the device, the four tools of compute-sanitizer on a reduced set, and all benchmarks, and prints one table.
# --reference names a checkout of the published code (bench/peers/README.md): then the benchmarks run beside all peers,
# which takes up to 8 minutes more. --flashinfer names FlashInfer's include folder, for the build.
# Goes on after a failure. check.log, device.json and table.md are left in --out (build/gpu_check); what device.json
# holds is not measured again. The last line is "N passed, N failed"; the exit status tells whether anything failed.
set -uo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$foresightkv_root/build/gpu"
out="$foresightkv_root/build/gpu_check"
archs=90
flashinfer=
peers=(--ours-only)
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --archs) archs=$2; shift 2 ;;
    --reference) peers=(--reference "$2"); shift 2 ;;
    --flashinfer) flashinfer=$2; shift 2 ;;
    *) sed -n '3,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
  esac
done
mkdir -p "$out"
exec > >(tee "$out/check.log") 2>&1

tests="$build/tests/cuda/foresightkv_cuda_tests"
bench="$build/bench/foresightkv_device_bench"
# One file per kind of kernel: a sanitizer makes a launch hundreds of times slower.
reduced='*/select_test.cpp,*/carry_test.cpp,*/graph_test.cu'

passed=0
failed=0
step() {
  local name=$1
  shift
  printf '\n==== %s\n' "$name"
  if "$@"; then
    passed=$((passed + 1))
  else
    echo "failed: $name"
    failed=$((failed + 1))
  fi
}

build_all() {
  cmake -S "$foresightkv_root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFORESIGHTKV_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$archs" -DFORESIGHTKV_CUDA_TESTS=all \
    -DFORESIGHTKV_FLASHINFER="$flashinfer" &&
    cmake --build "$build" --target foresightkv_cuda_tests foresightkv_device_bench
}

run_tests() { "$tests" --no-version; }

sanitize() { compute-sanitizer --tool "$1" --error-exitcode 9 "$tests" --no-version "--source-file=$reduced"; }

run_benchmarks() {
  python3 "$foresightkv_root/bench/peers/device/side_by_side.py" --bench "$bench" --out "$out" "${peers[@]}"
}

print_table() { python3 "$foresightkv_root/bench/peers/device/report.py" "$out/device.json"; }

date -u '+%F %T UTC'
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm --format=csv,noheader || true
[ -x "$tests" ] && [ -x "$bench" ] || step "build" build_all
step "tests on the device" run_tests
for tool in memcheck racecheck synccheck initcheck; do step "compute-sanitizer $tool" sanitize "$tool"; done
step "benchmarks" run_benchmarks
step "table" print_table

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
