#!/usr/bin/env python3
"""More than the server can do, for windows and for sessions, under each policy: what is answered in
time, what is refused, whether any answer is late or wrong, and whether memory stays flat.

    overload.py --cortex build/release/apps/cortex --window-model cortex-xs.safetensors \\
                --stream-model stream-xs.safetensors --out benchmarks/results/serve_overload.json
"""
import argparse
import pathlib

from serving import MemoryWatch, Server, load, say, sessions_capacity, windows_capacity

from results import write_results


def run_windows(args, policy):
    flags = ["--max-connections", args.connections + 64, *policy_flags(policy)]
    with Server(args.cortex, args.window_model, *flags) as server:
        capacity = windows_capacity(args.cortex, server, args.capacity_connections,
                                    args.capacity_seconds, args.window_events)
        with MemoryWatch(server, args.warmup + args.seconds) as memory:
            report = load(args.cortex, "--url", server.unix, "--windows", "--connections",
                          args.connections, "--rate", args.share * capacity, "--deadline-ms",
                          args.deadline_ms, "--events", args.window_events, "--seconds",
                          args.seconds, "--warmup", args.warmup, "--verify", args.window_model)
        what = server.what
    return summary("windows", policy, what, capacity, memory, report)


def run_sessions(args, policy):
    flags = ["--max-sessions", args.max_sessions, "--max-connections", args.max_sessions + 64,
             *policy_flags(policy)]
    with Server(args.cortex, args.stream_model, *flags) as server:
        capacity = sessions_capacity(args.cortex, server, args.capacity_connections,
                                     args.capacity_seconds, args.step_events)
        sessions = max(1, min(args.max_sessions, round(args.share * capacity / args.rate_hz)))
        with MemoryWatch(server, args.warmup + args.seconds) as memory:
            report = load(args.cortex, "--url", server.unix, "--sessions", sessions, "--rate",
                          args.rate_hz, "--deadline-ms", 1000 / args.rate_hz, "--events",
                          args.step_events, "--seconds", args.seconds, "--warmup", args.warmup,
                          "--verify", args.stream_model)
        what = server.what
    result = summary("sessions", policy, what, capacity, memory, report)
    result["sessions_offered"] = sessions
    return result


def policy_flags(policy):
    # Plain FIFO closes nobody for having fallen behind.
    plain = ["--max-behind-s", 0] if policy == "fifo" else []
    return ["--policy", policy, *plain] if policy else []


RUNS = {"windows": run_windows, "sessions": run_sessions}


def summary(kind, policy, what, capacity, memory, report):
    result = {"kind": kind, "policy": policy or "default", "model": what, "capacity_hz": capacity,
              "goodput_fraction": report["goodput_hz"] / capacity,
              "memory": memory.report(), "load": report}
    say(f"{kind}, {result['policy']}: goodput {result['goodput_fraction']:.1%} of "
        f"{capacity:.0f}/s, {report['answered_late']} answered late by the server's clock, "
        f"{report['errors']} {report['refused']}, memory grew by {result['memory']['growth']:.2%}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex", required=True)
    parser.add_argument("--window-model", required=True)
    parser.add_argument("--stream-model", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=600, help="of each run")
    parser.add_argument("--warmup", type=float, default=5)
    parser.add_argument("--share", type=float, default=1.2, help="of the measured capacity")
    parser.add_argument("--policies", default="edf,fifo", help="of the server, comma separated")
    parser.add_argument("--of", choices=RUNS, nargs="+", default=list(RUNS))
    parser.add_argument("--deadline-ms", type=float, default=50, help="of a window")
    parser.add_argument("--rate-hz", type=float, default=50, help="steps a second of a session")
    parser.add_argument("--window-events", type=int, default=256)
    parser.add_argument("--step-events", type=int, default=32)
    parser.add_argument("--connections", type=int, default=256, help="that carry windows")
    parser.add_argument("--capacity-connections", type=int, default=64)
    parser.add_argument("--capacity-seconds", type=float, default=20)
    parser.add_argument("--max-sessions", type=int, default=1024)
    args = parser.parse_args()
    results = []
    for policy in args.policies.split(","):
        for kind in args.of:
            results.append(RUNS[kind](args, policy))
            # Each by itself: a later one that fails takes none of the others with it.
            write_results(args.out, "serve overload",
                          f"benchmarks/serve/overload.py --seconds {args.seconds:g} --share "
                          f"{args.share:g} --deadline-ms {args.deadline_ms:g}", results)


if __name__ == "__main__":
    main()
