#!/usr/bin/env bash
# Runs every libFuzzer entry point of a build folder for FUZZ_SECONDS each (default 30). Inputs that
# break one are left in the build folder and named.
#
#   FUZZ_SECONDS=600 scripts/fuzz.sh build/fuzz
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=${1:-build/fuzz}
seconds=${FUZZ_SECONDS:-30}
found=0
for fuzzer in "$build"/tests/fuzz/fuzz_*; do
  [[ -f $fuzzer && -x $fuzzer ]] || continue
  found=$((found + 1))
  name=$(basename "$fuzzer")
  work=$build/corpus/$name
  mkdir -p "$work"
  seeds=()
  if [[ -d tests/fuzz/corpus/$name ]]; then seeds=("tests/fuzz/corpus/$name"); fi
  echo "fuzz: $name for $seconds s"
  log=$build/$name.log
  flags=()
  if [[ $name == fuzz_nwb ]]; then flags=(-detect_leaks=0 -malloc_limit_mb=1000000); fi
  if ! "$fuzzer" -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20 -verbosity=0 \
    -print_final_stats=1 "${flags[@]}" -artifact_prefix="$build/$name-" "$work" "${seeds[@]}" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "fuzz: $name failed, see $log" >&2
    exit 1
  fi
  sed -n 's/^stat::number_of_executed_units: */  inputs run: /p' "$log"
done
if ((found == 0)); then
  echo "fuzz: no fuzzers in $build/tests/fuzz" >&2
  exit 1
fi
