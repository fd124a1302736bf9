#!/usr/bin/env bash
# A client that is not ours talks to a server: curl, Node's ws, wrk, promtool or Prometheus itself.
#
#   independent_client.sh curl|node|wrk|promtool|prometheus SERVER WORK_FOLDER
#
# SERVER prints the line that `cortex serve` prints. Exits 77 where the client is not installed.
set -euo pipefail

client=$1
server=$2
work=$3/$client
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

skip() {
  echo "skipped: $*"
  exit 77
}
fail() {
  echo "failed: $*" >&2
  exit 1
}
need() { command -v "$1" >/dev/null || skip "$1 is not installed (scripts/install.sh check)"; }

need curl
case $client in
  node)
    need node
    [[ -d $here/node_modules/ws ]] || skip "Node's ws is not installed (scripts/install.sh check)"
    ;;
  *) need "$client" ;;
esac
rm -rf "$work/run"
mkdir -p "$work/run"

pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
}
trap cleanup EXIT
: >"$work/run/server.log"  # there before the server has begun
"$server" >"$work/run/server.log" 2>&1 &
pids+=($!)
for _ in $(seq 300); do
  url=$(sed -n 's/^cortex: serving .* on //p' "$work/run/server.log")
  [[ -z $url ]] || break
  sleep 0.1
done
[[ -n $url ]] || fail "the server does not serve: $(cat "$work/run/server.log")"

decode() {
  curl -sS --max-time 30 -H 'Content-Type: application/json' "$url/decode" -d \
    '{"request_id":"r1","session_id":"s1","events":[{"neuron_id":3,"time_bin":0,"value":2}]}'
}

case $client in
  curl)
    [[ $(decode) == '{"request_id":"r1","behavior":[2,0],'* ]] || fail "/decode: $(decode)"
    [[ $(curl -sS -o /dev/null -w '%{http_code}' "$url/ready") == 200 ]] || fail /ready
    [[ $(curl -sS -I "$url/metrics") == *'text/plain; version=0.0.4'* ]] || fail "HEAD /metrics"
    # A body large enough that curl asks first (Expect: 100-continue).
    head -c 2000000 /dev/zero | tr '\0' ' ' >"$work/run/spaces"
    [[ $(curl -sS --max-time 30 --data-binary "@$work/run/spaces" -H 'Content-Type: application/json' \
      "$url/decode") == '{"error":{"code":"invalid_argument"'* ]] || fail "a large body"
    head -c 9000000 /dev/zero >"$work/run/zeros"
    code=$(curl -sS --max-time 30 -o /dev/null -w '%{http_code}' --data-binary "@$work/run/zeros" "$url/decode" || true)
    [[ $code == 413 ]] || fail "a body over the limit: $code"
    # Two tensors in JSON, one in binary behind it.
    json='{"inputs":[{"name":"neuron_id","shape":[1],"datatype":"INT32","data":[3]},{"name":"time_bin","shape":[1],"datatype":"INT32","data":[0]},{"name":"value","shape":[1],"datatype":"INT32","parameters":{"binary_data_size":4}}]}'
    printf '%s\x05\x00\x00\x00' "$json" >"$work/run/infer"
    answer=$(curl -sS --max-time 30 --data-binary "@$work/run/infer" -H 'Content-Type: application/octet-stream' \
      -H "Inference-Header-Content-Length: ${#json}" "$url/v2/models/fake/infer")
    [[ $answer == *'"data":[5,0]'* ]] || fail "infer: $answer"
    ;;
  node)
    timeout 60 node "$here/ws_client.cjs" "${url/http/ws}"
    ;;
  wrk)
    cat >"$work/run/post.lua" <<'LUA'
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"request_id":"r1","session_id":"s1","events":[{"neuron_id":3,"time_bin":0,"value":2}]}'
LUA
    # No more connections than the server's engine queues windows.
    wrk -t 1 -c 4 -d 1s -s "$work/run/post.lua" "$url/decode" >"$work/run/wrk.log" 2>&1 ||
      fail "wrk: $(cat "$work/run/wrk.log")"
    grep -q 'requests in' "$work/run/wrk.log" || fail "wrk: $(cat "$work/run/wrk.log")"
    ! grep -E 'Non-2xx|Socket errors' "$work/run/wrk.log" || fail "wrk: $(cat "$work/run/wrk.log")"
    ;;
  promtool)
    decode >/dev/null
    curl -sS --max-time 30 "$url/metrics" >"$work/run/metrics"
    promtool check metrics <"$work/run/metrics" >"$work/run/lint" 2>&1 ||
      fail "promtool: $(cat "$work/run/lint")"
    [[ ! -s $work/run/lint ]] || fail "promtool: $(cat "$work/run/lint")"
    ;;
  prometheus)
    decode >/dev/null
    cat >"$work/run/prometheus.yml" <<YML
global: {scrape_interval: 1s}
scrape_configs: [{job_name: cortex, static_configs: [{targets: ["${url#http://}"]}]}]
YML
    start() {
      port=$((10000 + RANDOM % 20000))
      prometheus --config.file="$work/run/prometheus.yml" --storage.tsdb.path="$work/run/data" \
        --web.listen-address="127.0.0.1:$port" >"$work/run/prometheus.log" 2>&1 &
      prometheus=$!
      pids+=("$prometheus")
    }
    start
    query() { curl -sS --max-time 10 "http://127.0.0.1:$port/api/v1/query" --data-urlencode "query=$1" 2>/dev/null || true; }
    for _ in $(seq 600); do
      [[ $(query 'up{job="cortex"}') != *',"1"]'* ]] || break
      # It ends where its port is somebody else's.
      kill -0 "$prometheus" 2>/dev/null || start
      sleep 0.1
    done
    [[ $(query 'up{job="cortex"}') == *',"1"]'* ]] || fail "Prometheus does not scrape: $(tail -n 3 "$work/run/prometheus.log")"
    [[ $(query 'cortex_request_latency_seconds_count') == *',"1"]'* ]] || fail "$(query cortex_request_latency_seconds_count)"
    [[ $(query 'histogram_quantile(0.99, cortex_request_latency_seconds_bucket)') == *'"value"'* ]] || fail "no quantile"
    ;;
  *) fail "unknown client $client" ;;
esac
echo "$client: ok"
