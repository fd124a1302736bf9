#!/usr/bin/env bash
# Measures the CPU engine: the machine's ceilings, decoders, operations and peers, in one run. Writes
# benchmarks/results/cpu_*.json and renders BENCHMARKS.md with its plots from them. Quiet machine!
#
#   scripts/bench.sh [ours|ops|peers|render ...]    default: all
#
# THREADS (the number of cores), SECONDS_EACH (2) and ROUNDS (9) set how long and how wide.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
  -h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
parts=("$@")
((${#parts[@]})) || parts=(ours ops peers render)
for part in "${parts[@]}"; do
  case $part in
    ours | ops | peers | render) ;;
    *)
      echo "bench.sh: unknown part '$part' (ours, ops, peers or render)" >&2
      exit 2
      ;;
  esac
done
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

threads=${THREADS:-$(nproc)}
seconds=${SECONDS_EACH:-2}
rounds=${ROUNDS:-9}
results=benchmarks/results
# Debian's own: python3-onnx is not seen by another one.
python=/usr/bin/python3
[[ -x $python ]] || python=python3

if wanted ours || wanted ops || wanted peers; then
  scripts/install.sh bench
  cmake -Wno-dev --log-level=WARNING --preset light -B build/bench -DCORTEX_BENCHMARKS=ON >/dev/null
  cmake --build build/bench -j "${JOBS:-$(nproc)}"
  mkdir -p "$results"
fi
if wanted ours; then
  "$python" benchmarks/measure.py --cortex build/bench/apps/cortex --out "$results" \
    --threads "$threads" --seconds "$seconds"
fi
if wanted ops; then
  "$python" benchmarks/measure_ops.py --program build/bench/benchmarks/bench_ops \
    --out "$results" --threads "$threads"
fi
if wanted peers; then
  "$python" benchmarks/peers/run_peers.py --build build/bench/benchmarks --threads "$threads" \
    --rounds "$rounds" --out "$results/cpu_peers.json"
fi
if wanted render; then
  "$python" benchmarks/render.py --results "$results" --plots benchmarks/plots --out BENCHMARKS.md
  "$python" benchmarks/render_choosing.py --results "$results" --out docs/choosing.md
fi
