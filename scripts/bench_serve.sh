#!/usr/bin/env bash
# Measures the server over sockets: what it adds to a bare echo, windows over HTTP, a soak and an
# overload. Writes benchmarks/results/serve_*.json and renders BENCHMARKS.md. Quiet machine! (But for
# `scheduler`, which simulates and writes scheduler.json.)
#
#   scripts/bench_serve.sh [scheduler|overhead|windows|soak|overload|render ...]
#   default: scheduler overhead windows render
#
# SOAK_SECONDS (3600) and OVERLOAD_SECONDS (600, each of four runs) set how long; SOAK_PRESET
# (stream-xs), WINDOW_PRESETS (cortex-s cortex-xs) and PRECISION (int8) set of what: random weights.
# CORTEX names a program that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
  -h | --help)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
parts=("$@")
((${#parts[@]})) || parts=(scheduler overhead windows render)
for part in "${parts[@]}"; do
  case $part in
    scheduler | overhead | windows | soak | overload | render) ;;
    *)
      echo "bench_serve.sh: unknown part '$part' (scheduler, overhead, windows, soak, overload or render)" >&2
      exit 2
      ;;
  esac
done
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

results=benchmarks/results
cortex=${CORTEX:-}
if [[ -z $cortex ]] && [[ ${parts[*]} != render ]]; then
  scripts/install.sh light
  cmake -Wno-dev --log-level=WARNING --preset light >/dev/null
  cmake --build build/light -j "${JOBS:-$(nproc)}"
  cortex=build/light/apps/cortex
fi
mkdir -p "$results"
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
precision=${PRECISION:-int8}
# Random weights of a preset, as a file.
weights() {
  local file=$models/$1.safetensors
  [[ -e $file ]] ||
    "$cortex" bench weights --preset "$1" --precision "$precision" --out "$file" >&2
  echo "$file"
}

soak_preset=${SOAK_PRESET:-stream-xs}
read -r -a window_presets <<<"${WINDOW_PRESETS:-cortex-s cortex-xs}"
if wanted scheduler; then
  python3 benchmarks/serve/scheduler.py --cortex "$cortex" --out "$results/scheduler.json"
fi
if wanted overhead; then
  python3 benchmarks/serve/overhead.py --cortex "$cortex" --out "$results/serve_overhead.json"
fi
if wanted windows; then
  files=()
  for preset in "${window_presets[@]}"; do files+=("$(weights "$preset")"); done
  python3 benchmarks/serve/windows.py --cortex "$cortex" --model "${files[@]}" \
    --out "$results/serve_windows.json"
fi
if wanted overload; then
  python3 benchmarks/serve/overload.py --cortex "$cortex" --seconds "${OVERLOAD_SECONDS:-600}" \
    --window-model "$(weights "${window_presets[-1]}")" --stream-model "$(weights "$soak_preset")" \
    --out "$results/serve_overload.json"
fi
if wanted soak; then
  python3 benchmarks/serve/soak.py --cortex "$cortex" --seconds "${SOAK_SECONDS:-3600}" \
    --model "$(weights "$soak_preset")" --out "$results/serve_soak.json"
fi
if wanted render; then
  python3 benchmarks/render.py --results "$results" --plots benchmarks/plots --out BENCHMARKS.md
fi
