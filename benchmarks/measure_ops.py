#!/usr/bin/env python3
"""Runs bench_ops and writes results/cpu_ops.json.

    measure_ops.py --program build/bench/benchmarks/bench_ops --out benchmarks/results
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

from results import write_results

MICROSECONDS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of results")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=0.2, help="at least, of one operation")
    args = parser.parse_args()
    flags = [f"--benchmark_min_time={args.seconds:g}", "--benchmark_format=json"]
    env = dict(os.environ, CORTEX_BENCH_THREADS=str(args.threads))
    ran = subprocess.run([args.program, *flags], stdout=subprocess.PIPE, text=True, env=env)
    if ran.returncode != 0:
        sys.exit(f"measure_ops: {args.program} ended with {ran.returncode}")
    results = []
    for b in json.loads(ran.stdout)["benchmarks"]:
        operation, preset, precision, shape = b["name"].split("/")[:4]
        us = b["real_time"] * MICROSECONDS[b["time_unit"]]
        results.append({
            "operation": operation, "preset": preset, "precision": precision, "shape": shape,
            "us": us, "floor_us": b["floor_us"], "fraction": b["floor_us"] / us,
            "bound": "memory" if b["memory"] else "arithmetic"})
    command = f"CORTEX_BENCH_THREADS={args.threads} bench_ops {' '.join(flags)}"
    write_results(args.out / "cpu_ops.json", "operations", command, results, threads=args.threads)


if __name__ == "__main__":
    main()
