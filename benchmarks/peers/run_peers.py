#!/usr/bin/env python3
"""Times our window decoder and its peers in turns, on the same weights, events and machine.

Every program is started once and then asked in turn, round after round, so that a slow minute of
the machine hits all of them; a ratio is taken within a round. Prints a line a pair and writes JSON.
"""
import argparse
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from results import write_results  # noqa: E402
# Peers that compute in float32 must be the same model as ours.
TOLERANCE = 1e-3
# Long enough for the other programs' threads to stop spinning and sleep.
PAUSE_S = 0.1


class PeerFailed(Exception):
    pass


class Peer:
    def __init__(self, key, command, threads):
        self.key = key
        env = dict(os.environ, OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )
        self.name = self.read().removeprefix("ready ")
        self.turns = []
        self.times = []

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise PeerFailed(f"{self.key}: ended with {self.process.wait()}")
        return line.strip()

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        return [float(word) for word in self.read().split()]

    def turn(self, seconds):
        time.sleep(PAUSE_S)
        guess = self.turns[-1] if self.turns else self.ask("run 1")[0]
        count = max(3, round(seconds * 1e6 / guess))
        # The first brings the weights back into the caches.
        times = self.ask(f"run {count + 1}")[1:]
        self.turns.append(statistics.median(times))
        self.times += times

    def stop(self):
        self.process.stdin.close()
        self.process.wait()

    def summary(self):
        times = sorted(self.times)
        turns = sorted(self.turns)
        return {
            "name": self.name,
            "p50_us": statistics.median(turns),
            "p50_us_min": turns[0],
            "p50_us_max": turns[-1],
            "p99_us": times[max(0, -(-len(times) * 99 // 100) - 1)],
            "min_us": times[0],
            "iterations": len(times),
        }


def relative_error(y, reference):
    return max(abs(a - b) for a, b in zip(y, reference)) / max(abs(b) for b in reference)


def commands(args, folder):
    """Name -> command of every program that is there."""
    build, threads = pathlib.Path(args.build), args.threads
    found = {}
    for precision in ("fp32", "bf16", "int8"):
        for what in ("window", "linears"):
            found[f"cortex {what} {precision}"] = [
                build / "peer_cortex", what, folder, precision, threads]
    node = shutil.which("node")
    if node and (HERE / "node_modules" / "onnxruntime-node").exists():
        for precision in ("fp32", "int8"):
            graph = folder / f"{precision}.onnx"
            subprocess.run(
                [sys.executable, HERE / "export_onnx.py", folder / "model.safetensors",
                 str(args.events), precision, graph], check=True)
            found[f"onnxruntime window {precision}"] = [
                node, HERE / "peer_ort.mjs", graph, folder / "events.bin", threads]
    else:
        print("run_peers: no ONNX Runtime, left out", file=sys.stderr)
    if (build / "peer_torch").exists():
        for precision in ("fp32", "bf16"):
            found[f"libtorch window {precision}"] = [
                build / "peer_torch", folder, precision, threads]
    else:
        print("run_peers: no LibTorch, left out", file=sys.stderr)
    if (build / "peer_onednn").exists():
        for precision in ("fp32", "bf16", "int8"):
            found[f"onednn linears {precision}"] = [
                build / "peer_onednn", folder, precision]
    else:
        print("run_peers: no oneDNN, left out", file=sys.stderr)
    return found


def check_outputs(peers):
    reference = peers["cortex window fp32"].ask("output")
    errors = {}
    for key, peer in peers.items():
        if " window " not in key:
            continue
        errors[key] = relative_error(peer.ask("output"), reference)
        if key.endswith("fp32") and errors[key] > TOLERANCE:
            raise PeerFailed(
                f"{key}: output differs from ours by {errors[key]:.2g} of its size, "
                f"more than {TOLERANCE}: not the same model, so not a peer")
    return errors


def measure(args, preset):
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        subprocess.run(
            [pathlib.Path(args.build) / "peer_cortex", "write", preset, str(args.events), folder],
            check=True)
        peers = {}
        try:
            for key, command in commands(args, folder).items():
                peers[key] = Peer(key, command, args.threads)
            errors = check_outputs(peers)
            for _ in range(args.rounds):
                for peer in peers.values():
                    peer.turn(args.seconds)
        finally:
            for peer in peers.values():
                peer.stop()
    results = []
    for key, peer in peers.items():
        program, what, precision = key.split()
        result = {"preset": preset, "program": program, "what": what, "precision": precision,
                  **peer.summary()}
        if key in errors:
            result["output_error"] = errors[key]
        if program != "cortex":
            ours = peers[f"cortex {what} {precision}"]
            ratios = sorted(a / b for a, b in zip(ours.turns, peer.turns))
            result |= {"ours_p50_us": ours.summary()["p50_us"],
                       "ratio": statistics.median(ratios),
                       "ratio_min": ratios[0], "ratio_max": ratios[-1]}
            label = "" if what == "window" else " (linears alone)"
            print(f"{preset} {precision}{label}: ours {result['ours_p50_us'] / 1e3:.2f} ms, "
                  f"{peer.name} {result['p50_us'] / 1e3:.2f} ms, ratio {result['ratio']:.2f} "
                  f"({result['ratio_min']:.2f} to {result['ratio_max']:.2f})", flush=True)
        results.append(result)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, help="folder of peer_cortex and the others")
    parser.add_argument("--presets", default="cortex-xs,cortex-s")
    parser.add_argument("--events", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one program's turn")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    if args.events < 1 or args.threads < 1 or args.rounds < 1 or args.seconds <= 0:
        parser.error("--events, --threads, --rounds and --seconds are at least 1, or above 0")
    try:
        results = [r for preset in args.presets.split(",") for r in measure(args, preset)]
    except (PeerFailed, subprocess.CalledProcessError) as failure:
        sys.exit(f"run_peers: {failure}")
    command = ["run_peers.py", "--presets", args.presets, "--events", str(args.events), "--threads",
               str(args.threads), "--rounds", str(args.rounds), "--seconds", str(args.seconds)]
    if args.out:
        write_results(args.out, "peers", shlex.join(command), results,
                      threads=args.threads, events=args.events, rounds=args.rounds)


if __name__ == "__main__":
    main()
