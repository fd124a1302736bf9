#!/usr/bin/env python3
"""Runs `cortex bench` over presets, precisions, threads and batches and writes results files.

    measure.py --cortex build/bench/apps/cortex --out benchmarks/results
"""
import argparse
import itertools
import json
import os
import pathlib
import shlex
import subprocess
import sys

from results import write_results

PRECISIONS = ("fp32", "bf16", "int8")
WINDOWS = ("cortex-xs", "cortex-s")
STREAMS = ("stream-nano", "stream-xs", "stream-s")
# Other traffic between two steps of a rig, so that weights come from far away.
EVICT_MB = (0, 60)
BATCHES = {"cortex-xs": 8, "cortex-s": 8, "stream-nano": 16, "stream-xs": 16, "stream-s": 16}


def decode_cases(threads):
    counts = sorted({1, threads})
    for preset, precision, n in itertools.product(WINDOWS, PRECISIONS, counts):
        yield {"preset": preset, "precision": precision, "threads": n}
    for preset, precision, n, evict in itertools.product(STREAMS, PRECISIONS, counts, EVICT_MB):
        yield {"preset": preset, "precision": precision, "threads": n, "evict": evict}
    for preset, batch in BATCHES.items():
        yield {"preset": preset, "precision": "int8", "threads": threads, "batch": batch}


def run(command):
    ran = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        sys.exit(f"measure: {shlex.join(map(str, command))}: ended with {ran.returncode}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def flags_of(case):
    return [word for name, value in case.items() for word in (f"--{name}", str(value))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of results")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=2.0, help="of one case")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    ceilings = [
        run([args.cortex, "bench", "ceilings", "--threads", n, "--json"])["ceilings"]
        for n in sorted({1, args.threads})
    ]
    write_results(args.out / "cpu_ceilings.json", "ceilings",
                  "cortex bench ceilings --threads N --json", ceilings)

    reports = []
    for case in decode_cases(args.threads):
        report = run([args.cortex, "bench", "decode", *flags_of(case), "--seconds", args.seconds,
                      "--json"])
        del report["machine"], report["benchmark"]
        report["flags"] = shlex.join(flags_of(case))
        print(f"{report['flags']}: p50 {report['p50_us']:.0f} us, floor {report['floor_us']:.0f}",
              flush=True)
        reports.append(report)
    write_results(args.out / "cpu_decode.json", "decode",
                  f"cortex bench decode FLAGS --seconds {args.seconds:g} --json", reports)


if __name__ == "__main__":
    main()
