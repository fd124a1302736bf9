#!/usr/bin/env bash
# Installs the engine into an empty folder, builds examples/ against it as a stranger would, and
# compares what they decode with `cortex replay`, digit by digit. 77: nothing to test with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
model=$CORTEX_SOURCE/models/stream-nano.safetensors
export CC=$CORTEX_CC CXX=$CORTEX_CXX
steps=400

"$CORTEX_CMAKE" --install "$CORTEX_BUILD" --prefix "$folder/usr" >"$folder/install.log"
for file in bin/cortex include/cortex/cortex.h; do
  [[ -e $folder/usr/$file ]] || { echo "not installed: $file"; exit 1; }
done
"$CORTEX_CMAKE" -S "$CORTEX_SOURCE/examples" -B "$folder/build" \
  -DCMAKE_PREFIX_PATH="$folder/usr" >"$folder/configure.log" || { cat "$folder/configure.log"; exit 1; }
"$CORTEX_CMAKE" --build "$folder/build" >"$folder/build.log" || { cat "$folder/build.log"; exit 1; }

"$CORTEX_BINARY" simulate --minutes 0.3 --seed 5 --out "$folder/s.nwb" >/dev/null
"$CORTEX_BINARY" replay --nwb "$folder/s.nwb" --model "$model" --speed max --view=never \
  --max-steps "$steps" --split all --out "$folder/replay.csv" --events "$folder/events.csv" >/dev/null
# Columns step and the outputs, behind time, trial and scored.
tail -n +2 "$folder/replay.csv" | cut -d, -f1,5,6 >"$folder/expected.csv"
[[ $(wc -l <"$folder/expected.csv") == "$steps" ]] || { echo "replay wrote too little"; exit 1; }

compare() {
  cmp "$folder/expected.csv" "$folder/$1.csv" || { echo "$1 is not what replay decoded"; exit 1; }
  echo "$1: the $steps steps of replay, digit by digit"
}
for example in decode_c decode_cpp; do
  "$folder/build/$example" "$model" "$folder/events.csv" "$steps" >"$folder/$example.csv"
  compare "$example"
done
if [[ -n ${CORTEX_PYTHON:-} ]]; then
  PYTHONPATH=$CORTEX_BUILD/bindings/python "$CORTEX_PYTHON" "$CORTEX_SOURCE/examples/decode.py" \
    "$model" "$folder/events.csv" "$steps" >"$folder/decode_py.csv"
  compare decode_py
fi
if "$folder/build/decode_c" "$folder/none.safetensors" "$folder/events.csv" 1 2>"$folder/error"; then
  echo "a model that is not there was loaded"
  exit 1
fi
grep -q none.safetensors "$folder/error"

"$CORTEX_CMAKE" -S "$CORTEX_SOURCE/examples" -B "$folder/within" -DCORTEX_SOURCE="$CORTEX_SOURCE" \
  >"$folder/within.log" || { cat "$folder/within.log"; exit 1; }
echo "examples: built within the engine's own tree as well"
