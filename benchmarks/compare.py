#!/usr/bin/env python3
"""`cortex-train compare` with its folds and models fitted side by side, and its table as results.

    compare.py --cortex-train build/release/apps/cortex-train --work compared --jobs 5 --gpus 1 \
        --recording "center_out_98 (98 units, 640 trials)" --out folds.json --report page.html \
        --folds 5 --models ridge,gru,stream-nano -- --nwb center_out_98.nwb --iterations 3000

What follows `--` goes to `compare`. Each model is fitted in each fold by a process of its own, on the
GPUs in turn; then `compare` itself scores them all. What `--work` holds already is not fitted again.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from results import gpu_names, write_results


def on_gpu(number):
    return {**os.environ, **({} if number is None else {"CUDA_VISIBLE_DEVICES": str(number)})}


def fit(words, gpu):
    begun = time.monotonic()
    ran = subprocess.run(words, stderr=subprocess.PIPE, text=True, env=on_gpu(gpu))
    if ran.returncode != 0:
        raise RuntimeError(f"{shlex.join(words)}: ended with {ran.returncode}: {ran.stderr[-500:]}")
    print(f"{shlex.join(words[-4:])}: {time.monotonic() - begun:.0f} s", flush=True)


def fit_all(args, command):
    """The seconds that it took."""
    # The last named are the largest, as a rule: they begin first.
    jobs = [(m, f) for m in reversed(args.models.split(",")) for f in range(args.folds)]
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(fit, [*command, "--models", m, "--fold", str(f)],
                            i % args.gpus if args.gpus else None)
                for i, (m, f) in enumerate(jobs)]
        for run in concurrent.futures.as_completed(runs):
            run.result()
    return time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cortex-train", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--recording", required=True, help="what the results call it")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--report", type=pathlib.Path, help="HTML page")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of a process")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--models", required=True, help="comma separated, the largest last")
    parser.add_argument("flags", nargs="+", help="of compare, the others")
    args = parser.parse_args()
    command = [args.cortex_train, "compare", *args.flags, "--folds", str(args.folds), "--run",
               str(args.work), "--threads", str(args.threads)]
    fitting = fit_all(args, command)
    page = ["--report", str(args.report)] if args.report else []
    begun = time.monotonic()
    ran = subprocess.run([*command, "--models", args.models, *page, "--json"],
                         stdout=subprocess.PIPE, text=True, env=on_gpu(0 if args.gpus else None))
    if ran.returncode != 0:
        sys.exit(f"compare.py: {shlex.join(command)}: ended with {ran.returncode}")
    report = json.loads(ran.stdout.strip().splitlines()[-1])
    results = report.pop("models")
    shown = [pathlib.Path(f).name if f.endswith(".nwb") else f for f in args.flags]
    shown += ["--folds", str(args.folds), "--models", args.models]
    device = {"device": {"gpu": gpu_names()[0], "count": args.gpus}} if args.gpus else {}
    write_results(args.out, "compare", f"cortex-train compare {shlex.join(shown)} --run RUN",
                  results, **device, recording=args.recording, processes=args.jobs,
                  fitting_s=round(fitting), scoring_s=round(time.monotonic() - begun),
                  comparison=report)


if __name__ == "__main__":
    main()
