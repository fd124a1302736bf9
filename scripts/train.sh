#!/usr/bin/env bash
# Trains one preset on NWB, or on a simulated session of MINUTES minutes, and scores the result.
#
#   NWB=session.nwb scripts/train.sh stream-xs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:?usage: scripts/train.sh PRESET}
cortex=${CORTEX:-build/release/apps/cortex}
cortex_train=${CORTEX_TRAIN:-build/release/apps/cortex-train}
runs=${RUNS:-runs}
recording=${NWB:-}

for program in "$cortex" "$cortex_train"; do
  [[ -x $program ]] || { echo "train.sh: no $program; run: make build" >&2; exit 1; }
done
mkdir -p "$runs"
if [[ -z $recording ]]; then
  minutes=${MINUTES:-10}
  recording=$runs/simulated-${minutes}min.nwb
  [[ -f $recording ]] || "$cortex" simulate --out "$recording" --minutes "$minutes"
fi
name=$(basename "$recording" .nwb)
model=$runs/$preset-$name.safetensors
# shellcheck disable=SC2086  # TRAIN_FLAGS is a list of flags
"$cortex_train" train --preset "$preset" --nwb "$recording" --out "$model" --resume \
  ${TRAIN_FLAGS:-}
"$cortex" replay --nwb "$recording" --model "$model" --speed max
