#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# check_format.sh CLANG_FORMAT ROOT: every source file is as .clang-format says. Compares what it prints: --dry-run of
# version 14 complains of comments at the end of inline namespaces that it does not change.
set -euo pipefail
format=$1
cd "$2"
broken=0
files=0
while IFS= read -r file; do
  files=$((files + 1))
  if ! "$format" "$file" | cmp -s - "$file"; then
    echo "not as .clang-format says: $file"
    broken=$((broken + 1))
  fi
done < <(find include tests bench examples -name build -prune -o -type f \
  \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' \) -print)
echo "$files files, $broken to be formatted: clang-format-14 -i FILE"
[ "$broken" -eq 0 ] && [ "$files" -gt 0 ]
