#!/usr/bin/env python3
"""Measures the CUDA engine beside PyTorch and Triton on one GPU, in one run, and prints the ratios.

    run.py --build build/cuda [--parts kernels,windows,streams] [--out benchmarks/results] [--quick]
    run.py --build build/cuda --parts sanitizer [--tools memcheck,initcheck,racecheck]

Needs PyTorch with CUDA, and `cortex` and `bench_kernels` built with the CUDA backend. Writes
gpu_kernels.json, gpu_windows.json and gpu_streams.json, each with the digest of src/kernels/cuda
that it was measured with. A ratio is ours over theirs: below 1 ours is faster.

`sanitizer` runs compute-sanitizer's tools over kernels_cuda_test instead, each test by itself
(--jobs of them at once) and with fewer sizes than usual (CORTEX_BRIEF), into gpu_sanitizer.json:
what was run of the same sources before is kept, so that it can be done in parts.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import results  # noqa: E402
import sources  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
# preset, precision, batch
WINDOWS = (("cortex-xs", "bf16", 1), ("cortex-xs", "bf16", 8), ("cortex-xs", "bf16", 32),
           ("cortex-s", "bf16", 1), ("cortex-s", "bf16", 8), ("cortex-s", "bf16", 32),
           ("cortex-s", "int8", 1), ("cortex-s", "int8", 8), ("cortex-s", "int8", 32),
           ("cortex-s", "fp8", 1), ("cortex-s", "fp8", 8), ("cortex-s", "fp8", 32),
           ("cortex-m", "bf16", 1), ("cortex-m", "bf16", 8), ("cortex-m", "bf16", 32),
           ("cortex-m", "int8", 8))
STREAMS = tuple((preset, precision, batch)
                for preset in ("stream-nano", "stream-xs", "stream-s")
                for precision in ("fp32", "bf16", "int8")
                for batch in (1, 16, 128, 1024) if precision != "fp32" or batch <= 16)


def output_of(command, **more):
    ran = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, **more)
    if ran.returncode != 0:
        sys.exit(f"run: {' '.join(map(str, command))}: ended with {ran.returncode}")
    return ran.stdout


def decode(cortex, cases, seconds):
    rows = []
    for preset, precision, batch in cases:
        row = json.loads(output_of([
            cortex, "bench", "decode", "--device", "cuda:0", "--preset", preset, "--precision",
            precision, "--batch", batch, "--seconds", seconds, "--json"]).splitlines()[-1])
        for name in ("benchmark", "machine", "threads", "evict_mb", "seed"):
            row.pop(name, None)
        rows.append(row)
        print(f"{preset} {precision} B {batch}: p50 {row['p50_us']:.1f} us, p99 "
              f"{row['p99_us']:.1f}", flush=True)
    return rows


def peers(script, *flags):
    """Rows and device of a peer's own results file."""
    path = pathlib.Path(f"/tmp/cortex_{script}.json")
    path.unlink(missing_ok=True)
    subprocess.run([sys.executable, str(HERE / script), *map(str, flags), "--out", str(path)],
                   check=True)
    report = json.loads(path.read_text())
    return report["results"], report["device"]


def time_of(row):
    return row.get("cold", row.get("warm", {})).get("us")


SHAPES = {"tokenizer": ("dtype", "D", "E"), "cross-attention": ("B", "H", "L", "E", "density"),
          "norm + linear": ("M", "N", "K")}


def shape_of(row):
    return (row["op"], *(row.get(name) for name in SHAPES[row["op"]]))


def kernels(args):
    ours = json.loads(output_of([args.build / "benchmarks/gpu/bench_kernels", "--seconds",
                                 0.03 if args.quick else 0.1]))["rows"]
    theirs, device = peers("peers_kernels.py", *(() if args.quick else ("--full",)))
    print("\nkernels, us a call in a graph, buffers cold where several sets fit")
    for row in ours:
        # Dense attention is the peer at every density: its mask costs more than it saves.
        at = {(*shape_of(row)[:-1], 1.0) if row["op"] == "cross-attention" else shape_of(row)}
        times = {t["peer"]: time_of(t) for t in theirs
                 if t["op"] in SHAPES and shape_of(t) in at | {shape_of(row)} and time_of(t)
                 and t["peer"] != "F.linear alone"}
        row["peers_us"] = times
        if not times:
            continue
        best = min(times, key=times.get)
        row["ratio"] = time_of(row) / times[best]
        print(f"{' '.join(map(str, shape_of(row)))} {row['peer']}: {time_of(row):.2f}, best peer "
              f"{best} {times[best]:.2f}, ratio {row['ratio']:.2f}")
    save(args, "gpu_kernels.json", "GPU kernels", ours + theirs, device)


def windows(args):
    presets = ["cortex-s"] if args.quick else args.presets.split(",")
    cases = [c for c in WINDOWS if c[0] in presets]
    ours = decode(args.build / "apps/cortex", cases, args.seconds)
    flags = ["--presets", ",".join(dict.fromkeys(c[0] for c in cases))]
    if args.quick or args.modes:
        flags += ["--modes", args.modes or "graph"]
    theirs, device = peers("peers_windows.py", *flags, "--budget", args.budget)
    print("\nwindows of 512 events, us from events in host memory to outputs there")
    for row in ours:
        times = {t["mode"]: t["host"]["us"] for t in theirs
                 if t["model"] == row["model"] and t["B"] == row["batch"] and "host" in t}
        if not times:
            continue
        best = min(times, key=times.get)
        row.update(best_peer=best, peer_us=times[best], ratio=row["p50_us"] / times[best])
        print(f"{row['model']} {row['precision']} B {row['batch']}: {row['p50_us']:.0f}, PyTorch "
              f"bf16 {best} {times[best]:.0f}, ratio {row['ratio']:.2f}")
    save(args, "gpu_windows.json", "GPU windows", ours, device, peers=theirs)


def streams(args):
    cases = [c for c in STREAMS if not args.quick or c[0] == "stream-s"]
    ours = decode(args.build / "apps/cortex", cases, args.seconds)
    save(args, "gpu_streams.json", "GPU streams", ours, {"gpu": ours[0]["backend"]})


SANITIZER_LIMIT = 300  # seconds of a test
SANITIZER_NOTES = [
    "racecheck's findings are at hand-overs by mbarrier, where the writer arrives at the barrier "
    "(with what it expects) after its writes and the reader waits for that phase before its reads, "
    "and at some by a named barrier of a warpgroup or two (window_blocks_worker.cuh add_seen, attend "
    "and send_seen; ragged_attention_sm90.cuh merge_rows), where a __syncwarp before the barrier "
    "changes nothing. The tool's release notes list false positives of both kinds, mended in 2025.4, "
    "2026.1 and 2026.3: https://docs.nvidia.com/compute-sanitizer/ReleaseNotes.",
    f"exit code 124: not ended after {SANITIZER_LIMIT} s."]


def tests_of(binary):
    suite, tests = "", []
    for line in output_of([binary, "--gtest_list_tests"]).splitlines():
        name = line.split("#")[0].strip()
        if line.startswith(" "):
            tests.append(suite + name)
        elif name.endswith("."):
            suite = name
    return tests


def sanitize(binary, tool, test):
    """Row of one test under one tool."""
    began = time.monotonic()
    command = ["timeout", str(SANITIZER_LIMIT), "compute-sanitizer", "--tool", tool,
               "--error-exitcode", "9", str(binary), f"--gtest_filter={test}"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env={**os.environ, "CORTEX_BRIEF": "1"})
    summary = [line.strip("= ") for line in ran.stdout.splitlines() if "SUMMARY" in line]
    row = {"tool": tool, "test": test, "exit_code": ran.returncode,
           "seconds": round(time.monotonic() - began), "summary": "".join(summary[-1:])}
    # The line of the first finding of each kind: where, and in which kernel.
    places = [line.strip("= ") for line in ran.stdout.splitlines() if ": Error: " in line
              or line.startswith("========= Error")]
    if places:
        row["findings"] = sorted(set(places))[:8]
    return row


def sanitizer(args):
    binary = args.build / "tests/kernels/kernels_cuda_test"
    path = args.out / "gpu_sanitizer.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    same = before.get("cuda_sources") == sources.cuda_digest()
    rows = {(r["tool"], r["test"]): r for r in before["results"]} if same else {}
    version = output_of(["compute-sanitizer", "--version"]).splitlines()
    device = {"gpu": results.gpu_names()[0],
              "compute_sanitizer": next((line for line in version if "ersion" in line), "")}
    left = [(tool, test) for tool in args.tools.split(",") for test in tests_of(binary)
            if rows.get((tool, test), {"exit_code": 124})["exit_code"] == 124]
    # A test under a tool keeps one core busy and hardly the device.
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for ran in concurrent.futures.as_completed(
                [pool.submit(sanitize, binary, *one) for one in left]):
            row = ran.result()
            rows[row["tool"], row["test"]] = row
            print(f"{row['tool']} {row['test']}: {row['exit_code']}, {row['seconds']} s, "
                  f"{row['summary']}", flush=True)
            # After every test: a run that is cut off has not been for nothing.
            save(args, path.name, "compute-sanitizer over kernels_cuda_test, each test by itself",
                 [rows[at] for at in sorted(rows)], device, notes=SANITIZER_NOTES)


def save(args, name, benchmark, rows, device, **more):
    args.out.mkdir(parents=True, exist_ok=True)
    results.write_results(args.out / name, benchmark,
                          f"benchmarks/gpu/run.py --build BUILD --parts {args.part} --seconds "
                          f"{args.seconds:g}", rows,
                          device=device, cuda_sources=sources.cuda_digest(), **more)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="build folder")
    parser.add_argument("--parts", default="kernels,windows,streams")
    parser.add_argument("--out", type=pathlib.Path, default=results.ROOT / "benchmarks/results")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one case of ours")
    parser.add_argument("--budget", type=float, default=150, help="seconds of PyTorch's windows")
    parser.add_argument("--presets", default="cortex-xs,cortex-s,cortex-m", help="of windows")
    parser.add_argument("--tools", default="memcheck,initcheck,racecheck", help="of the sanitizer")
    parser.add_argument("--jobs", type=int, default=4, help="tests at once, of the sanitizer")
    parser.add_argument("--modes", help="PyTorch's, for windows; all")
    parser.add_argument("--quick", action="store_true", help="cortex-s, stream-s, one peer mode")
    args = parser.parse_args()
    for args.part in args.parts.split(","):
        {"kernels": kernels, "windows": windows, "streams": streams,
         "sanitizer": sanitizer}[args.part](args)


if __name__ == "__main__":
    main()
