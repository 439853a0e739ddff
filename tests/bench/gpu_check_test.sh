#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bench/gpu_check.sh run, over programs that pass, fail, crash, hang and have no cases: each costs itself and nothing else.
# gpu_check_test.sh SCRIPT PEERS: the script and the folder of the Python programs that a pack holds.
set -uo pipefail
script=$1
peers=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

expect() {
  if ! grep -qE -- "$1" <<<"$printed"; then
    echo "not printed: $1"
    failures=$((failures + 1))
  fi
}
expect_status() {
  if [ "$status" -ne "$1" ]; then
    echo "exit status $status, expected $1"
    failures=$((failures + 1))
  fi
}
run() {
  printed=$("$folder/gpu_check.sh" run "$@" 2>&1)
  status=$?
  printf '%s\n---- exit status %d\n' "$printed" "$status"
}

cp "$script" "$folder"
cp -r "$peers" "$folder/peers"
echo "commit 0123456789ab" >"$folder/about.txt"
mkdir "$folder/vectors"
echo "a vector" >"$folder/vectors/one"
tar -czf "$folder/data.tar.gz" -C "$folder" vectors
printf '%s\n' other_test.cpp crash_test.cpp hang_test.cpp empty_test.cpp fail_test.cpp away_test.cpp kernels/select_test.cpp \
  verbs/select_test.cpp cuda/graph_test.cu >"$folder/device_tests.txt"
cat >"$folder/foresightkv_cuda_tests" <<'END'
#!/usr/bin/env bash
if [ "$1" = --device ]; then
  [ -z "${NO_DEVICE:-}" ] || { echo "skipped: no CUDA-capable device is detected"; exit 77; }
  echo "a device of this test"
  exit 0
fi
case "$*" in
  *crash_test*) kill -SEGV $$ ;;
  *hang_test*) sleep 60 ;;
  *empty_test*) echo "[doctest] test cases:  0 |  0 passed" ;;
  *fail_test*) echo "[doctest] test cases:  3 |  2 passed | 1 failed"; exit 1 ;;
  *other_test*) grep -q "a vector" "$FORESIGHTKV_TEST_DATA/vectors/one" && echo "[doctest] test cases:  3 |  3 passed" ;;
  *away_test*) echo "skipped: no memory"; exit 77 ;;
  *) echo "[doctest] test cases:  3 |  3 passed" ;;
esac
END
cat >"$folder/foresightkv_device_bench" <<'END'
#!/usr/bin/env bash
kill -SEGV $$
END
cat >"$folder/paged_engine" <<'END'
#!/usr/bin/env bash
[ "$*" = --device=cuda ] || exit 1
echo "served 40 requests"
END
chmod +x "$folder"/foresightkv_* "$folder/paged_engine"

run --minutes 2 --test-seconds 2 --out "$folder/out"
expect_status 1
expect '^a device of this test$'
expect '^test +verbs/select_test.cpp +passed .* 3 \| 3 passed'
expect '^test +kernels/select_test.cpp +passed'
expect '^test +other_test.cpp +passed'
expect '^test +crash_test.cpp +crashed'
expect '^test +hang_test.cpp +hung +[2-7] s'
expect '^test +empty_test.cpp +no cases'
expect '^test +fail_test.cpp +failed'
expect '^test +away_test.cpp +skipped .*no memory'
expect '^program +paged_engine +passed'
expect '^benchmarks +device.json +(failed|not reached)'
expect '^(5|9) passed, [0-9]+ failed, 1 skipped, [0-9]+ not reached$'
if [ "$(grep -E '^test ' <<<"$printed" | head -n 1 | tr -s ' ' | cut -d ' ' -f 2)" != cuda/graph_test.cu ]; then
  echo "the files that say most do not come first"
  failures=$((failures + 1))
fi
printed=$(cat "$folder/out/results.md")
expect '^commit 0123456789ab'
expect '^\| test \| fail_test.cpp \| failed \| [0-9] \| 3 / 2 passed / 1 failed \|$'

run --only "graph other" --out "$folder/out"
expect_status 0
expect '^test +other_test.cpp +passed'
if grep -qE 'select_test.cpp|paged_engine|benchmarks' <<<"$printed"; then
  echo "--only ran something else"
  failures=$((failures + 1))
fi

NO_DEVICE=1 run
expect_status 77
expect '^no device: no CUDA-capable device is detected$'

run --minutes soon
expect_status 1
expect 'whole number'
[ "$failures" -eq 0 ]
