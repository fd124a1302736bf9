#!/usr/bin/env bash
# Trains models/stream-nano.safetensors anew, on simulated data alone, and scores old and new on
# sessions that neither saw. About 12 minutes on two cores.
#
#   scripts/train_demo_model.sh [OUT]
#
# OUT: where the new model goes (default: runs/stream-nano.safetensors).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cortex=${CORTEX:-build/release/apps/cortex}
cortex_train=${CORTEX_TRAIN:-build/release/apps/cortex-train}
out=${1:-runs/stream-nano.safetensors}
population=1
for program in "$cortex" "$cortex_train"; do
  [[ -x $program ]] || { echo "train_demo_model.sh: no $program; run: make build" >&2; exit 1; }
done

work=$(dirname "$out")
mkdir -p "$work"
"$cortex" simulate --out "$work/demo-train.nwb" --population $population --seed 1 --minutes 40
"$cortex_train" train --preset stream-nano --nwb "$work/demo-train.nwb" --out "$out" \
  --iterations 8000 --unit-dropout 0.15 --resume

# Fresh sessions: every trial of them counts, whatever its split.
for seed in 101 102 103 104 105 106; do
  fresh=$work/demo-fresh-$seed.nwb
  "$cortex" simulate --out "$fresh" --population $population --seed $seed --minutes 2 >/dev/null
  echo "session $seed"
  for model in models/stream-nano.safetensors "$out"; do
    echo "  $model $("$cortex_train" evaluate --model "$model" --nwb "$fresh" --split train,val --json |
      tail -n 1 | grep -oE '"r2":[0-9.]+')"
  done
  echo "  ridge, 15 lags $("$cortex_train" ridge --nwb "$work/demo-train.nwb" --eval-nwb "$fresh" \
    --split-val train,val --lags 15 --json | tail -n 1 | grep -oE '"r2":[0-9.]+')"
done
