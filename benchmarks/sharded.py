#!/usr/bin/env python3
"""Training shared among GPUs: crops a second and memory a rank, of one process and of several ranks.

    cortex simulate --out session.nwb
    sharded.py --cortex-train build/release/apps/cortex-train --nwb session.nwb --gpus 2 \
        --out benchmarks/results/sharded.json

Strong: the ranks share the batch of one process. Weak: the batch grows with them. Times are medians
over the second half of the updates; memory is the most that nvidia-smi saw a GPU use, less what it
used before (--device cpu: the resident set of each rank).
"""
import argparse
import json
import os
import pathlib
import shlex
import socket
import subprocess
import sys
import tempfile
import time

from results import gpu_names, write_results


def gpu_memory():
    """MiB in use, by GPU."""
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True)
    return [int(line) for line in asked.stdout.split()]


def resident(process):
    """MiB that a process has had resident at most."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines()
                 if line.startswith("VmHWM")), 0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command(args, batch, out):
    return [args.cortex_train, "train", "--preset", args.preset, "--nwb", args.nwb, "--out", out,
            "--device", args.device, "--batch", str(batch), "--accumulate", str(args.accumulate),
            "--iterations", str(args.updates), "--split-val", "none", "--select", "last",
            "--checkpoint-every", str(10 * args.updates), "--threads", str(args.threads),
            "--rank-timeout", "120", "--quiet", "--json",
            *(["--bf16"] if args.bf16 else []), *shlex.split(args.more)]


def run(args, ranks, batch):
    """Trains once; what rank 0 reports, with memory by rank."""
    with tempfile.TemporaryDirectory() as folder:
        words = command(args, batch, f"{folder}/model.safetensors")
        shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": str(free_port())}
        on_gpus = args.device != "cpu"
        before = gpu_memory()[:ranks] if on_gpus else [0] * ranks
        processes = []
        for rank in range(ranks):
            env = {**os.environ, **(shared if ranks > 1 else {}), "RANK": str(rank),
                   "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(words, env=env, text=True, stdout=subprocess.PIPE))
        peak = list(before)
        while any(p.poll() is None for p in processes):
            now = gpu_memory()[:ranks] if on_gpus else [resident(p) for p in processes]
            peak = [max(a, b) for a, b in zip(peak, now)]
            time.sleep(0.1)
        said = [p.communicate()[0] for p in processes]
        if any(p.returncode != 0 for p in processes):
            sys.exit(f"sharded: {shlex.join(words)}: ended with {[p.returncode for p in processes]}")
    report = json.loads(said[0].strip().splitlines()[-1])
    return {"ranks": ranks, "batch": batch, "ms": report["median_ms"],
            "crops_per_second": 1000 * batch / report["median_ms"],
            "memory_mib": [a - b for a, b in zip(peak, before)],
            "parameters": report["parameters"]}


def median_of(runs):
    middle = sorted(runs, key=lambda r: r["ms"])[len(runs) // 2]
    return {**middle, "ms_of_runs": [r["ms"] for r in runs]}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cortex-train", required=True)
    parser.add_argument("--nwb", required=True, help="recording to train on")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for ranks over Gloo")
    parser.add_argument("--preset", default="cortex-m")
    parser.add_argument("--batch", type=int, default=8, help="crops an update of one process")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--more", default="", help="further flags of cortex-train train")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()

    cases = {"one": (1, args.batch), "strong": (args.gpus, args.batch),
             "weak": (args.gpus, args.gpus * args.batch)}
    runs = {name: [] for name in cases}
    for _ in range(args.repeats):  # in turn, so that a slow minute meets all of them
        for name, (ranks, batch) in cases.items():
            runs[name].append(run(args, ranks, batch))
    results = {name: median_of(of) for name, of in runs.items()}
    for name in ("strong", "weak"):
        results[name]["speedup"] = (
            results[name]["crops_per_second"] / results["one"]["crops_per_second"])
    for name, row in results.items():
        print(f"{name:6}  {row['ranks']} x  batch {row['batch']:4}  {row['ms']:8.2f} ms  "
              f"{row['crops_per_second']:8.1f} crops/s  {row.get('speedup', 1):.2f} x  "
              f"{max(row['memory_mib'])} MiB a rank")
    if args.out:
        shown = [pathlib.Path(word).name if "/" in word else word for word in sys.argv[1:]]
        write_results(args.out, "sharded", shlex.join(["benchmarks/sharded.py", *shown]), results,
                      preset=args.preset, updates=args.updates, bf16=args.bf16,
                      accumulate=args.accumulate, nwb=pathlib.Path(args.nwb).name,
                      **({"gpus": gpu_names()} if args.device != "cpu" else {}))


if __name__ == "__main__":
    main()
