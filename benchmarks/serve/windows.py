#!/usr/bin/env python3
"""Windows over HTTP JSON at fixed concurrency: requests a second and latency.

    windows.py --cortex build/release/apps/cortex --model cortex-s.safetensors \\
               --out benchmarks/results/serve_windows.json
"""
import argparse
import pathlib

from serving import Server, load, say

from results import write_results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex", required=True)
    parser.add_argument("--model", required=True, nargs="+")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--events", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--serve-flags", default="", help="more flags of the server")
    parser.add_argument("--no-verify", action="store_true",
                        help="do not compare the answers: a GPU's bits are not the CPU's")
    args = parser.parse_args()
    results = []
    for model in args.model:
        with Server(args.cortex, model, *args.serve_flags.split()) as server:
            for connections in args.concurrency:
                report = load(args.cortex, "--url", server.url, "--windows", "--connections",
                              connections, "--events", args.events, "--seconds", args.seconds,
                              *([] if args.no_verify else ["--verify", model]), quiet=True)
                results.append({"model": server.what, "concurrency": connections, "load": report})
                say(f"{server.what}, {connections} at once: {report['answered_hz']:.0f}/s, p50 "
                    f"{report['latency_us']['p50'] / 1000:.2f} p99 "
                    f"{report['latency_us']['p99'] / 1000:.2f} ms")
    write_results(args.out, "serve windows", "benchmarks/serve/windows.py "
                  f"--concurrency {' '.join(map(str, args.concurrency))} --events {args.events} "
                  f"--seconds {args.seconds:g}", results)


if __name__ == "__main__":
    main()
