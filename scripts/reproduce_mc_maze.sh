#!/usr/bin/env bash
# Downloads MC_Maze (DANDI 000128) into DATA and compares the decoders on it, beside the published
# 0.48 (ridge) and 0.60 (Cortex-S, one velocity a trial at movement onset, not causal).
#
#   DATA=data/000128 MINUTES=10 CORTEX=build/release/apps/cortex CORTEX_TRAIN=... scripts/reproduce_mc_maze.sh
#
# MINUTES is for each network; API names another archive.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cortex=${CORTEX:-build/release/apps/cortex}
train=${CORTEX_TRAIN:-build/release/apps/cortex-train}
data=${DATA:-data/000128}
out=${RUNS:-runs}/mc_maze
api=()
if [[ -n ${API:-} ]]; then api=(--api "$API"); fi

if ! "$cortex" download --dandiset 000128 --out "$data" --path '*train*.nwb' "${api[@]}"; then
  echo "reproduce-mc-maze: MC_Maze could not be downloaded (above: why). It needs a network and" >&2
  echo "  about 1 GB of disk; what has come so far stays in $data." >&2
  exit 1
fi
file=$(find "$data" -name '*train*.nwb' | sort | head -n 1)
if [[ -z $file ]]; then
  echo "reproduce-mc-maze: no *train*.nwb in $data" >&2
  exit 1
fi
"$cortex" inspect "$file"
if ! "$train" compare --help >/dev/null 2>&1; then
  echo "reproduce-mc-maze: this cortex-train has no 'compare', which makes the table" >&2
  exit 1
fi
mkdir -p "$out"
"$train" compare --nwb "$file" --units held-in --protocol onset --minutes "${MINUTES:-10}" \
  --run "$out" --report "$out/index.html"
echo "published, same protocol: ridge 0.48, Cortex-S 0.60"
