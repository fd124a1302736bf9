#!/usr/bin/env python3
"""What the server adds to the bytes: the identity model beside a bare echo of the same bytes, by
turns of a second in one run; one client, and 64 at half of what the server can do. Each server
sleeps where it has nothing to do, and then another polls instead (docs/realtime.md).

    overhead.py --cortex build/release/apps/cortex --out benchmarks/results/serve_overhead.json
"""
import argparse
import pathlib
import statistics

from serving import Server, load, say, sessions_capacity, windows_capacity

from results import write_results

EVENTS_OF_A_WINDOW = 256
EVENTS_OF_A_STEP = 32
PACED_HZ = 1000  # one client
CLIENTS = 64
# p50 and p99, microseconds, of one client; 64 clients may take three times as long.
TARGETS_US = {"in process": (15, 40), "binary": (30, 80), "http": (70, 150)}
TIMES_AT_HALF_LOAD = 3


def cases(streams, windows):
    """(where, how to reach it, what goes over it)."""
    yield "in process", ["--model", "identity"], "in process"
    yield "binary frames, Unix socket", ["--url", streams.unix, "--wire", "binary"], "binary"
    yield "binary frames, TCP", ["--url", streams.url, "--wire", "binary"], "binary"
    yield "HTTP JSON, 256 events, TCP", ["--url", windows.url, "--windows"], "http"


def run_case(args, where, reach, wire, busy_poll_us, clients, rate_hz):
    is_window = "--windows" in reach
    flags = [*reach, "--echo", "--seconds", args.seconds, "--warmup", 0.5, "--events",
             EVENTS_OF_A_WINDOW if is_window else EVENTS_OF_A_STEP]
    if is_window:
        flags += ["--connections", clients, "--rate", rate_hz, "--arrivals",
                  "clock" if clients == 1 else "poisson"]
    else:
        flags += ["--sessions", clients, "--rate", rate_hz / clients]
    rounds = [load(args.cortex, *flags, quiet=True) for _ in range(args.rounds)]
    target = [t * (1 if clients == 1 else TIMES_AT_HALF_LOAD) for t in TARGETS_US[wire]]
    result = {"where": where, "busy_poll_us": busy_poll_us, "clients": clients, "rate_hz": rate_hz,
              "flags": rounds[0]["flags"]}
    for i, q in enumerate(("p50", "p99")):
        added = [r["added_us"][q] for r in rounds]
        result[q] = {"ours_us": statistics.median(r["latency_us"][q] for r in rounds),
                     "echo_us": statistics.median(r["echo_us"][q] for r in rounds),
                     "added_us": statistics.median(added), "added_least_us": min(added),
                     "added_most_us": max(added), "target_us": target[i]}
    say(f"{where}, polling {busy_poll_us} us, {clients} at {rate_hz:.0f}/s: added p50 "
        f"{result['p50']['added_us']:.1f} of {target[0]}, p99 {result['p99']['added_us']:.1f} of "
        f"{target[1]} us")
    return result


def capacity(args, reach, streams, windows):
    if "--windows" in reach:
        return windows_capacity(args.cortex, windows, CLIENTS, args.seconds, EVENTS_OF_A_WINDOW)
    if "--model" in reach:
        return load(args.cortex, *reach, "--sessions", CLIENTS, "--rate", "max", "--seconds",
                    args.seconds, "--events", EVENTS_OF_A_STEP, quiet=True)["answered_hz"]
    return sessions_capacity(args.cortex, streams, CLIENTS, args.seconds, EVENTS_OF_A_STEP)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=10, help="of one round of one case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy-poll-us", type=int, nargs="+", default=[0, 2000],
                        help="of the servers, one pair after another")
    args = parser.parse_args()
    results = []
    for busy_poll_us in args.busy_poll_us:
        flags = ["--busy-poll-us", busy_poll_us]
        with Server(args.cortex, "identity", "--max-sessions", 2 * CLIENTS, *flags) as streams, \
                Server(args.cortex, "identity-window", *flags) as windows:
            for where, reach, wire in cases(streams, windows):
                if "--url" not in reach and results:
                    continue
                case = (args, where, reach, wire, busy_poll_us)
                results.append(run_case(*case, 1, PACED_HZ))
                half = capacity(args, reach, streams, windows) / 2
                results.append(run_case(*case, CLIENTS, half))
    write_results(args.out, "serve overhead", "benchmarks/serve/overhead.py "
                  f"--seconds {args.seconds:g} --rounds {args.rounds}", results)


if __name__ == "__main__":
    main()
