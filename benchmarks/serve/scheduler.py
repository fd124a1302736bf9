#!/usr/bin/env python3
"""The scheduler beside FIFO, a fixed window and plain EDF, simulated over a grid of loads: the same
seeds give the same numbers on any machine.

    scheduler.py --cortex build/release/apps/cortex --out benchmarks/results/scheduler.json
"""
import argparse
import json
import pathlib
import shlex
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from results import write_results

# Steps are a thousand times shorter than windows: fewer seconds hold as many.
LOADS = {"poisson": 600, "bursty": 600, "sessions": 4}
UTILISATIONS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0)


def simulate(cortex, load, seconds, utilisation, seed):
    command = [cortex, "bench", "scheduler", "--load", load, "--utilisation", str(utilisation),
               "--seconds", f"{seconds:g}", "--ramp", f"{min(5, seconds / 2):g}", "--seed",
               str(seed), "--json"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        sys.exit(f"scheduler.py: {shlex.join(command)}: ended with {ran.returncode}")
    return json.loads(ran.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--scale", type=float, default=1, help="of the simulated seconds")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    results = [simulate(args.cortex, load, args.scale * seconds, utilisation, args.seed)
               for load, seconds in LOADS.items() for utilisation in UTILISATIONS]
    write_results(args.out, "scheduler", "cortex bench scheduler --load LOAD --utilisation U --json",
                  results)


if __name__ == "__main__":
    main()
