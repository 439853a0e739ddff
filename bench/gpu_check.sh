#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a machine with a GPU should be asked, in two halves: such a machine may be there for minutes, and without packages.
#
#   bench/gpu_check.sh pack [--archs "90"] [--out FOLDER] [--flashinfer FOLDER]
#     builds every device test and benchmark for these architectures (40 processor minutes the first time; goes on where
#     it was stopped, and ccache helps), strips them and leaves a folder (build/gpu_pack, 40 MiB at most) that needs a
#     driver, libstdc++ and python3. --flashinfer names FlashInfer's include folder.
#
#   FOLDER/gpu_check.sh run [--minutes N] [--only "NAME ..."] [--out FOLDER] [--peers] [--reference FOLDER]
#     runs it within N minutes (9): test files, each in a process of its own, and the paged engine, then benchmarks, then
#     compute-sanitizer. A hang or a crash costs one of them. --only runs those whose names contain one of the words (test
#     files, paged_engine, benchmarks, racecheck, synccheck, memcheck, initcheck). --peers measures the PyTorch programs of
#     bench/peers too, and --reference names a checkout of the published code. Results come as they are made, in --out
#     (gpu_check): results.tsv, check.log, device.json, and results.md at the end. The last line is "N passed, N failed",
#     and how much was not reached.
#     Exit status 77, and one line that says why: no device.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  sed -n '3,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
}
die() {
  echo "gpu_check: $*" >&2
  exit 1
}

# ---- pack ---------------------------------------------------------------------------------------------------------------
readonly most_mib=40

build_all() {
  local archs=$1 build=$2 flashinfer=$3 real
  real=${archs// /-real;}-real
  cmake -S "$foresightkv_root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFORESIGHTKV_CUDA=ON \
    -DFORESIGHTKV_CUDA_TESTS=all -DCMAKE_CUDA_ARCHITECTURES="$real" -DCMAKE_CUDA_FLAGS=--compress-mode=size \
    -DFORESIGHTKV_FLASHINFER="$flashinfer" &&
    cmake --build "$build" --parallel "$(foresightkv_jobs)" --target foresightkv_cuda_tests foresightkv_device_bench \
      paged_engine
}

pack() {
  foresightkv_root=$(cd "$here/.." && pwd)
  local archs=90 out="$foresightkv_root/build/gpu_pack" flashinfer='' build="$foresightkv_root/build/gpu" size
  while [ $# -gt 0 ]; do
    case "$1" in
      --archs) archs=$2 ;;
      --out) out=$2 ;;
      --flashinfer) flashinfer=$2 ;;
      *) usage ;;
    esac
    shift 2
  done
  # shellcheck source-path=SCRIPTDIR/.. source=cmake/bootstrap.sh
  source "$foresightkv_root/cmake/bootstrap.sh"
  foresightkv_bootstrap tests
  foresightkv_bootstrap bench
  command -v nvcc >/dev/null || [ -x "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" ] || die "nvcc is missing: install the CUDA toolkit"
  build_all "$archs" "$build" "$flashinfer" || die "the build failed"

  rm -rf "$out"
  mkdir -p "$out/peers"
  if ! {
    cp "$build/tests/cuda/foresightkv_cuda_tests" "$build/tests/cuda/device_tests.txt" "$here/gpu_check.sh" "$out" &&
      cp "$build"/bench/foresightkv_device_bench "$build"/bench/libbenchmark.so* "$build/examples/paged_engine" "$out" &&
      tar -czf "$out/data.tar.gz" -C "$foresightkv_root/tests/data" vectors &&
      cp "$here"/peers/device/*.py "$out/peers"
  }; then
    die "cannot fill $out"
  fi
  strip "$out"/foresightkv_* "$out"/paged_engine "$out"/lib*
  # The program has to have the cases of every file that it was made of, or they would be missed nowhere.
  cmake -Dprogram="$out/foresightkv_cuda_tests" -Dfiles="$(paste -sd ';' "$out/device_tests.txt")" \
    -P "$foresightkv_root/tests/cuda/check_files.cmake" || die "test files are missing in the program"
  {
    echo "commit $(git -C "$foresightkv_root" describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)"
    echo "architectures $archs"
  } >"$out/about.txt"
  size=$(du -sm "$out" | cut -f 1)
  [ "$size" -le "$most_mib" ] || die "$out has $size MiB, more than $most_mib"
  echo "$out: $size MiB, $(wc -l <"$out/device_tests.txt") test files"
}

# ---- run ----------------------------------------------------------------------------------------------------------------
# The files that say most come first.
readonly first_files="launch_test graph_test select_test observe_test foresight_test evict_test compact_test carry_test
  eviction_test"
readonly sanitized_files="cuda/graph_test.cu verbs/select_test.cpp"

ordered_files() {
  local -a files
  local first file
  mapfile -t files <"$here/device_tests.txt"
  for first in $first_files; do
    for file in "${files[@]}"; do [[ ${file##*/} != "$first".* ]] || echo "$file"; done
  done
  for file in "${files[@]}"; do
    first=${file##*/}
    [[ " ${first_files//$'\n'/ } " == *" ${first%.*} "* ]] || echo "$file"
  done
}

wanted() {
  local word
  [ -n "$only" ] || return 0
  for word in $only; do [[ $1 != *"$word"* ]] || return 0; done
  return 1
}

# result KIND NAME STATUS SECONDS DETAIL
result() {
  printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$out/results.tsv"
  printf '%-11s %-42s %-11s %4s s  %s\n' "$@"
}

# attempt KIND NAME SECONDS COMMAND...: in a process of its own, for so long at most, and not beyond the end of its part.
attempt() {
  local kind=$1 name=$2 limit=$3 left=$((part_end - SECONDS)) begin=$SECONDS status said
  local -a words
  shift 3
  if [ "$left" -lt 3 ]; then
    result "$kind" "$name" "not reached" 0 "no time left"
    return
  fi
  # The shell's own word on a crash goes nowhere: the result says it.
  { timeout -k 5 "$((limit < left ? limit : left))" "$@" </dev/null >"$step_log" 2>&1; } 2>/dev/null
  status=$?
  { printf '\n==== %s %s\n' "$kind" "$name"; cat "$step_log"; } >>"$out/check.log"
  said=$(grep -aE '^\[doctest\] test cases:|^skipped:|ERROR SUMMARY|RACECHECK SUMMARY|FATAL ERROR|error:' "$step_log" | tail -n 1)
  said=${said#"[doctest] test cases:"}
  read -r -a words <<<"$said"
  said=${words[*]}
  case "$status" in
    0) [[ $said =~ ^0\ \| ]] && status="no cases" || status=passed ;;
    77) status=skipped ;;
    124 | 137) [ "$left" -lt "$limit" ] && status="not reached" || status=hung ;;
    *) [ "$status" -gt 128 ] && status="crashed" || status=failed ;;
  esac
  result "$kind" "$name" "$status" "$((SECONDS - begin))" "$said"
}

run_tests() {
  local file
  while read -r file; do
    wanted "$file" && attempt test "$file" "$test_seconds" "$tests" --no-version --no-colors "--source-file=*/tests/$file"
  done < <(ordered_files)
  wanted paged_engine && attempt program paged_engine "$test_seconds" "$here/paged_engine" --device=cuda
}

run_benchmarks() {
  wanted benchmarks || return
  if ! command -v python3 >/dev/null; then
    result benchmarks device.json "not reached" 0 "no python3"
    return
  fi
  attempt benchmarks device.json 600 python3 "$here/peers/side_by_side.py" --bench "$here/foresightkv_device_bench" \
    --out "$out" --limit "$((part_end - SECONDS - 20))" "${peers[@]}"
}

# Under gVisor, whose kernel calls itself 4.4.0, compute-sanitizer finds no driver that it knows.
no_sanitizer() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "no compute-sanitizer"
  elif [ "$(uname -r)" = 4.4.0 ]; then
    echo "compute-sanitizer does not run under gVisor"
  fi
}

run_sanitizers() {
  local tool file reason
  reason=$(no_sanitizer)
  local -a memory
  for tool in racecheck synccheck memcheck; do
    wanted "$tool" || continue
    memory=()
    [ "$tool" != memcheck ] || memory=(--memory=separate) # it has to know where each buffer ends
    for file in $sanitized_files; do
      if [ -n "$reason" ]; then
        result "$tool" "$file" "not reached" 0 "$reason"
      else
        attempt "$tool" "$file" "$sanitizer_seconds" compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" \
          --no-version --no-colors "${memory[@]}" "--source-file=*/tests/$file"
      fi
    done
  done
  # Memory that host and device share is no business of initcheck's: the benchmarks allocate theirs on the device.
  if wanted initcheck && [ -z "$reason" ]; then
    attempt initcheck "select/ours" "$sanitizer_seconds" compute-sanitizer --tool initcheck --error-exitcode 9 \
      "$here/foresightkv_device_bench" "--benchmark_filter=^select/ours/top_k/rows:8/tokens:256/"
  fi
}

write_table() {
  {
    echo "$device"
    echo
    sed 's/$/  /' "$here/about.txt"
    printf '%s, gpu_check.sh run%s\n\n' "$(date -u '+%F %T UTC')" "$arguments"
    echo '| part | name | result | s | what it said |'
    echo '|---|---|---|---|---|'
    awk -F '\t' '{ gsub(/[|]/, "/", $5); print "| " $1 " | " $2 " | " $3 " | " $4 " | " $5 " |" }' "$out/results.tsv"
    if [ -s "$out/device.json" ]; then
      echo
      python3 "$here/peers/report.py" "$out/device.json"
    fi
  } >"$out/results.md"
}

count() { awk -F '\t' -v statuses="$1" 'index(statuses, "," $3 ",") { ++n } END { print n + 0 }' "$out/results.tsv"; }

run() {
  local minutes=9 only='' out="$here/gpu_check" part_end step_log tests="$here/foresightkv_cuda_tests" status whole
  local test_seconds=60 sanitizer_seconds=50 device failed arguments="${*/#/ }"
  local -a peers=(--ours-only)
  while [ $# -gt 0 ]; do
    case "$1" in
      --minutes) minutes=$2; shift 2 ;;
      --only) only=$2; shift 2 ;;
      --out) out=$2; shift 2 ;;
      --test-seconds) test_seconds=$2; shift 2 ;;
      --peers) peers=(); shift ;;
      --reference) peers=(--reference "$2"); shift 2 ;;
      *) usage ;;
    esac
  done
  [[ $minutes =~ ^[1-9][0-9]*$ ]] || die "--minutes takes a whole number above 0"
  [ -x "$tests" ] || die "no programs beside this script: 'bench/gpu_check.sh pack' makes a folder that has them"
  export FORESIGHTKV_TEST_DATA="$out/data" LD_LIBRARY_PATH="$here${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  device=$(timeout -k 5 60 "$tests" --device 2>&1)
  status=$?
  if [ "$status" -ne 0 ]; then
    if [ "$status" -eq 77 ]; then
      echo "no device: ${device#skipped: }"
      exit 77
    fi
    die "${device:-the device does not answer}"
  fi
  mkdir -p "$out" || die "cannot write to $out"
  rm -f "$out"/results.* "$out/check.log"
  : >"$out/results.tsv"
  step_log=$(mktemp)
  # shellcheck disable=SC2064  # the name as it is now
  trap "rm -f '$step_log'" EXIT
  if [ -f "$here/data.tar.gz" ]; then
    python3 -m tarfile -e "$here/data.tar.gz" "$out/data" || die "cannot unpack the tests' data to $out"
  fi
  echo "$device"

  # What a part leaves over is the next one's; ten seconds remain for the table.
  whole=$((minutes * 60 - SECONDS - 10))
  SECONDS=0
  part_end=$((whole * 45 / 100))
  run_tests
  part_end=$((whole * 85 / 100))
  run_benchmarks
  part_end=$whole
  run_sanitizers

  write_table
  failed=$(count ",failed,crashed,hung,no cases,")
  printf '\n%s\n%d passed, %d failed' "$out/results.md" "$(count ",passed,")" "$failed"
  printf ', %d skipped, %d not reached\n' "$(count ",skipped,")" "$(count ",not reached,")"
  [ "$failed" -eq 0 ]
}

case "${1:-}" in
  pack) shift; pack "$@" ;;
  run) shift; run "$@" ;;
  *) usage ;;
esac
