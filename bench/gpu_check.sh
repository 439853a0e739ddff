#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that a machine with a GPU should be asked, in one call of a few minutes:
#   bench/gpu_check.sh [--build FOLDER] [--out FOLDER] [--archs "90"]
# Builds (or takes a folder that was built before: the tests and the benchmarks need no package at run time), runs every
# test on the device, the four tools of compute-sanitizer on a reduced set, and all benchmarks, and prints one table.
# Goes on after a failure. FOLDER/check.log, bench.json and table.txt are left in --out (build/gpu_check).
# The last line is "N passed, N failed"; the exit status tells whether anything failed.
set -uo pipefail
foresightkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$foresightkv_root/build/gpu"
out="$foresightkv_root/build/gpu_check"
archs=90
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --archs) archs=$2; shift 2 ;;
    *) sed -n '3,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
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
    -DCMAKE_CUDA_ARCHITECTURES="$archs" -DFORESIGHTKV_CUDA_TESTS=all &&
    cmake --build "$build" --target foresightkv_cuda_tests foresightkv_device_bench
}

run_tests() { "$tests" --no-version; }

sanitize() { compute-sanitizer --tool "$1" --error-exitcode 9 "$tests" --no-version "--source-file=$reduced"; }

run_benchmarks() {
  "$bench" --benchmark_out="$out/bench.json" --benchmark_out_format=json --benchmark_min_time=0.2 \
    --benchmark_repetitions=3 --benchmark_report_aggregates_only=true
}

# One line per benchmark: median in microseconds, and bytes or FLOP per second where it counts any.
print_table() {
  python3 - "$out/bench.json" <<'PYTHON' | tee "$out/table.txt"
import json, sys
runs = json.load(open(sys.argv[1]))["benchmarks"]
medians = [run for run in runs if run.get("aggregate_name") == "median"]
print(f'{"benchmark":<72}{"us":>12}{"GB/s":>10}{"TFLOP/s":>10}')
for run in medians:
    rate = lambda name, unit: f'{run[name] / unit:>10.1f}' if name in run else f'{"-":>10}'
    name = run["run_name"].replace("/manual_time", "")
    print(f'{name:<72}{run["real_time"]:>12.2f}{rate("bytes", 1e9)}{rate("FLOP", 1e12)}')
sys.exit(0 if medians else 1)
PYTHON
}

date -u '+%F %T UTC'
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm --format=csv,noheader || true
[ -x "$tests" ] && [ -x "$bench" ] || step "build" build_all
step "tests on the device" run_tests
for tool in memcheck racecheck synccheck initcheck; do step "compute-sanitizer $tool" sanitize "$tool"; done
step "benchmarks" run_benchmarks
step "table" print_table

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
