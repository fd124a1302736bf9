#!/usr/bin/env python3
"""The first request after a server says that it is ready, beside the median of those that follow it
back to back and of those that come after a pause, over several servers started anew.

    first_request.py --cortex build/release/apps/cortex --model cortex-s.safetensors \\
                     --serve-flags "--device cuda:0" --out benchmarks/results/serve_first_request.json
"""
import argparse
import http.client
import json
import pathlib
import random
import statistics
import time
import urllib.parse

from serving import Server, fail, say

from results import write_results

PAUSED = 30  # requests that come after a pause: a machine's cores fall asleep
PAUSE_S = 0.02


def wait_until_ready(connection, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        response.read()
        if response.status == 200:
            return
        time.sleep(0.01)
    fail(f"not ready after {seconds} s")


def decode(connection, rng, events):
    """Milliseconds of one request on an open connection, and the server's own reading of it."""
    spikes = [{"neuron_id": rng.randrange(96), "time_bin": rng.randrange(50), "value": 1}
              for _ in range(events)]
    body = json.dumps({"request_id": "r", "session_id": "s", "events": spikes})
    started = time.perf_counter()
    connection.request("POST", "/decode", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    took = 1000 * (time.perf_counter() - started)
    if "behavior" not in answer:
        fail(f"the answer is {answer}")
    return took, answer["latency_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex", required=True)
    parser.add_argument("--model", required=True, nargs="+")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--events", type=int, default=256)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="after the first")
    parser.add_argument("--serve-flags", default="", help="more flags of the server")
    args = parser.parse_args()
    results = []
    for model in args.model:
        rows = []
        for seed in range(args.servers):
            rng = random.Random(seed)
            with Server(args.cortex, model, *args.serve_flags.split()) as server:
                connection = http.client.HTTPConnection(urllib.parse.urlparse(server.url).netloc)
                wait_until_ready(connection)
                first = decode(connection, rng, args.events)
                later = [decode(connection, rng, args.events) for _ in range(args.requests)]
                paused = []
                for _ in range(PAUSED):
                    time.sleep(PAUSE_S)
                    paused.append(decode(connection, rng, args.events))
                rows.append([(first[i], *(statistics.median(x[i] for x in of)
                                          for of in (later, paused))) for i in (0, 1)])
                connection.close()
                what = server.what
        result = {"model": what, "servers": args.servers, "requests": args.requests}
        for i, clock in enumerate(("client", "server")):
            result[clock] = {"first_ms": [row[i][0] for row in rows],
                             "median_ms": [row[i][1] for row in rows],
                             "paused_ms": [row[i][2] for row in rows],
                             "ratio": statistics.median(row[i][0] / row[i][1] for row in rows)}
        results.append(result)
        say(f"{what}: first / median {result['client']['ratio']:.2f} by the client's clock, "
            f"{result['server']['ratio']:.2f} by the server's; after a pause "
            f"{statistics.median(result['client']['paused_ms']):.2f} and "
            f"{statistics.median(result['server']['paused_ms']):.2f} ms")
    write_results(args.out, "serve first request", f"benchmarks/serve/first_request.py --events "
                  f"{args.events} --servers {args.servers} --requests {args.requests}", results)


if __name__ == "__main__":
    main()
