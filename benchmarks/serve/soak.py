#!/usr/bin/env python3
"""An hour of as many sessions as make a share of the measured capacity: every stream is replayed
offline afterwards and compared bit for bit, and the server's memory is watched.

    soak.py --cortex build/release/apps/cortex --model stream-xs.safetensors \\
            --out benchmarks/results/serve_soak.json [--seconds 3600]
"""
import argparse
import pathlib

from serving import MemoryWatch, Server, fail, load, say, sessions_capacity

from results import write_results

MOST_GROWTH = 0.02
# Long enough for a session to catch up with a stall: what has no answer then is lost for good.
DRAIN_S = 60


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate-hz", type=float, default=50, help="steps a second of a session")
    parser.add_argument("--share", type=float, default=0.6, help="of the measured capacity")
    parser.add_argument("--events", type=int, default=32, help="of a step, on average")
    parser.add_argument("--capacity-sessions", type=int, default=64)
    parser.add_argument("--capacity-seconds", type=float, default=20)
    parser.add_argument("--max-sessions", type=int, default=1024)
    parser.add_argument("--serve-flags", default="", help="more flags of the server")
    args = parser.parse_args()
    flags = ["--max-sessions", args.max_sessions, "--max-connections", args.max_sessions + 64,
             *args.serve_flags.split()]
    with Server(args.cortex, args.model, *flags) as server:
        capacity = sessions_capacity(args.cortex, server, args.capacity_sessions,
                                     args.capacity_seconds, args.events)
        sessions = max(1, int(args.share * capacity / args.rate_hz))
        say(f"capacity {capacity:.0f} steps/s: {sessions} sessions at {args.rate_hz:g} Hz make "
            f"{args.share:.0%}, for {args.seconds:g} s")
        if sessions > args.max_sessions:
            fail(f"{sessions} sessions are more than --max-sessions {args.max_sessions}")
        with MemoryWatch(server, args.seconds) as memory:
            report = load(args.cortex, "--url", server.unix, "--sessions", sessions, "--rate",
                          args.rate_hz, "--seconds", args.seconds, "--drain", DRAIN_S, "--events",
                          args.events, "--verify", args.model)
        result = {"model": server.what, "capacity_hz": capacity, "sessions": sessions,
                  "rate_hz": args.rate_hz, "share": args.share, "seconds": args.seconds,
                  "memory": memory.report(), "load": report}
        # Before the server's end, which may fail.
        write_results(args.out, "serve soak",
                      f"benchmarks/serve/soak.py --seconds {args.seconds:g} --share {args.share:g} "
                      f"--rate-hz {args.rate_hz:g}", [result])
    verify, growth = report["verify"], result["memory"]["growth"]
    say(f"{verify['streams']} streams, {verify['steps']} steps verified, {verify['wrong']} wrong; "
        f"memory grew by {growth:.2%}")
    failures = [what for what, failed in (
        ("wrong answers", verify["wrong"]),
        (f"sessions lost: {report.get('lost_because')}", report["lost_ports"]),
        ("steps without an answer", report["lost"] + report["unanswered"]),
        (f"memory grew by more than {MOST_GROWTH:.0%}", growth > MOST_GROWTH)) if failed]
    if failures:
        fail("; ".join(failures))


if __name__ == "__main__":
    main()
