#!/usr/bin/env bash
# Simulates fresh reaches of the population that the committed model knows, serves the model and
# decodes them in real time. `make demo` builds what this needs.
#
#   SEED=7 DURATION=20 scripts/demo.sh
#
# SEED: of the movement and spikes (default: from the clock, printed). DURATION: seconds to decode.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cortex=${CORTEX:-build/light/apps/cortex}
model=${MODEL:-models/stream-nano.safetensors}
seed=${SEED:-$(($(date +%s) % 1000000000))}
duration=${DURATION:-20}
# The population that models/stream-nano.safetensors was trained on; models/README.md says how.
population=${POPULATION:-1}
units=${UNITS:-96}

fail() {
  echo "demo: $*" >&2
  exit 1
}
[[ -x $cortex ]] || fail "no $cortex; run: make demo"
[[ -f $model ]] || fail "no model at $model"

work=$(mktemp -d)
server=
finish() {
  if [[ -n $server ]]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# One GET without curl, which a fresh machine may lack.
http_get() {
  local port=$1 path=$2
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$path" >&3
  tr -d '\r' <&3
  exec 3>&-
}

minutes=$(awk -v s="$duration" 'BEGIN { m = (s + 5) / 60; print (m < 0.5 ? 0.5 : m) }')
echo "demo: simulating $units units reaching (population $population, SEED=$seed)"
"$cortex" simulate --out "$work/fresh.nwb" --population "$population" --seed "$seed" \
  --units "$units" --minutes "$minutes" >"$work/simulate.log" ||
  fail "simulating failed: $(cat "$work/simulate.log")"

"$cortex" serve --model "$model" --port 0 >"$work/server.log" 2>&1 &
server=$!
url=
for _ in {1..300}; do
  url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$work/server.log" | head -n 1 || true)
  [[ -n $url ]] && break
  kill -0 "$server" 2>/dev/null || fail "the server ended: $(cat "$work/server.log")"
  sleep 0.1
done
[[ -n $url ]] || fail "the server was not ready after 30 s: $(cat "$work/server.log")"
port=${url##*:}
http_get "$port" /ready >"$work/ready"
grep -q '^HTTP/1.1 200 ' "$work/ready" || fail "/ready does not answer 200: $(head -n 1 "$work/ready")"
echo "demo: serving $model on $url, decoding $duration s in real time"

"$cortex" replay --nwb "$work/fresh.nwb" --split all --url "$url" --speed 1 \
  --seconds "$duration" --view || fail "the replay failed"

http_get "$port" /metrics >"$work/metrics"
echo
awk '
  /^cortex_steps_total[{ ]/                   { steps += $NF }
  /^cortex_late_total[{ ]/                    { late += $NF }
  /^cortex_refused_total[{ ]/                 { refused += $NF }
  /^cortex_request_latency_seconds_sum /      { answer = $2 }
  /^cortex_request_latency_seconds_count /    { answers = $2 }
  /^cortex_inference_latency_seconds_sum /    { compute = $2 }
  END {
    if (steps == 0) exit 1
    printf "server     %d steps, %d late, %d refused; frame to answer %.3f ms in the mean, ", \
      steps, late, refused, 1e3 * answer / answers
    printf "%.3f ms of it computing\n", 1e3 * compute / steps
  }' "$work/metrics" || fail "the server counted no steps: $(cat "$work/metrics")"
kill "$server"
stopped=0
wait "$server" || stopped=$?
server=
[[ $stopped == 0 ]] || fail "the server ended with $stopped: $(cat "$work/server.log")"
echo "demo: done"
