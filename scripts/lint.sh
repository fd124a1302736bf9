#!/usr/bin/env bash
# clang-tidy with the compile commands of build/debug.
#
#   scripts/lint.sh [changed|all]
#
# LibTorch's sources are left out: clang 14 does not get through its headers in C++20.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

which=${1:-changed}
case $which in
  all) list=(git ls-files -co --exclude-standard --deduplicate -- '*.cpp') ;;
  changed)
    if git rev-parse -q --verify HEAD >/dev/null; then
      list=(bash -c "git diff --name-only --diff-filter=d HEAD -- '*.cpp'
                     git ls-files -o --exclude-standard -- '*.cpp'")
    else
      list=(git ls-files -co --exclude-standard --deduplicate -- '*.cpp')
    fi
    ;;
  *)
    echo "lint.sh: unknown choice '$which' (changed or all)" >&2
    exit 2
    ;;
esac

commands=build/debug/compile_commands.json
[[ -f $commands ]] || { echo "lint.sh: no $commands; run: cmake --preset debug" >&2; exit 2; }
mapfile -t files < <("${list[@]}" | sort -u |
  while read -r file; do grep -qF "/$file\"" "$commands" && echo "$file"; done || true)
if ((${#files[@]} == 0)); then
  echo "lint: nothing to look at"
  exit 0
fi
printf '%s\0' "${files[@]}" |
  xargs -0 -n 1 -P "${JOBS:-$(nproc)}" clang-tidy -p build/debug --quiet 2> >(
    grep -vE '^[0-9]+ warnings? generated|^Suppressed|^Use -' >&2 || true)
echo "lint: ${#files[@]} files clean"
